package org.pecore.demo

import android.app.Application
import android.os.Build
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.setValue
import org.pecore.demo.photos.AndroidPhone
import org.pecore.demo.photos.IndexingJob
import java.util.concurrent.Executors

/** What outlives the screen: the model, the index, and the one thread that works with them. */
class DemoApp : Application() {
    var state by mutableStateOf(UiState())
        private set

    /** Told what the indexing is at, on any thread. */
    @Volatile
    var onIndexing: (Indexing) -> Unit = {}

    val worker = Executors.newSingleThreadExecutor { Thread(it, "model") }
    val phone by lazy { AndroidPhone(this) }
    private val store =
        StateStore {
            if (it.search.indexing != state.search.indexing) onIndexing(it.search.indexing)
            state = it
        }
    private val settings by lazy(::preferences)
    val controller by lazy { DemoController({ getExternalFilesDir("bundles") }, settings, device(), worker, store) }
    val search by lazy { SearchController(store, settings, phone, worker) { controller.loaded() } }

    /** The screen is gone, or memory is short: the model goes, unless it is at work. */
    fun rest(close: Boolean) {
        if (search.isIndexing) return
        if (close) controller.close() else controller.release()
    }

    fun indexWhileCharging(on: Boolean) {
        search.setWhileCharging(on)
        IndexingJob.schedule(this, on)
    }

    private fun preferences(): Settings {
        val preferences = getSharedPreferences("demo", MODE_PRIVATE)
        return object : Settings {
            override fun get(key: String) = preferences.getString(key, null)

            override fun set(key: String, value: String) = preferences.edit().putString(key, value).apply()
        }
    }

    private fun device(): Map<String, String> =
        mapOf(
            "name" to "${Build.MANUFACTURER} ${Build.MODEL}",
            "system" to "Android ${Build.VERSION.RELEASE} (API ${Build.VERSION.SDK_INT})",
            "hardware" to Build.HARDWARE,
            "soc" to if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.S) "${Build.SOC_MANUFACTURER} ${Build.SOC_MODEL}" else "",
            "build" to Build.FINGERPRINT,
        )
}
