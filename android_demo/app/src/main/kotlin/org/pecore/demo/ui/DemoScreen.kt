package org.pecore.demo.ui

import androidx.compose.foundation.layout.Box
import androidx.compose.foundation.layout.WindowInsets
import androidx.compose.foundation.layout.WindowInsetsSides
import androidx.compose.foundation.layout.displayCutout
import androidx.compose.foundation.layout.only
import androidx.compose.foundation.layout.windowInsetsPadding
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.Surface
import androidx.compose.runtime.Composable
import androidx.compose.ui.Modifier
import androidx.compose.ui.graphics.ImageBitmap
import org.pecore.demo.Actions
import org.pecore.demo.Screen
import org.pecore.demo.UiState

/** The whole app: a function of what is known and of the [picture] that was classified last (or the camera's newest). */
@Composable
fun DemoScreen(state: UiState, picture: ImageBitmap?, actions: Actions, thumbnails: Thumbnails) =
    Surface(color = MaterialTheme.colorScheme.background) {
        // Landscape: the camera's hole is at the side, and Material's insets are those of the bars alone.
        Box(Modifier.windowInsetsPadding(WindowInsets.displayCutout.only(WindowInsetsSides.Horizontal))) {
            when (state.screen) {
                Screen.CLASSIFY -> ClassifyScreen(state, picture, actions)
                Screen.SEARCH -> SearchScreen(state, actions, thumbnails)
                Screen.LABELS -> LabelsScreen(state, actions)
                Screen.SELF_TEST -> SelfTestScreen(state, actions)
            }
        }
    }
