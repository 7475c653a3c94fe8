package org.pecore.demo.photos

import android.os.Handler
import android.os.Looper
import android.util.LruCache
import androidx.compose.ui.graphics.ImageBitmap
import androidx.compose.ui.graphics.asImageBitmap
import org.pecore.demo.ui.Thumbnails
import java.util.concurrent.Executors
import java.util.concurrent.Future

/** Small pictures of photographs, read two at a time, and kept while there is room. */
class MediaThumbnails(private val library: MediaLibrary) : Thumbnails {
    private val readers = Executors.newFixedThreadPool(2)
    private val main = Handler(Looper.getMainLooper())
    private val kept = LruCache<Long, ImageBitmap>(KEPT)

    override fun load(id: Long, ready: (ImageBitmap) -> Unit): AutoCloseable {
        kept.get(id)?.let {
            ready(it)
            return AutoCloseable { }
        }
        val reading: Future<*> =
            readers.submit {
                val picture = library.thumbnail(id)?.asImageBitmap() ?: return@submit
                kept.put(id, picture)
                main.post { ready(picture) }
            }
        return AutoCloseable { reading.cancel(false) }
    }

    private companion object {
        const val KEPT = 150
    }
}
