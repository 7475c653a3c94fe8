package org.pecore.demo.ui

import androidx.compose.ui.graphics.ImageBitmap

/** Small pictures of photographs by their ids. */
fun interface Thumbnails {
    /** Calls [ready] on the main thread, perhaps at once, and never for a photograph that is gone. Closing it ends the reading. */
    fun load(id: Long, ready: (ImageBitmap) -> Unit): AutoCloseable
}
