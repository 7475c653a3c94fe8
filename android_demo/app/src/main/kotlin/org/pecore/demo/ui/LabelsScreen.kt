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
import androidx.compose.foundation.text.KeyboardActions
import androidx.compose.foundation.text.KeyboardOptions
import androidx.compose.material3.Checkbox
import androidx.compose.material3.FilledTonalButton
import androidx.compose.material3.Icon
import androidx.compose.material3.IconButton
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedTextField
import androidx.compose.material3.Scaffold
import androidx.compose.material3.Text
import androidx.compose.material3.TextButton
import androidx.compose.runtime.Composable
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.remember
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.setValue
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.semantics.Role
import androidx.compose.ui.text.input.ImeAction
import androidx.compose.ui.unit.dp
import org.pecore.core.OwnLabels
import org.pecore.demo.Actions
import org.pecore.demo.Screen
import org.pecore.demo.UiState

/**
 * Which labels compete, and a person's own. [initialFilter] is what the search field starts with, [initialEdited] the label that
 * is being edited.
 */
@Composable
fun LabelsScreen(state: UiState, actions: Actions, initialFilter: String = "", initialEdited: String? = null) {
    var filter by rememberSaveable { mutableStateOf(initialFilter) }
    var edited by rememberSaveable { mutableStateOf(initialEdited) }
    val shown = remember(state.labels, filter) { matching(state.labels, filter) }
    val subtitle = "${state.labelsOn} of ${state.labels.size} take part"
    Scaffold(topBar = { BackBar("Labels", subtitle) { actions.show(Screen.CLASSIFY) } }) { space ->
        LazyColumn(Modifier.padding(space).consumeWindowInsets(space).imePadding().fillMaxSize()) {
            item {
                Column(Modifier.padding(horizontal = 16.dp), Arrangement.spacedBy(12.dp)) {
                    if (state.bundleLabels) LabelSetSwitch(state.ownChosen, actions::chooseLabels)
                    state.labelsProblem?.let { Problem("Your own labels can't be used", it) }
                    if (state.ownChosen) OwnLabelsEditor(state.own, actions) else Filter(filter) { filter = it }
                    Switches(shown, filter.isBlank(), actions)
                }
            }
            items(shown, key = { if (state.ownChosen) state.labels[it] else it }) { i ->
                val name = state.labels[i]
                if (state.ownChosen && edited == name) {
                    EditedLabel(name, state.own, actions) { edited = null }
                } else {
                    LabelRow(i, state, actions) { edited = name }
                }
            }
        }
    }
}

@Composable
private fun Filter(filter: String, onChange: (String) -> Unit) =
    OutlinedTextField(filter, onChange, Modifier.fillMaxWidth(), placeholder = { Text("Filter") }, singleLine = true)

@Composable
private fun OwnLabelsEditor(own: OwnLabels, actions: Actions) {
    var name by rememberSaveable { mutableStateOf("") }
    var template by rememberSaveable(own.template) { mutableStateOf(own.template) }
    TypedLine("New label", name, { name = it }, "Add", name.isNotBlank() && !own.has(name), twice(own, name)) {
        actions.addLabel(name)
        name = ""
    }
    TypedLine("Template, with {} for the label", template, { template = it }, "Use", template != own.template) {
        actions.setTemplate(template)
    }
}

/** What is said about a label that is one of [own] already. */
private fun twice(own: OwnLabels, name: String): String? = if (own.has(name)) "It is in the list already." else null

/** A label's row while its words and its place are changed. */
@Composable
private fun EditedLabel(name: String, own: OwnLabels, actions: Actions, onDone: () -> Unit) {
    var text by rememberSaveable(name) { mutableStateOf(name) }
    val others = own.remove(name)
    val at = own.names.indexOf(name)
    Column(Modifier.padding(horizontal = 16.dp)) {
        TypedLine("Label", text, { text = it }, "Keep", text.isNotBlank() && !others.has(text), twice(others, text)) {
            actions.renameLabel(name, text)
            onDone()
        }
        FlowRow(Modifier.fillMaxWidth(), Arrangement.End) {
            TextButton({ actions.moveLabel(name, -1) }, enabled = at > 0) { Text("Move up") }
            TextButton({ actions.moveLabel(name, 1) }, enabled = at < own.names.lastIndex) { Text("Move down") }
            TextButton(onDone) { Text("Cancel") }
        }
    }
}

@Composable
private fun TypedLine(
    title: String,
    text: String,
    onChange: (String) -> Unit,
    verb: String,
    enabled: Boolean,
    problem: String? = null,
    onDone: () -> Unit,
) = OutlinedTextField(
    text,
    onChange,
    Modifier.fillMaxWidth(),
    label = { Text(title) },
    trailingIcon = { TextButton(onDone, enabled = enabled) { Text(verb) } },
    supportingText = problem?.let { { Text(it) } },
    singleLine = true,
    keyboardOptions = KeyboardOptions(imeAction = ImeAction.Done),
    keyboardActions = KeyboardActions { if (enabled) onDone() },
)

@Composable
private fun Switches(shown: List<Int>, all: Boolean, actions: Actions) =
    FlowRow(
        Modifier.fillMaxWidth().padding(bottom = 12.dp),
        Arrangement.spacedBy(12.dp),
        itemVerticalAlignment = Alignment.CenterVertically,
    ) {
        FilledTonalButton({ actions.setLabels(shown, true) }, enabled = shown.isNotEmpty()) { Text("All on") }
        FilledTonalButton({ actions.setLabels(shown, false) }, enabled = shown.isNotEmpty()) { Text("All off") }
        Text(
            if (all) "${shown.size} labels" else "${shown.size} shown",
            style = MaterialTheme.typography.bodySmall,
            color = MaterialTheme.colorScheme.onSurfaceVariant,
        )
    }

@Composable
private fun LabelRow(index: Int, state: UiState, actions: Actions, onEdit: () -> Unit) {
    val on = index !in state.labelsOff
    val name = state.labels[index]
    Row(
        Modifier
            .fillMaxWidth()
            .toggleable(on, role = Role.Checkbox) { actions.setLabels(listOf(index), it) }
            .padding(horizontal = 8.dp),
        verticalAlignment = Alignment.CenterVertically,
    ) {
        Checkbox(on, onCheckedChange = null, Modifier.padding(12.dp))
        Text(name, Modifier.weight(1f), style = MaterialTheme.typography.bodyLarge)
        if (state.ownChosen) {
            IconButton(onEdit) { Icon(Icons.edit, "Edit $name") }
            IconButton({ actions.removeLabel(name) }) { Icon(Icons.remove, "Remove $name") }
        }
    }
}

/** Indices of the labels that hold [filter], whatever the case. */
fun matching(labels: List<String>, filter: String): List<Int> =
    labels.indices.filter { labels[it].contains(filter.trim(), ignoreCase = true) }
