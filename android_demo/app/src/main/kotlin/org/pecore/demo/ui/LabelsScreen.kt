package org.pecore.demo.ui

import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.FlowRow
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.consumeWindowInsets
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.imePadding
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.lazy.LazyColumn
import androidx.compose.foundation.lazy.items
import androidx.compose.foundation.selection.toggleable
import androidx.compose.material3.Checkbox
import androidx.compose.material3.FilledTonalButton
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedTextField
import androidx.compose.material3.Scaffold
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.remember
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.setValue
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.semantics.Role
import androidx.compose.ui.unit.dp
import org.pecore.demo.Actions
import org.pecore.demo.Screen
import org.pecore.demo.UiState

/** Which of the bundle's labels compete. [initialFilter] is what the search field starts with. */
@Composable
fun LabelsScreen(state: UiState, actions: Actions, initialFilter: String = "") {
    var filter by rememberSaveable { mutableStateOf(initialFilter) }
    val shown = remember(state.labels, filter) { matching(state.labels, filter) }
    val subtitle = "${state.labelsOn} of ${state.labels.size} take part"
    Scaffold(topBar = { BackBar("Labels", subtitle) { actions.show(Screen.CLASSIFY) } }) { space ->
        Column(Modifier.padding(space).consumeWindowInsets(space).imePadding().fillMaxSize()) {
            OutlinedTextField(
                filter,
                { filter = it },
                Modifier.fillMaxWidth().padding(horizontal = 16.dp),
                placeholder = { Text("Filter") },
                singleLine = true,
            )
            FlowRow(
                Modifier.fillMaxWidth().padding(horizontal = 16.dp, vertical = 12.dp),
                Arrangement.spacedBy(12.dp),
                itemVerticalAlignment = Alignment.CenterVertically,
            ) {
                FilledTonalButton({ actions.setLabels(shown, true) }, enabled = shown.isNotEmpty()) { Text("All on") }
                FilledTonalButton({ actions.setLabels(shown, false) }, enabled = shown.isNotEmpty()) { Text("All off") }
                Text(
                    if (filter.isBlank()) "${shown.size} labels" else "${shown.size} shown",
                    style = MaterialTheme.typography.bodySmall,
                    color = MaterialTheme.colorScheme.onSurfaceVariant,
                )
            }
            LazyColumn(Modifier.fillMaxSize()) {
                items(shown, key = { it }) { i ->
                    val on = i !in state.labelsOff
                    Row(
                        Modifier
                            .fillMaxWidth()
                            .toggleable(on, role = Role.Checkbox) { actions.setLabels(listOf(i), it) }
                            .padding(horizontal = 8.dp),
                        verticalAlignment = Alignment.CenterVertically,
                    ) {
                        Checkbox(on, onCheckedChange = null, Modifier.padding(12.dp))
                        Text(state.labels[i], style = MaterialTheme.typography.bodyLarge)
                    }
                }
            }
        }
    }
}

/** Indices of the labels that hold [filter], whatever the case. */
fun matching(labels: List<String>, filter: String): List<Int> =
    labels.indices.filter { labels[it].contains(filter.trim(), ignoreCase = true) }
