package org.pecore.demo.ui

import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Box
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.WindowInsets
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.navigationBars
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.layout.size
import androidx.compose.foundation.layout.windowInsetsPadding
import androidx.compose.foundation.shape.RoundedCornerShape
import androidx.compose.material3.DropdownMenu
import androidx.compose.material3.DropdownMenuItem
import androidx.compose.material3.ExperimentalMaterial3Api
import androidx.compose.material3.Icon
import androidx.compose.material3.IconButton
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.SegmentedButton
import androidx.compose.material3.SegmentedButtonDefaults
import androidx.compose.material3.SingleChoiceSegmentedButtonRow
import androidx.compose.material3.Surface
import androidx.compose.material3.Text
import androidx.compose.material3.TextButton
import androidx.compose.material3.TopAppBar
import androidx.compose.material3.TopAppBarDefaults
import androidx.compose.runtime.Composable
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.remember
import androidx.compose.runtime.setValue
import androidx.compose.ui.Modifier
import androidx.compose.ui.graphics.Color
import androidx.compose.ui.graphics.vector.ImageVector
import androidx.compose.ui.platform.LocalDensity
import androidx.compose.ui.text.style.TextOverflow
import androidx.compose.ui.unit.dp
import androidx.compose.ui.unit.sp

/** A message that stays until its cause is gone. */
@Composable
fun Notice(
    title: String,
    text: String,
    modifier: Modifier = Modifier,
    container: Color = MaterialTheme.colorScheme.tertiaryContainer,
    content: Color = MaterialTheme.colorScheme.onTertiaryContainer,
) = Surface(modifier.fillMaxWidth(), RoundedCornerShape(16.dp), container, content) {
    Column(Modifier.padding(horizontal = 16.dp, vertical = 12.dp), Arrangement.spacedBy(4.dp)) {
        Text(title, style = MaterialTheme.typography.titleSmall)
        Text(text, style = MaterialTheme.typography.bodySmall)
    }
}

@Composable
fun Problem(title: String, text: String, modifier: Modifier = Modifier) =
    Notice(title, text, modifier, MaterialTheme.colorScheme.errorContainer, MaterialTheme.colorScheme.onErrorContainer)

@OptIn(ExperimentalMaterial3Api::class)
@Composable
fun BackBar(title: String, subtitle: String, onBack: () -> Unit) =
    TopAppBar(
        title = {
            Column {
                Text(title, style = MaterialTheme.typography.titleLarge)
                Text(subtitle, style = MaterialTheme.typography.bodySmall, color = MaterialTheme.colorScheme.onSurfaceVariant)
            }
        },
        navigationIcon = { IconButton(onBack) { Icon(Icons.back, "Back") } },
        // Two lines of text, which may be large.
        expandedHeight = with(LocalDensity.current) { maxOf(TopAppBarDefaults.TopAppBarExpandedHeight, 52.sp.toDp()) },
    )

/** A menu behind [anchor]; each entry is a title, a mark where it is the current one, and what it does. */
@Composable
fun Menu(entries: List<MenuEntry>, anchor: @Composable (open: () -> Unit) -> Unit) {
    var open by remember { mutableStateOf(false) }
    Box {
        anchor { open = true }
        DropdownMenu(open, onDismissRequest = { open = false }) {
            entries.forEach { entry ->
                DropdownMenuItem(
                    text = { Text(if (entry.current) "${entry.title}  ✓" else entry.title) },
                    onClick = {
                        open = false
                        entry.act()
                    },
                )
            }
        }
    }
}

data class MenuEntry(val title: String, val current: Boolean = false, val act: () -> Unit)

/** A choice that reads as what is chosen; a plain line where there is nothing else to choose. */
@Composable
fun Choice(chosen: String, all: List<String>, onChoose: (String) -> Unit) =
    if (all.size < 2) {
        Text(chosen, style = MaterialTheme.typography.bodyMedium, maxLines = 1, overflow = TextOverflow.Ellipsis)
    } else {
        Menu(all.map { name -> MenuEntry(name, name == chosen) { onChoose(name) } }) { open ->
            TextButton(open) { Text("$chosen ▾", maxLines = 1, overflow = TextOverflow.Ellipsis) }
        }
    }

/** Which labels compete: the bundle's or a person's own. */
@OptIn(ExperimentalMaterial3Api::class)
@Composable
fun LabelSetSwitch(own: Boolean, onChoose: (Boolean) -> Unit) =
    SingleChoiceSegmentedButtonRow(Modifier.fillMaxWidth()) {
        listOf("Bundle" to false, "Your own" to true).forEachIndexed { i, (name, choice) ->
            SegmentedButton(own == choice, { onChoose(choice) }, SegmentedButtonDefaults.itemShape(i, 2), icon = {}) { Text(name) }
        }
    }

@Composable
fun Labelled(icon: ImageVector, text: String) {
    Icon(icon, null, Modifier.size(20.dp))
    Text(text, Modifier.padding(start = 8.dp))
}

/** Keeps clear of the system's gesture bar, for bars that draw behind it. */
@Composable
fun Modifier.navigationSpace(): Modifier = windowInsetsPadding(WindowInsets.navigationBars)
