package org.pecore.demo

import com.google.ai.edge.litert.FakeLiteRt
import com.google.ai.edge.litert.LiteRtException
import org.junit.jupiter.api.BeforeEach
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import org.pecore.core.AccessNotice
import org.pecore.core.Pause
import org.pecore.core.PhoneCondition
import org.pecore.core.Photo
import org.pecore.core.PhotoAccess
import org.pecore.core.PhotoLibrary
import org.pecore.core.Pixels
import org.pecore.core.TinyBundle
import org.pecore.core.Vectors
import org.pecore.core.list
import org.pecore.core.text
import java.io.File
import java.io.IOException
import java.util.concurrent.Executor
import kotlin.math.roundToInt
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertIs
import kotlin.test.assertNotNull
import kotlin.test.assertNull
import kotlin.test.assertTrue

/** The photographs are one pixel each, whose colour is their id; the fake model's embedding points where the id says. */
class SearchControllerTest {
    @TempDir
    lateinit var folder: File

    private val bundles get() = File(folder, "bundles").apply { mkdirs() }
    private val remembered = mutableMapOf<String, String>()
    private val settings =
        object : Settings {
            override fun get(key: String) = remembered[key]

            override fun set(key: String, value: String) {
                remembered[key] = value
            }
        }

    private val fine = PhoneCondition(charging = true, battery = 80, celsius = 30.0, thermal = 0, freeBytes = 1L shl 32)
    private val photos = mutableListOf<Photo>()
    private val embedded = mutableListOf<Int>()
    private var onRead: (Long) -> Unit = {}
    private var granted = PhotoAccess.ALL
    private var condition = fine
    private val later = ArrayDeque<() -> Unit>()
    private val ends = mutableListOf<Boolean>()

    private val phone =
        object : Phone {
            override val library =
                object : PhotoLibrary {
                    override fun photos() = this@SearchControllerTest.photos.toList()

                    override fun has(id: Long) = this@SearchControllerTest.photos.any { it.id == id }

                    override fun read(id: Long): Pixels {
                        onRead(id)
                        if (!has(id)) throw IOException("gone")
                        return pixel(id)
                    }
                }

            override fun access() = granted

            override fun condition() = condition

            override fun folder() = folder

            override fun later(millis: Long, what: () -> Unit) {
                later += what
            }
        }

    private fun pixel(id: Long) = Pixels(intArrayOf(0xFF000000.toInt() or id.toInt()), 1, 1)

    /** The app from its start to a kill: what it still had to do is lost. */
    private inner class Process {
        private val tasks = ArrayDeque<Runnable>()
        private val worker = Executor { tasks += it }
        val store = StateStore { }
        val controller = DemoController({ bundles }, settings, mapOf("name" to "Fake"), worker, store)
        val search = SearchController(store, settings, phone, worker) { controller.loaded() }
        val state get() = store.state.search

        fun work(most: Int = Int.MAX_VALUE) {
            var left = most
            while (tasks.isNotEmpty() && left-- > 0) tasks.removeFirst().run()
        }

        fun index(byRequest: Boolean = true, most: Int = Int.MAX_VALUE) {
            search.index(byRequest) { ends += it }
            work(most)
        }
    }

    private fun install(tiny: (TinyBundle) -> TinyBundle = { it.withText() }) =
        tiny(TinyBundle(File(bundles, "tiny").apply { mkdirs() })).write()

    private fun library(size: Int) {
        photos.clear()
        photos += (size downTo 1).map { Photo(it.toLong(), 1, 100) }
    }

    @BeforeEach
    fun reset() {
        FakeLiteRt.reset()
        FakeLiteRt.inputLength = 3
        FakeLiteRt.compute = { path, _, input -> if ("text" in path) words(input) else picture(input) }
    }

    private fun picture(input: FloatArray): FloatArray {
        val id = input.fold(0) { sum, channel -> 256 * sum + ((channel * 0.5f + 0.5f) * 255).roundToInt() }
        embedded += id
        return floatArrayOf(1f, id.toFloat())
    }

    /** "cat" is where the small ids are, anything else where the large ones are. */
    private fun words(ids: FloatArray) = if (ids[1] == CAT) floatArrayOf(1f, 0f) else floatArrayOf(0f, 1f)

    @Test
    fun `10,000 photographs are embedded once each, though the app is killed three times`() {
        install()
        library(10_000)
        listOf(1, 2500, 5001).forEach { Process().index(most = it) }
        assertTrue(embedded.size in 7000..7503, "${embedded.size}")
        val last = Process().apply { index() }
        assertEquals((10_000 downTo 1).toList(), embedded)
        assertEquals(Indexing.Idle(0), last.state.indexing)
        assertEquals(10_000, last.state.searchable)
        assertEquals(listOf(false), ends)
        Process().index()
        assertEquals(10_000, embedded.size)
    }

    @Test
    fun `words find photographs, and a photograph finds those like it`() {
        install()
        library(9)
        val app = Process().apply { index() }
        app.search.search("a cat")
        app.search.search("cat")
        assertTrue(app.state.searching)
        app.work()
        assertEquals((1L..9).toList(), app.state.hits.map { it.id })
        assertEquals(false, app.state.searching)
        app.search.search("rocket")
        app.work()
        assertEquals(9L, app.state.hits.first().id)
        assertEquals(1.0, app.state.hits.first().cosine, 0.01) // (1, 9) and (0, 1)
        app.search.searchLike(4)
        app.work()
        assertEquals(4L to 1.0, app.state.hits.first().let { it.id to (it.cosine * 1e6).roundToInt() / 1e6 })
        app.search.searchPicture(pixel(2))
        app.work()
        assertEquals(2L, app.state.hits.first().id)
        assertNull(app.state.problem)
    }

    @Test
    fun `a deleted photograph leaves the index, when it is found or when the library is looked at`() {
        install()
        library(5)
        val app = Process().apply { index() }
        photos.removeAll { it.id == 3L }
        app.search.search("cat")
        app.work()
        assertEquals(listOf(1L, 2L, 4L, 5L), app.state.hits.map { it.id })
        photos.removeAll { it.id == 5L }
        app.search.refresh()
        app.work()
        assertEquals(3, app.state.searchable)
        app.search.searchLike(3)
        app.work()
        assertContains(app.state.problem!!, "not in the index")
    }

    @Test
    fun `one that is deleted while it is read is passed over`() {
        install()
        library(5)
        onRead = { id -> if (id == 3L) photos.removeAll { it.id == id } }
        val app = Process().apply { index() }
        assertEquals(listOf(5, 4, 2, 1), embedded)
        assertEquals(4 to Indexing.Idle(0), app.state.searchable to app.state.indexing)
    }

    @Test
    fun `a full storage, heat and a low battery pause it, and it goes on by itself`() {
        install()
        library(6)
        val troubles =
            listOf(
                fine.copy(freeBytes = 0) to Pause.STORAGE,
                fine.copy(celsius = 50.0) to Pause.HOT,
                fine.copy(charging = false, battery = 3) to Pause.BATTERY,
            )
        val app = Process()
        onRead = { condition = troubles[embedded.size % 3].first }
        app.index()
        for (i in 0..4) {
            assertEquals(Indexing.Waiting(troubles[i % 3].second, i + 1, 6), app.state.indexing)
            assertTrue(app.search.isIndexing)
            later.removeFirst()() // nothing has changed
            app.work()
            condition = fine
            later.removeFirst()()
            app.work()
        }
        assertEquals(Indexing.Idle(0) to 6, app.state.indexing to app.state.searchable)
        assertEquals(listOf(6, 5, 4, 3, 2, 1), embedded)
        assertEquals(listOf(false), ends)
    }

    @Test
    fun `a run while charging ends when it has to wait, and asks for more time`() {
        install()
        library(5)
        val app = Process()
        onRead = { condition = fine.copy(charging = false) }
        app.index(byRequest = false)
        assertEquals(Indexing.Waiting(Pause.UNPLUGGED, 1, 5), app.state.indexing)
        assertEquals(listOf(true), ends)
        onRead = {}
        condition = fine
        app.index(byRequest = false, most = 2)
        app.search.interrupt()
        app.work()
        assertEquals(listOf(true, true), ends)
        assertIs<Indexing.Idle>(app.state.indexing)
        app.search.setWhileCharging(false)
        app.index(byRequest = false)
        assertEquals(listOf(true, true, false), ends)
        app.search.setWhileCharging(true)
        app.index(byRequest = false)
        assertEquals(listOf(5, 4, 3, 2, 1), embedded)
    }

    @Test
    fun `a pause holds until a person ends it`() {
        install()
        library(9)
        val app = Process().apply { index(most = 3) }
        app.search.pauseIndexing()
        app.work()
        assertEquals(Pause.ASKED, assertIs<Indexing.Waiting>(app.state.indexing).pause)
        assertEquals(false, app.search.isIndexing)
        val before = embedded.size
        Process().index(byRequest = false)
        assertTrue(before < 9)
        assertEquals(before, embedded.size)
        app.index()
        assertEquals((9 downTo 1).toList(), embedded)
    }

    @Test
    fun `a run by request takes the place of one while charging, and there is never a second`() {
        install()
        library(4)
        val app = Process()
        app.index(byRequest = false, most = 2)
        app.index(byRequest = true, most = 1)
        assertEquals(listOf(false), ends)
        app.index(byRequest = false, most = 1)
        app.index(byRequest = true)
        assertEquals(listOf(false, false, false), ends)
        assertEquals(listOf(4, 3, 2, 1), embedded)
    }

    @Test
    fun `a search and a photo come between two photographs`() {
        install()
        library(50)
        val app = Process().apply { index(most = 10) }
        app.search.search("cat")
        app.work(2)
        assertTrue(app.state.hits.isNotEmpty() && embedded.size < 20)
        app.work()
        assertEquals(50, embedded.size)
    }

    @Test
    fun `without the permission nothing is read, and what is said depends on what was asked`() {
        install()
        library(3)
        granted = PhotoAccess.NONE
        val app = Process()
        app.search.refresh()
        app.index()
        assertEquals(AccessNotice.ASK to emptyList<Int>(), app.state.access to embedded)
        app.search.wasAsked()
        app.work()
        assertEquals(AccessNotice.REFUSED, app.state.access)
        assertEquals(AccessNotice.REFUSED, Process().run { search.refresh().also { work() }.let { state.access } })
        granted = PhotoAccess.CHOSEN
        app.search.wasAsked()
        app.work()
        assertEquals(AccessNotice.CHOSEN to Indexing.Idle(3), app.state.access to app.state.indexing)
        app.index()
        granted = PhotoAccess.NONE
        app.search.search("cat")
        app.search.refresh()
        app.work()
        assertEquals(emptyList(), app.state.hits)
        assertEquals(3, app.state.searchable, "what was taken back by mistake need not be embedded again")
    }

    @Test
    fun `a bundle without a text tower says what it lacks, and pictures can be searched with`() {
        install { it }
        library(3)
        val app = Process().apply { index() }
        app.search.refresh()
        app.work()
        assertContains(app.state.missing!!, "pecore convert --size T16 --tower text")
        app.search.search("cat")
        app.work()
        assertContains(app.state.problem!!, "--tower text")
        app.search.searchPicture(pixel(2))
        app.work()
        assertEquals(2L to null, app.state.hits.first().id to app.state.problem)
        install()
        app.controller.reload()
        app.search.refresh()
        app.work()
        assertNull(app.state.missing)
    }

    @Test
    fun `a model that stops ends the run with its sentence, and an index that is spoilt can begin anew`() {
        install()
        library(3)
        val app = Process()
        FakeLiteRt.failures["run"] = LiteRtException(1, "device lost")
        app.index()
        assertContains(assertIs<Indexing.Failed>(app.state.indexing).sentence, "device lost")
        assertEquals(listOf(false), ends)
        FakeLiteRt.failures.clear()
        app.index()
        val file = assertNotNull(folder.listFiles()?.single { it.name.startsWith("photos-") })
        file.writeBytes(file.readBytes().also { it[3] = 0 })
        val again = Process()
        again.search.refresh()
        again.work()
        assertTrue(assertIs<Indexing.Failed>(again.state.indexing).spoilt)
        again.search.startAgain()
        again.work()
        assertEquals(Indexing.Idle(3), again.state.indexing)
        again.index()
        assertEquals(3, again.state.searchable)
        File(bundles, "tiny").deleteRecursively()
        val none = Process().apply { index() }
        assertContains(assertIs<Indexing.Failed>(none.state.indexing).sentence, "No model")
    }

    @Test
    fun `another model has another index, and the first one's is kept`() {
        install()
        library(3)
        Process().index()
        val other = TinyBundle(File(bundles, "a_first").apply { mkdirs() })
        other.write(edit = { it.replace("ab12", "cd34") })
        val app = Process().apply { index() }
        assertEquals(6, embedded.size)
        app.controller.chooseBundle("tiny")
        app.search.refresh()
        app.work()
        assertEquals(Indexing.Idle(0) to 3, app.state.indexing to app.state.searchable)
        assertEquals(6, embedded.size)
    }

    private companion object {
        /** The token of "cat", alone. */
        val CAT =
            Vectors.json("text/tokens.json").list("cases").first { it.text("text") == "cat" }.list("ids")[1].toString().toFloat()
    }
}
