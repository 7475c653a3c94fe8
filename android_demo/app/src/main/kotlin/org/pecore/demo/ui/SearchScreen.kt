package org.pecore.demo.ui

import androidx.compose.foundation.ExperimentalFoundationApi
import androidx.compose.foundation.Image
import androidx.compose.foundation.background
import androidx.compose.foundation.combinedClickable
import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Box
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.FlowRow
import androidx.compose.foundation.layout.PaddingValues
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.aspectRatio
import androidx.compose.foundation.layout.consumeWindowInsets
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.imePadding
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.lazy.grid.GridCells
import androidx.compose.foundation.lazy.grid.GridItemSpan
import androidx.compose.foundation.lazy.grid.LazyVerticalGrid
import androidx.compose.foundation.lazy.grid.items
import androidx.compose.foundation.selection.toggleable
import androidx.compose.foundation.shape.RoundedCornerShape
import androidx.compose.foundation.text.KeyboardActions
import androidx.compose.foundation.text.KeyboardOptions
import androidx.compose.material3.Button
import androidx.compose.material3.FilledTonalButton
import androidx.compose.material3.Icon
import androidx.compose.material3.IconButton
import androidx.compose.material3.LinearProgressIndicator
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedTextField
import androidx.compose.material3.Scaffold
import androidx.compose.material3.Surface
import androidx.compose.material3.Switch
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.runtime.DisposableEffect
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.remember
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.setValue
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.draw.clip
import androidx.compose.ui.graphics.ImageBitmap
import androidx.compose.ui.layout.ContentScale
import androidx.compose.ui.semantics.Role
import androidx.compose.ui.text.input.ImeAction
import androidx.compose.ui.unit.dp
import org.pecore.core.AccessNotice
import org.pecore.core.Hit
import org.pecore.core.Pause
import org.pecore.demo.Actions
import org.pecore.demo.Indexing
import org.pecore.demo.Screen
import org.pecore.demo.SearchState
import org.pecore.demo.UiState
import java.util.Locale

/** Words or a picture in, photographs out, and how far the index is. */
@Composable
fun SearchScreen(state: UiState, actions: Actions, thumbnails: Thumbnails) {
    val search = state.search
    Scaffold(topBar = { BackBar("Search", "${search.searchable} in the index") { actions.show(Screen.CLASSIFY) } }) { space ->
        LazyVerticalGrid(
            GridCells.Adaptive(104.dp),
            Modifier.padding(space).consumeWindowInsets(space).imePadding().fillMaxSize(),
            contentPadding = PaddingValues(16.dp),
            verticalArrangement = Arrangement.spacedBy(4.dp),
            horizontalArrangement = Arrangement.spacedBy(4.dp),
        ) {
            item(span = { GridItemSpan(maxLineSpan) }) {
                Column(Modifier.padding(bottom = 12.dp), Arrangement.spacedBy(12.dp)) {
                    Question(search, actions)
                    search.missing?.let { Notice("No words with this bundle", it) }
                    search.problem?.let { Problem("That did not work", it) }
                    Access(search.access, actions)
                    if (search.access != AccessNotice.ASK && search.access != AccessNotice.REFUSED) IndexCard(search, actions)
                }
            }
            items(search.hits, key = { it.id }) { Found(it, actions, thumbnails) }
        }
    }
}

@Composable
private fun Question(search: SearchState, actions: Actions) {
    var words by rememberSaveable { mutableStateOf("") }
    OutlinedTextField(
        words,
        { words = it },
        Modifier.fillMaxWidth(),
        enabled = search.missing == null,
        placeholder = { Text("Describe the photo") },
        leadingIcon = { Icon(Icons.search, null) },
        trailingIcon = { IconButton(actions::pickExample) { Icon(Icons.photo, "Search with a picture") } },
        singleLine = true,
        keyboardOptions = KeyboardOptions(imeAction = ImeAction.Search),
        keyboardActions = KeyboardActions { if (words.isNotBlank()) actions.search(words) },
    )
    if (search.searching) LinearProgressIndicator(Modifier.fillMaxWidth())
}

@Composable
private fun Access(notice: AccessNotice, actions: Actions) {
    val (title, text, verb) =
        when (notice) {
            AccessNotice.NOTHING -> {
                return
            }

            AccessNotice.ASK -> {
                Triple(
                    "Your photographs",
                    "The app has to read them to find them. Nothing leaves the phone: it has no network access.",
                    "Allow",
                )
            }

            AccessNotice.REFUSED -> {
                Triple(
                    "The app may not see your photographs",
                    "Without them there is nothing to search. Allow \"Photos\" under Permissions in the phone's settings.",
                    "Open the settings",
                )
            }

            AccessNotice.CHOSEN -> {
                Triple("Only the photographs that you chose are found", "What you take back leaves the index.", "Choose more")
            }
        }
    Notice(title, text)
    FilledTonalButton(if (notice == AccessNotice.REFUSED) actions::openSettings else actions::askForPhotos) { Text(verb) }
}

@Composable
private fun IndexCard(search: SearchState, actions: Actions) =
    Surface(Modifier.fillMaxWidth(), RoundedCornerShape(16.dp), MaterialTheme.colorScheme.surfaceContainer) {
        Column(Modifier.padding(16.dp), Arrangement.spacedBy(8.dp)) {
            Progress(search.indexing)
            FlowRow(horizontalArrangement = Arrangement.spacedBy(12.dp), itemVerticalAlignment = Alignment.CenterVertically) {
                when (val indexing = search.indexing) {
                    is Indexing.Running -> FilledTonalButton(actions::pauseIndexing) { Text("Pause") }
                    is Indexing.Idle -> if (indexing.left > 0) Button(actions::indexNow) { Text("Index now") }
                    is Indexing.Waiting -> Button(actions::indexNow) { Text(if (indexing.pause == Pause.ASKED) "Resume" else "Try now") }
                    is Indexing.Failed -> Button(if (indexing.spoilt) actions::startAgain else actions::indexNow) { Text("Start again") }
                }
            }
            Row(
                Modifier.fillMaxWidth().toggleable(search.whileCharging, role = Role.Switch) { actions.indexWhileCharging(it) },
                Arrangement.SpaceBetween,
                Alignment.CenterVertically,
            ) {
                Text("Index while the phone charges", Modifier.weight(1f), style = MaterialTheme.typography.bodyMedium)
                Switch(search.whileCharging, onCheckedChange = null)
            }
        }
    }

@Composable
private fun Progress(indexing: Indexing) {
    val (title, text) =
        when (indexing) {
            is Indexing.Idle -> {
                if (indexing.left == 0) {
                    "Every photograph is in the index" to "New ones are added as they come."
                } else {
                    "${indexing.left} to be indexed" to "The newest come first."
                }
            }

            is Indexing.Running -> {
                "${indexing.done} of ${indexing.total} are in the index" to
                    (indexing.secondsLeft?.let(::timeLeft) ?: "The newest come first.")
            }

            is Indexing.Waiting -> {
                "${indexing.done} of ${indexing.total} are in the index" to indexing.pause.sentence
            }

            is Indexing.Failed -> {
                "The indexing has stopped" to indexing.sentence
            }
        }
    Text(title, style = MaterialTheme.typography.titleSmall)
    if (indexing is Indexing.Running) {
        LinearProgressIndicator({ indexing.done.toFloat() / maxOf(indexing.total, 1) }, Modifier.fillMaxWidth())
    }
    Text(text, style = MaterialTheme.typography.bodySmall, color = MaterialTheme.colorScheme.onSurfaceVariant)
}

/** As a person would say it. */
fun timeLeft(seconds: Int): String =
    when {
        seconds < 90 -> "About a minute left."
        seconds < 90 * 60 -> "About ${(seconds + 30) / 60} minutes left."
        else -> "About ${(seconds + 1800) / 3600} hours left."
    }

/** A tap shows it, a long one finds what is like it. */
@OptIn(ExperimentalFoundationApi::class)
@Composable
private fun Found(hit: Hit, actions: Actions, thumbnails: Thumbnails) {
    var picture by remember(hit.id) { mutableStateOf<ImageBitmap?>(null) }
    DisposableEffect(hit.id) {
        val reading = thumbnails.load(hit.id) { picture = it }
        onDispose(reading::close)
    }
    val cosine = "%.2f".format(Locale.ROOT, hit.cosine)
    Box(
        Modifier
            .aspectRatio(1f)
            .clip(RoundedCornerShape(8.dp))
            .background(MaterialTheme.colorScheme.surfaceContainerHigh)
            .combinedClickable(
                onLongClickLabel = "Find photographs like this one",
                onLongClick = { actions.searchLike(hit.id) },
                onClickLabel = "Show it",
            ) { actions.open(hit.id) },
    ) {
        picture?.let { Image(it, "A photograph, cosine $cosine", Modifier.fillMaxSize(), contentScale = ContentScale.Crop) }
        Surface(
            Modifier.align(Alignment.BottomEnd).padding(4.dp),
            RoundedCornerShape(50),
            MaterialTheme.colorScheme.surface.copy(alpha = 0.8f),
        ) {
            Text(cosine, Modifier.padding(horizontal = 6.dp, vertical = 2.dp), style = MaterialTheme.typography.labelSmall)
        }
    }
}
