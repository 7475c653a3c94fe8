package org.pecore.demo.ui

import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.FlowRow
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.rememberScrollState
import androidx.compose.foundation.shape.RoundedCornerShape
import androidx.compose.foundation.verticalScroll
import androidx.compose.material3.Button
import androidx.compose.material3.FilledTonalButton
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.Scaffold
import androidx.compose.material3.Surface
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.text.font.FontFamily
import androidx.compose.ui.text.font.FontWeight
import androidx.compose.ui.text.style.TextAlign
import androidx.compose.ui.unit.dp
import org.pecore.demo.Actions
import org.pecore.demo.GateLine
import org.pecore.demo.ModelState
import org.pecore.demo.Screen
import org.pecore.demo.SelfTestState
import org.pecore.demo.UiState

@Composable
fun SelfTestScreen(state: UiState, actions: Actions) =
    Scaffold(topBar = { BackBar("Self-test", state.bundle.orEmpty()) { actions.show(Screen.CLASSIFY) } }) { space ->
        Column(Modifier.padding(space).fillMaxSize()) {
            when (val test = state.selfTest) {
                is SelfTestState.Running -> {
                    Centred { Loading(test.what) }
                }

                is SelfTestState.Idle -> {
                    Centred { Introduction(state, actions) }
                }

                is SelfTestState.Failed -> {
                    Centred {
                        Problem("The self-test could not run", test.sentence)
                        Button(actions::runSelfTest) { Text("Try again") }
                    }
                }

                is SelfTestState.Done -> {
                    Report(test, state.synthetic, actions)
                }
            }
        }
    }

@Composable
private fun Introduction(state: UiState, actions: Actions) {
    Text(
        "Runs the bundle's golden vectors on this phone's GPU and CPU and compares the embeddings with PyTorch's.",
        style = MaterialTheme.typography.bodyLarge,
    )
    val ready = state.model is ModelState.Ready || state.model is ModelState.Failed
    Button(actions::runSelfTest, enabled = state.bundle != null && ready) { Text("Run the self-test") }
}

@Composable
private fun Report(test: SelfTestState.Done, synthetic: Boolean, actions: Actions) =
    Column(
        Modifier.fillMaxSize().verticalScroll(rememberScrollState()).padding(16.dp),
        Arrangement.spacedBy(12.dp),
    ) {
        val colours = MaterialTheme.colorScheme
        if (test.passed) {
            Notice(
                "Passed",
                "Every gate that ran is within the bundle's thresholds.",
                Modifier,
                colours.primaryContainer,
                colours.onPrimaryContainer,
            )
        } else {
            Problem("Failed", "This phone does not compute what PyTorch computes, or a backend refused: see below.")
        }
        if (synthetic) Notice("Synthetic weights", "The comparison holds; the model classifies nothing.")
        test.gates.forEach { Gate(it) }
        FlowRow(horizontalArrangement = Arrangement.spacedBy(12.dp)) {
            Button(actions::shareReport) { Text("Share the report") }
            FilledTonalButton(actions::runSelfTest) { Text("Run again") }
        }
    }

@Composable
private fun Gate(gate: GateLine) =
    Surface(Modifier.fillMaxWidth(), RoundedCornerShape(16.dp), MaterialTheme.colorScheme.surfaceContainer) {
        Column(Modifier.padding(16.dp), Arrangement.spacedBy(6.dp)) {
            Row(Modifier.fillMaxWidth(), Arrangement.SpaceBetween, Alignment.CenterVertically) {
                Text(gate.backend, Modifier.weight(1f), style = MaterialTheme.typography.titleMedium)
                Text(
                    gate.outcome,
                    color = if (gate.outcome == "failed") MaterialTheme.colorScheme.error else MaterialTheme.colorScheme.primary,
                    fontWeight = FontWeight.SemiBold,
                )
            }
            val quiet = MaterialTheme.colorScheme.onSurfaceVariant
            Text(gate.file, style = MaterialTheme.typography.bodySmall, color = quiet)
            gate.figures.forEach { (name, value) ->
                Row(Modifier.fillMaxWidth(), Arrangement.SpaceBetween) {
                    Text(name, style = MaterialTheme.typography.bodyMedium)
                    Text(
                        value,
                        Modifier.padding(start = 12.dp),
                        style = MaterialTheme.typography.bodyMedium,
                        fontFamily = FontFamily.Monospace,
                        textAlign = TextAlign.End,
                    )
                }
            }
            if (gate.detail.isNotEmpty()) Text(gate.detail, style = MaterialTheme.typography.bodySmall, color = quiet)
        }
    }
