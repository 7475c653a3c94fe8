package org.pecore.demo.ui

import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.Surface
import androidx.compose.runtime.Composable
import androidx.compose.ui.graphics.ImageBitmap
import org.pecore.demo.Actions
import org.pecore.demo.Screen
import org.pecore.demo.UiState

/** The whole app: a function of what is known and of the [picture] that was classified last (or the camera's newest). */
@Composable
fun DemoScreen(state: UiState, picture: ImageBitmap?, actions: Actions) =
    Surface(color = MaterialTheme.colorScheme.background) {
        when (state.screen) {
            Screen.CLASSIFY -> ClassifyScreen(state, picture, actions)
            Screen.LABELS -> LabelsScreen(state, actions)
            Screen.SELF_TEST -> SelfTestScreen(state, actions)
        }
    }
