package org.pecore.demo.ui

import androidx.compose.foundation.Image
import androidx.compose.foundation.background
import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Box
import androidx.compose.foundation.layout.BoxWithConstraints
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.ColumnScope
import androidx.compose.foundation.layout.FlowRow
import androidx.compose.foundation.layout.PaddingValues
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.aspectRatio
import androidx.compose.foundation.layout.fillMaxHeight
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.height
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.rememberScrollState
import androidx.compose.foundation.shape.RoundedCornerShape
import androidx.compose.foundation.text.selection.SelectionContainer
import androidx.compose.foundation.verticalScroll
import androidx.compose.material3.Button
import androidx.compose.material3.CircularProgressIndicator
import androidx.compose.material3.ExperimentalMaterial3Api
import androidx.compose.material3.FilledTonalButton
import androidx.compose.material3.Icon
import androidx.compose.material3.IconButton
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.Scaffold
import androidx.compose.material3.SegmentedButton
import androidx.compose.material3.SegmentedButtonDefaults
import androidx.compose.material3.SingleChoiceSegmentedButtonRow
import androidx.compose.material3.Surface
import androidx.compose.material3.Text
import androidx.compose.material3.TopAppBar
import androidx.compose.runtime.Composable
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.draw.clip
import androidx.compose.ui.graphics.ImageBitmap
import androidx.compose.ui.layout.ContentScale
import androidx.compose.ui.semantics.semantics
import androidx.compose.ui.text.font.FontFamily
import androidx.compose.ui.text.font.FontWeight
import androidx.compose.ui.text.style.TextAlign
import androidx.compose.ui.text.style.TextOverflow
import androidx.compose.ui.unit.dp
import org.pecore.demo.Actions
import org.pecore.demo.Guess
import org.pecore.demo.Input
import org.pecore.demo.ModelState
import org.pecore.demo.Screen
import org.pecore.demo.Timing
import org.pecore.demo.UiState
import org.pecore.demo.model.Compute
import java.util.Locale

@Composable
fun ClassifyScreen(state: UiState, picture: ImageBitmap?, actions: Actions) =
    Scaffold(
        topBar = { Bar(state, actions) },
        bottomBar = { if (state.model is ModelState.Ready) Sources(state, actions) },
    ) { space ->
        BoxWithConstraints(Modifier.padding(space).fillMaxSize()) {
            when (val model = state.model) {
                is ModelState.NoBundle -> {
                    NoBundle(model.command, actions)
                }

                is ModelState.Loading -> {
                    Centred { Loading(model.what) }
                }

                is ModelState.Failed -> {
                    Centred {
                        Problem("This bundle can't be used", model.sentence)
                        Button(actions::reload) { Text("Try again") }
                    }
                }

                is ModelState.Ready -> {
                    if (maxWidth > maxHeight) {
                        Row(Modifier.padding(horizontal = 16.dp), Arrangement.spacedBy(16.dp)) {
                            Picture(state, picture, Modifier.weight(1f).fillMaxHeight().padding(bottom = 12.dp))
                            Column(Modifier.weight(1f).verticalScroll(rememberScrollState()), Arrangement.spacedBy(12.dp)) {
                                Answer(state, model, actions)
                            }
                        }
                    } else {
                        Column(
                            Modifier.verticalScroll(rememberScrollState()).padding(start = 16.dp, end = 16.dp, bottom = 16.dp),
                            Arrangement.spacedBy(12.dp),
                        ) {
                            Picture(state, picture, Modifier.fillMaxWidth().aspectRatio(shape(picture)))
                            Answer(state, model, actions)
                        }
                    }
                }
            }
        }
    }

@OptIn(ExperimentalMaterial3Api::class)
@Composable
private fun Bar(state: UiState, actions: Actions) =
    TopAppBar(
        title = { state.bundle?.let { Choice(it, state.bundles, actions::chooseBundle) } ?: Text("pecore") },
        actions = {
            val entries =
                state.files.map { file -> MenuEntry(file, file == state.file) { actions.chooseFile(file) } } +
                    MenuEntry("Labels") { actions.show(Screen.LABELS) } +
                    MenuEntry("Self-test") { actions.show(Screen.SELF_TEST) } +
                    MenuEntry("Look for bundles again", act = actions::reload)
            IconButton({ actions.show(Screen.SEARCH) }) { Icon(Icons.search, "Search your photographs") }
            Menu(entries) { open -> IconButton(open) { Icon(Icons.more, "Menu") } }
        },
    )

@Composable
private fun ColumnScope.Answer(state: UiState, model: ModelState.Ready, actions: Actions) {
    FlowRow(Modifier.fillMaxWidth(), Arrangement.SpaceBetween, Arrangement.spacedBy(8.dp), Alignment.CenterVertically) {
        ComputeSwitch(state.wanted, actions::chooseCompute)
        state.timing?.let { Speed(it) }
    }
    model.refusal?.let { Problem("The GPU refused this model: it runs on the CPU", it) }
    state.inputProblem?.let { Problem("That did not work", it) }
    if (state.synthetic) Notice("Synthetic weights", "This model proves the conversion and classifies nothing.")
    if (state.bundleLabels) LabelSetSwitch(state.ownChosen, actions::chooseLabels)
    state.labelsProblem?.let { Problem("Your own labels can't be used", it) }
    if (state.labelsBusy) {
        Notice("Your own labels", "The text tower is reading them.")
    } else if (state.labelsOn == 0) {
        Notice("No label is switched on", "Switch some on, or type your own, under Labels in the menu.")
    } else {
        state.top.forEach { GuessBar(it) }
    }
    if (state.top.isEmpty() && state.input == Input.NONE) {
        Text(
            "Pick a photo or start the camera: the model compares it with ${state.labelsOn} labels.",
            style = MaterialTheme.typography.bodyMedium,
            color = MaterialTheme.colorScheme.onSurfaceVariant,
        )
    }
}

@Composable
private fun Picture(state: UiState, picture: ImageBitmap?, modifier: Modifier) =
    Box(modifier.clip(RoundedCornerShape(24.dp)).background(MaterialTheme.colorScheme.surfaceContainerHigh)) {
        if (picture == null) {
            Icon(Icons.photo, null, Modifier.align(Alignment.Center), MaterialTheme.colorScheme.outline)
        } else {
            Image(picture, "The picture that is classified", Modifier.fillMaxSize(), contentScale = ContentScale.Fit)
        }
        (state.model as? ModelState.Ready)?.let { Chip("Runs on ${it.runsOn.title}", Modifier.align(Alignment.BottomStart)) }
    }

/** The picture's own shape, within what leaves room for the answer. */
private fun shape(picture: ImageBitmap?): Float = picture?.let { (it.width.toFloat() / it.height).coerceIn(1f, 1.8f) } ?: 1.4f

@Composable
private fun Chip(text: String, modifier: Modifier) =
    Surface(
        modifier.padding(12.dp),
        RoundedCornerShape(50),
        MaterialTheme.colorScheme.primaryContainer,
        MaterialTheme.colorScheme.onPrimaryContainer,
    ) {
        Text(text, Modifier.padding(horizontal = 12.dp, vertical = 6.dp), style = MaterialTheme.typography.labelLarge)
    }

private val computes = listOf("GPU" to Compute.GPU_FP16, "CPU" to Compute.CPU)

@OptIn(ExperimentalMaterial3Api::class)
@Composable
private fun ComputeSwitch(chosen: Compute, onChoose: (Compute) -> Unit) =
    SingleChoiceSegmentedButtonRow {
        computes.forEachIndexed { i, (name, compute) ->
            SegmentedButton(
                selected = compute == chosen,
                onClick = { onChoose(compute) },
                shape = SegmentedButtonDefaults.itemShape(i, computes.size),
            ) { Text(name) }
        }
    }

@Composable
private fun Speed(timing: Timing) =
    Column(horizontalAlignment = Alignment.End) {
        val median = "%.1f ms".format(Locale.ROOT, timing.medianMs)
        val rate = timing.perSecond?.let { " · %.1f fps".format(Locale.ROOT, it) }.orEmpty()
        Text(median + rate, style = MaterialTheme.typography.titleMedium, fontWeight = FontWeight.SemiBold)
        Text(
            "median of ${timing.runs} · last %.1f".format(Locale.ROOT, timing.lastMs),
            style = MaterialTheme.typography.bodySmall,
            color = MaterialTheme.colorScheme.onSurfaceVariant,
        )
    }

@Composable
private fun GuessBar(guess: Guess) =
    Column(Modifier.semantics(mergeDescendants = true) {}, Arrangement.spacedBy(6.dp)) {
        Row(Modifier.fillMaxWidth(), Arrangement.SpaceBetween) {
            Text(
                guess.label,
                Modifier.weight(1f),
                style = MaterialTheme.typography.bodyLarge,
                maxLines = 1,
                overflow = TextOverflow.Ellipsis,
            )
            Text(
                "%.1f %%".format(Locale.ROOT, guess.share * 100),
                Modifier.padding(start = 12.dp),
                style = MaterialTheme.typography.bodyLarge,
                fontWeight = FontWeight.Medium,
            )
        }
        val round = RoundedCornerShape(50)
        Box(Modifier.fillMaxWidth().height(8.dp).clip(round).background(MaterialTheme.colorScheme.surfaceContainerHighest)) {
            val width = guess.share.toFloat().coerceIn(0.01f, 1f)
            Box(Modifier.fillMaxWidth(width).fillMaxHeight().clip(round).background(MaterialTheme.colorScheme.primary))
        }
    }

@Composable
private fun Sources(state: UiState, actions: Actions) =
    Surface(color = MaterialTheme.colorScheme.surfaceContainer) {
        Row(Modifier.fillMaxWidth().navigationSpace().padding(16.dp), Arrangement.spacedBy(12.dp)) {
            val tight = PaddingValues(8.dp) // room for large text
            FilledTonalButton(actions::pickPhoto, Modifier.weight(1f), contentPadding = tight) { Labelled(Icons.photo, "Photo") }
            if (state.input == Input.CAMERA) {
                Button(actions::stopCamera, Modifier.weight(1f), contentPadding = tight) { Labelled(Icons.stop, "Stop") }
            } else {
                Button(actions::startCamera, Modifier.weight(1f), contentPadding = tight) { Labelled(Icons.camera, "Camera") }
            }
        }
    }

@Composable
private fun NoBundle(command: String, actions: Actions) =
    Centred {
        Text("No model on this phone yet", style = MaterialTheme.typography.headlineSmall, textAlign = TextAlign.Center)
        Text(
            "A model is too large for an app package. Connect the phone to the computer where the bundle was made, and type there:",
            style = MaterialTheme.typography.bodyMedium,
            textAlign = TextAlign.Center,
        )
        Surface(shape = RoundedCornerShape(12.dp), color = MaterialTheme.colorScheme.surfaceContainerHighest) {
            SelectionContainer {
                Text(command, Modifier.padding(16.dp), fontFamily = FontFamily.Monospace, style = MaterialTheme.typography.bodySmall)
            }
        }
        FlowRow(horizontalArrangement = Arrangement.spacedBy(12.dp)) {
            FilledTonalButton({ actions.copy(command) }) { Text("Copy") }
            Button(actions::reload) { Text("Look again") }
        }
    }

@Composable
fun Loading(what: String) {
    CircularProgressIndicator()
    Text(what, style = MaterialTheme.typography.bodyMedium, textAlign = TextAlign.Center)
}

@Composable
fun Centred(content: @Composable ColumnScope.() -> Unit) =
    Column(
        Modifier.fillMaxSize().verticalScroll(rememberScrollState()).padding(24.dp),
        Arrangement.spacedBy(16.dp, Alignment.CenterVertically),
        Alignment.CenterHorizontally,
        content,
    )
