package org.pecore.demo

import com.google.ai.edge.litert.LiteRtException
import org.pecore.core.BundleException
import org.pecore.core.Hit
import org.pecore.core.IndexException
import org.pecore.core.Indexer
import org.pecore.core.Latencies
import org.pecore.core.Pause
import org.pecore.core.PhotoAccess
import org.pecore.core.PhotoIndex
import org.pecore.core.Pixels
import org.pecore.core.StorageException
import org.pecore.core.accessNotice
import org.pecore.core.pause
import org.pecore.core.requireText
import org.pecore.demo.model.EncoderException
import org.pecore.demo.model.LoadedBundle
import java.io.File
import java.io.IOException
import java.security.MessageDigest
import java.util.concurrent.Executor

/**
 * Finds photographs, and brings their index up to date, without Android.
 *
 * Shares [worker] with [DemoController], and takes it for one photograph at a time: a search or a camera frame comes between
 * two of them.
 *
 * @param models the bundle that is loaded, on the worker: loads it where it is not; null where none can be.
 */
class SearchController(
    private val store: StateStore,
    private val settings: Settings,
    private val phone: Phone,
    private val worker: Executor,
    private val nanos: () -> Long = System::nanoTime,
    private val models: () -> LoadedBundle?,
) : SearchActions {
    /** An indexing that goes on. [ended] is told whether there is more to do at another time. */
    private class Run(val byRequest: Boolean, val begun: Long, val ended: (more: Boolean) -> Unit) {
        var pause: Pause? = null
    }

    @Volatile
    private var run: Run? = null

    // The worker's own.
    private var opened: Opened? = null
    private val times = Latencies()

    private class Opened(val file: File, val index: PhotoIndex, val indexer: Indexer)

    /** Whether the model is needed though nobody looks at the screen. */
    val isIndexing: Boolean get() = run != null

    /** Looks at the permission, the bundle and the library: when the screen is opened, and after anything has changed. */
    fun refresh() =
        worker.execute {
            val asked = settings[ASKED] != null
            update { copy(access = accessNotice(phone.access(), asked), whileCharging = settings[CHARGING] != "no") }
            val missing = problem { it.bundle.requireText() }?.sentence
            update { copy(missing = missing) }
            if (run == null) show()
        }

    private fun look(model: LoadedBundle) {
        val now = open(model)
        val left = if (phone.access() != PhotoAccess.NONE && now.indexer.plan()) now.indexer.left else 0
        update { copy(indexing = Indexing.Idle(left), searchable = now.index.searchable) }
    }

    /** A person was asked for the permission; what was answered, the phone knows. */
    fun wasAsked() {
        settings[ASKED] = "yes"
        refresh()
    }

    fun setWhileCharging(on: Boolean) {
        settings[CHARGING] = if (on) "yes" else "no"
        update { copy(whileCharging = on) }
    }

    override fun search(words: String) = find { model, _ -> model.words.embed(words) }

    override fun searchLike(id: Long) =
        find { _, index -> index.embedding(id) ?: throw BundleException("that photograph is not in the index any more") }

    /** From a picture that need not be in the library. */
    fun searchPicture(pixels: Pixels) = find { model, _ -> model.encoder.encode(model.prepare(pixels)) }

    private fun find(query: (LoadedBundle, PhotoIndex) -> FloatArray) {
        update { copy(searching = true, problem = null) }
        worker.execute {
            var found = emptyList<Hit>()
            val problem =
                problem { model ->
                    val index = open(model).index
                    found = present(index.search(query(model, index), SHOWN), index)
                }
            update { copy(searching = false, problem = problem?.sentence, hits = found) }
        }
    }

    /** Those that are still there; the others leave the index. */
    private fun present(hits: List<Hit>, index: PhotoIndex): List<Hit> {
        if (phone.access() == PhotoAccess.NONE) return emptyList()
        val (there, gone) = hits.partition { phone.library.has(it.id) }
        gone.forEach { index.remove(it.id) }
        return there
    }

    /**
     * Brings the index up to date, from where the last run came to.
     *
     * @param byRequest a person asked for it: also on the battery. Otherwise it ends as soon as it has to wait.
     */
    fun index(byRequest: Boolean, ended: (more: Boolean) -> Unit) {
        if (!byRequest && (settings[PAUSED] == "yes" || settings[CHARGING] == "no")) return ended(false)
        if (byRequest) settings[PAUSED] = "no"
        val before = run
        // A run by request does all that one while charging would, and a second one.
        if (before?.byRequest == true) return if (byRequest) Unit else ended(false)
        val next = Run(byRequest, nanos(), ended)
        run = next
        before?.ended?.invoke(false)
        worker.execute {
            if (next !== run) return@execute
            times.reset()
            attempt(next) { model -> if (phone.access() == PhotoAccess.NONE || !open(model).indexer.plan()) finish(next, more = false) }
            step(next)
        }
    }

    override fun pauseIndexing() {
        settings[PAUSED] = "yes"
        worker.execute {
            run?.let {
                wait(it, Pause.ASKED)
                finish(it, more = false)
            }
        }
    }

    /** Ends a run that the phone takes its time from: it goes on when the phone gives it again. */
    fun interrupt() = worker.execute { run?.let { finish(it, more = true) } }

    private fun step(now: Run) {
        if (now !== run) return
        val minutes = (nanos() - now.begun) / NANOS_PER_MINUTE
        pause(phone.condition().copy(minutes = minutes), now.byRequest, now.pause)?.let { return wait(now, it) }
        now.pause = null
        attempt(now) { model ->
            val start = nanos()
            val indexer = open(model).indexer
            val more = indexer.step()
            times.add(start, nanos())
            if (!more) return@attempt finish(now, more = false)
            val seconds = (times.median * indexer.left / MILLIS).toInt().takeIf { times.runs >= ENOUGH }
            update { copy(indexing = Indexing.Running(indexer.done, indexer.total, seconds)) }
            worker.execute { step(now) }
        }
    }

    private fun wait(now: Run, why: Pause) {
        now.pause = why
        val indexer = opened?.indexer
        update { copy(indexing = Indexing.Waiting(why, indexer?.done ?: 0, indexer?.total ?: 0)) }
        opened?.index?.flush()
        when {
            why == Pause.ASKED -> Unit
            now.byRequest && why != Pause.TIME -> phone.later(LOOK_AGAIN) { worker.execute { step(now) } }
            else -> finish(now, more = true)
        }
    }

    private fun finish(now: Run, more: Boolean) {
        if (now !== run) return
        run = null
        if (now.pause == null) show()
        now.ended(more)
    }

    /** A piece of a run, which ends with a sentence where it can't be done, and waits where there is no room. */
    private fun attempt(now: Run, work: (LoadedBundle) -> Unit) {
        val problem =
            problem {
                try {
                    work(it)
                } catch (_: StorageException) {
                    wait(now, Pause.STORAGE)
                }
            } ?: return
        run = null
        update { copy(indexing = problem) }
        now.ended(false)
    }

    /** The index begins anew. */
    override fun startAgain() =
        worker.execute {
            opened?.index?.close()
            opened = null
            phone.folder()?.listFiles { file -> file.name.startsWith(PREFIX) }?.forEach { it.delete() }
            update { copy(hits = emptyList()) }
            show()
        }

    /** What the index is at while nothing runs. */
    private fun show() = problem(::look)?.let { update { copy(indexing = it) } }

    /** Does [work] with the model that is loaded; returns why that was not possible. */
    private fun problem(work: (LoadedBundle) -> Unit): Indexing.Failed? =
        try {
            work(models() ?: throw BundleException("No model is loaded: the first screen says why."))
            null
        } catch (error: IndexException) {
            Indexing.Failed(error.message.orEmpty(), spoilt = true)
        } catch (error: LiteRtException) {
            Indexing.Failed("The model stopped: ${error.message}")
        } catch (error: Exception) {
            if (SENTENCES.none { it.isInstance(error) }) throw error
            Indexing.Failed(error.message.orEmpty())
        }

    /** The index of a bundle's embeddings: one file for each embedding space. */
    private fun open(model: LoadedBundle): Opened {
        val folder = phone.folder() ?: throw BundleException("the phone's storage is not there")
        val file = File(folder, PREFIX + fileName(model.bundle.space))
        opened?.let { if (it.file == file) return it else it.index.close() }
        opened = null
        folder.mkdirs()
        val index = PhotoIndex(file, model.bundle.space, model.bundle.embeddingDim)
        val indexer = Indexer(phone.library, index) { pixels -> models()!!.run { encoder.encode(prepare(pixels)) } }
        return Opened(file, index, indexer).also { opened = it }
    }

    private fun update(change: SearchState.() -> SearchState) = store.update { copy(search = search.change()) }

    private companion object {
        const val ASKED = "photos asked"
        const val CHARGING = "index while charging"
        const val PAUSED = "indexing paused"
        const val PREFIX = "photos-"
        const val SHOWN = 60
        const val LOOK_AGAIN = 30_000L
        const val ENOUGH = 8 // runs before a time is said
        const val MILLIS = 1e3
        const val NANOS_PER_MINUTE = 60_000_000_000L

        /** Whose messages are for people. */
        val SENTENCES =
            listOf(
                BundleException::class,
                EncoderException::class,
                StorageException::class,
                IOException::class,
                IllegalArgumentException::class,
            )

        /** Of a file: the space's name may hold anything. */
        fun fileName(space: String): String =
            MessageDigest.getInstance("SHA-256").digest(space.toByteArray()).take(8).joinToString("") { "%02x".format(it) }
    }
}
