package org.pecore.demo

/** The state on the screen; [render] gets each new one, in order, on the thread that changed it. */
class StateStore(private val render: (UiState) -> Unit) {
    @Volatile
    var state = UiState()
        private set

    @Synchronized
    fun update(change: UiState.() -> UiState) {
        state = state.change()
        render(state)
    }
}
