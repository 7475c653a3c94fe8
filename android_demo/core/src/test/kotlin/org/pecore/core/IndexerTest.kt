package org.pecore.core

import org.junit.jupiter.api.Test
import org.junit.jupiter.api.assertThrows
import org.junit.jupiter.api.io.TempDir
import java.io.File
import java.io.IOException
import kotlin.test.assertEquals
import kotlin.test.assertFalse
import kotlin.test.assertTrue

class IndexerTest {
    @TempDir
    lateinit var folder: File

    private val photos = (9L downTo 1).map { Photo(it, 1, 100) }.toMutableList()
    private val unreadable = mutableSetOf<Long>()
    private val embedded = mutableListOf<Long>()
    private var onRead: (Long) -> Unit = {}

    private val library =
        object : PhotoLibrary {
            override fun photos() = photos.toList()

            override fun has(id: Long) = photos.any { it.id == id }

            override fun read(id: Long): Pixels {
                onRead(id)
                if (id in unreadable || !has(id)) throw IOException("no image")
                return Pixels(intArrayOf(id.toInt()), 1, 1)
            }
        }

    private fun open() = PhotoIndex(File(folder, "photos.index"), "space", 2)

    private fun indexer(index: PhotoIndex) =
        Indexer(library, index) { pixels ->
            embedded += pixels.argb[0].toLong()
            floatArrayOf(1f, pixels.argb[0].toFloat())
        }

    private fun Indexer.finish() = apply { if (plan()) while (step()) Unit }

    @Test
    fun `the newest come first, each once, and a second run has nothing to do`() {
        open().use { index ->
            val indexer = indexer(index)
            assertTrue(indexer.plan())
            assertEquals(0 to 9, indexer.done to indexer.total)
            indexer.step()
            assertEquals(1, indexer.done)
            indexer.finish()
            assertEquals((9L downTo 1).toList(), embedded)
            assertFalse(indexer.plan())
        }
    }

    @Test
    fun `a run that ends anywhere is gone on with by the next one`() {
        repeat(3) { open().use { index -> indexer(index).run { if (plan()) repeat(2) { step() } } } }
        open().use { indexer(it).finish() }
        assertEquals((9L downTo 1).toList(), embedded)
    }

    @Test
    fun `changed ones are embedded again, deleted ones leave, new ones are seen before the end`() {
        open().use { index ->
            indexer(index).finish()
            embedded.clear()
            photos.removeAll { it.id == 4L }
            photos[0] = photos[0].copy(modified = 2)
            photos[1] = photos[1].copy(bytes = 7)
            onRead = { id -> if (id == 9L) photos.add(0, Photo(10, 1, 1)) }
            indexer(index).finish()
            assertEquals(listOf(9L, 8L, 10L), embedded)
            assertEquals(9, index.searchable)
            assertEquals(null, index[4])
        }
    }

    @Test
    fun `one that can't be read is not tried again, one that went while it was read is forgotten`() {
        unreadable += 5
        onRead = { id -> if (id == 7L) photos.removeAll { it.id == id } }
        open().use { index ->
            indexer(index).finish()
            assertEquals(listOf(9L, 8L, 6L, 4L, 3L, 2L, 1L), embedded)
            assertEquals(null, index[7])
            assertEquals(Photo(5, 1, 100), index[5])
            assertFalse(indexer(index).plan())
        }
    }

    @Test
    fun `a photograph that the storage did not take is the next one again`() {
        val index = open()
        val indexer = indexer(index).apply { plan() }
        indexer.step()
        index.close() // what is written now fails
        assertThrows<StorageException> { indexer.step() }
        assertEquals(1, indexer.done)
        open().use { again -> indexer(again).finish() }
        assertEquals(9, open().use { it.searchable })
    }

    @Test
    fun `a picture without a direction is passed over, a model that gives none is not`() {
        open().use { index ->
            val one = Indexer(library, index) { if (it.argb[0] == 9) floatArrayOf(Float.NaN, 0f) else floatArrayOf(1f, 0f) }
            one.finish()
            assertEquals(8 to 9, index.searchable to index.photos.size)
            photos.replaceAll { it.copy(modified = 3) }
            assertThrows<IllegalArgumentException> { Indexer(library, index) { FloatArray(2) }.finish() }
        }
    }

    @Test
    fun `an index that is mostly waste is compacted at the end`() {
        open().use { index ->
            repeat(300) { i -> index.put(Photo(9, i.toLong(), 1), floatArrayOf(1f, 0f)) }
            indexer(index).finish()
            assertEquals(0, index.wasted)
        }
    }
}
