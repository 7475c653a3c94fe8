package org.pecore.demo.ui

import androidx.compose.foundation.isSystemInDarkTheme
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.darkColorScheme
import androidx.compose.material3.lightColorScheme
import androidx.compose.runtime.Composable
import androidx.compose.ui.graphics.Color

private val light =
    lightColorScheme(
        primary = Color(0xFF006A62),
        onPrimary = Color(0xFFFFFFFF),
        primaryContainer = Color(0xFF9EF2E6),
        onPrimaryContainer = Color(0xFF00201D),
        secondary = Color(0xFF4A635F),
        onSecondary = Color(0xFFFFFFFF),
        secondaryContainer = Color(0xFFCCE8E2),
        onSecondaryContainer = Color(0xFF05201C),
        tertiary = Color(0xFF7A5900),
        tertiaryContainer = Color(0xFFFFDEA4),
        onTertiaryContainer = Color(0xFF261900),
        background = Color(0xFFF6FAF8),
        onBackground = Color(0xFF171D1B),
        surface = Color(0xFFF6FAF8),
        onSurface = Color(0xFF171D1B),
        surfaceVariant = Color(0xFFDAE5E1),
        onSurfaceVariant = Color(0xFF3F4947),
        surfaceContainer = Color(0xFFEAEFED),
        surfaceContainerHigh = Color(0xFFE4E9E7),
        surfaceContainerHighest = Color(0xFFDEE4E1),
        surfaceContainerLow = Color(0xFFF0F5F2),
        outline = Color(0xFF6F7977),
        outlineVariant = Color(0xFFBEC9C6),
    )

private val dark =
    darkColorScheme(
        primary = Color(0xFF82D5CA),
        onPrimary = Color(0xFF003732),
        primaryContainer = Color(0xFF005049),
        onPrimaryContainer = Color(0xFF9EF2E6),
        secondary = Color(0xFFB1CCC6),
        onSecondary = Color(0xFF1C3531),
        secondaryContainer = Color(0xFF334B47),
        onSecondaryContainer = Color(0xFFCCE8E2),
        tertiary = Color(0xFFF1BF48),
        tertiaryContainer = Color(0xFF5C4300),
        onTertiaryContainer = Color(0xFFFFDEA4),
        background = Color(0xFF0E1513),
        onBackground = Color(0xFFDEE4E1),
        surface = Color(0xFF0E1513),
        onSurface = Color(0xFFDEE4E1),
        surfaceVariant = Color(0xFF3F4947),
        onSurfaceVariant = Color(0xFFBEC9C6),
        surfaceContainer = Color(0xFF1B211F),
        surfaceContainerHigh = Color(0xFF252B2A),
        surfaceContainerHighest = Color(0xFF303634),
        surfaceContainerLow = Color(0xFF171D1B),
        outline = Color(0xFF899390),
        outlineVariant = Color(0xFF3F4947),
    )

/** Typography comes from the theme around it: the device's own on a phone, a font file in the tests' pictures. */
@Composable
fun DemoTheme(darkTheme: Boolean = isSystemInDarkTheme(), content: @Composable () -> Unit) =
    MaterialTheme(
        colorScheme = if (darkTheme) dark else light,
        typography = MaterialTheme.typography,
        content = content,
    )
