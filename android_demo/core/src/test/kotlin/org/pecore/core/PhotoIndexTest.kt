package org.pecore.core

import org.junit.jupiter.api.Test
import org.junit.jupiter.api.assertThrows
import org.junit.jupiter.api.io.TempDir
import java.io.File
import java.io.RandomAccessFile
import java.util.Random
import kotlin.math.sqrt
import kotlin.test.assertContains
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFalse
import kotlin.test.assertNotNull
import kotlin.test.assertNull
import kotlin.test.assertTrue

private const val DIM = 3

class PhotoIndexTest {
    @TempDir
    lateinit var folder: File

    private val file get() = File(folder, "photos.index")
    private val header = indexHeader("S16 ab12", DIM).size
    private val record = IndexRecord(DIM).length

    private fun index() = PhotoIndex(file, "S16 ab12", DIM)

    private fun photo(id: Long, modified: Long = 1) = Photo(id, modified, 100 + id)

    /** Rows that tell one id from another. */
    private fun row(id: Long) = floatArrayOf(1f, id.toFloat(), 0f)

    @Test
    fun `the quick product of two directions is the exact one to 1e-6`() {
        val random = Random(0)
        for (dim in listOf(1, 7, 8, 512, 1029)) {
            val (a, b) = List(2) { normalised(FloatArray(dim) { random.nextGaussian().toFloat() }) }
            assertEquals(dot(a, b, 0), quickDot(a, b), 1e-6)
            assertEquals(1.0, quickDot(a, a), 1e-6)
        }
    }

    @Test
    fun `photographs are found by their direction, nearest first`() {
        index().use { index ->
            index.put(photo(1), floatArrayOf(1f, 0f, 0f))
            index.put(photo(2), floatArrayOf(0f, 5f, 0f))
            index.put(photo(3), floatArrayOf(2f, 2f, 0f))
            index.putUnreadable(photo(4))
            val hits = index.search(floatArrayOf(10f, 0f, 0f), 2)
            assertEquals(listOf(1L, 3L), hits.map { it.id })
            assertEquals(1.0, hits[0].cosine, 1e-6) // rounding of float32
            assertEquals(sqrt(0.5), hits[1].cosine, 1e-6)
            assertEquals(3, index.search(floatArrayOf(1f, 0f, 0f), 10).size)
            assertEquals(emptyList(), index.search(floatArrayOf(1f, 0f, 0f), 0))
            assertEquals(3 to 4, index.searchable to index.photos.size)
            assertContentEquals(floatArrayOf(0f, 1f, 0f), index.embedding(2))
            assertNull(index.embedding(4))
            assertThrows<IllegalArgumentException> { index.search(floatArrayOf(0f, 0f, 0f), 1) }
            assertThrows<IllegalArgumentException> { index.put(photo(5), floatArrayOf(1f)) }
            assertThrows<IllegalArgumentException> { index.put(photo(5), floatArrayOf(Float.NaN, 0f, 0f)) }
            assertNull(index[5])
        }
    }

    @Test
    fun `of equally near ones the first comes first`() {
        index().use { index ->
            for (id in 1L..5) index.put(photo(id), floatArrayOf(0f, 0f, 1f))
            assertEquals(listOf(1L, 2L, 3L), index.search(floatArrayOf(0f, 0f, 1f), 3).map { it.id })
        }
    }

    @Test
    fun `a later record replaces, removes and restores, also after it was opened again`() {
        index().use { index ->
            for (id in 1L..4) index.put(photo(id), row(id))
            index.put(photo(2, modified = 9), floatArrayOf(0f, 0f, 1f))
            index.remove(3)
            index.remove(77)
            index.putUnreadable(photo(4, modified = 9))
        }
        repeat(2) {
            index().use { index ->
                assertEquals(setOf(photo(1), photo(2, 9), photo(4, 9)), index.photos.toSet())
                assertEquals(2, index.searchable)
                assertEquals(2L, index.search(floatArrayOf(0f, 0f, 1f), 1).single().id)
                assertEquals(setOf(1L, 2L), index.search(row(1), 9).map { it.id }.toSet())
                assertEquals(if (it == 0) 4 else 0, index.wasted)
                index.compact()
                assertEquals(0, index.wasted)
            }
            assertEquals(header + 3L * record, file.length())
        }
    }

    @Test
    fun `cut at any byte, every whole record is there and the file goes on`() {
        index().use { index ->
            for (id in 1L..3) index.put(photo(id), row(id))
            index.remove(2)
            index.put(photo(4), row(4))
        }
        val whole = file.readBytes()
        val known = listOf(emptySet(), setOf(1L), setOf(1L, 2L), setOf(1L, 2L, 3L), setOf(1L, 3L), setOf(1L, 3L, 4L))
        for (length in 0..whole.size) {
            file.writeBytes(whole.copyOf(length))
            index().use { index ->
                val records = maxOf(0, length - header) / record
                assertEquals(known[records], index.photos.map { it.id }.toSet(), "cut at $length")
                assertEquals(0, index.damaged)
                index.put(photo(9), row(9))
            }
            index().use { index ->
                assertEquals(photo(9), index[9], "cut at $length")
                assertEquals(9L, index.search(row(9), 1).single().id, "cut at $length")
            }
        }
    }

    @Test
    fun `a byte that has changed costs its record, and the others stay`() {
        index().use { index -> for (id in 1L..3) index.put(photo(id), row(id)) }
        val whole = file.readBytes()
        for (at in header until whole.size) {
            file.writeBytes(whole.copyOf().also { it[at] = (it[at] + 1).toByte() })
            index().use { index ->
                val hit = 1L + (at - header) / record
                assertEquals(setOf(1L, 2L, 3L) - hit, index.photos.map { it.id }.toSet(), "byte $at")
                assertEquals(1 to 2, index.damaged to index.searchable, "byte $at")
                index.compact()
                assertEquals(0 to 2, index.damaged to index.search(row(1), 9).size, "byte $at")
            }
        }
        for (at in 0 until header) {
            file.writeBytes(whole.copyOf().also { it[at] = (it[at] + 1).toByte() })
            assertContains(assertThrows<IndexException> { index() }.message!!, "photos.index")
        }
    }

    @Test
    fun `another model's index is refused`() {
        index().use { it.put(photo(1), row(1)) }
        assertThrows<IndexException> { PhotoIndex(file, "S16 cd34", DIM) }
        assertThrows<IndexException> { PhotoIndex(file, "S16 ab12", DIM + 1) }
        assertNotNull(index().use { it[1] })
    }

    @Test
    fun `what a killed compaction left is cleared away`() {
        index().use { it.put(photo(1), row(1)) }
        val part = File(file.path + ".part").apply { writeBytes(file.readBytes().copyOf(header + 5)) }
        index().use { assertEquals(setOf(photo(1)), it.photos.toSet()) }
        assertFalse(part.exists())
    }

    @Test
    fun `a record that could not be written is written over`() {
        val index = index()
        index.put(photo(1), row(1))
        // What a write that a full storage broke off leaves.
        RandomAccessFile(file, "rw").use {
            it.seek(file.length())
            it.write(ByteArray(record - 1) { 7 })
        }
        index.put(photo(2), row(2))
        index.close()
        index().use { assertEquals(2 to 0, it.searchable to it.damaged) }
    }

    @Test
    fun `a search makes no row a photograph, and agrees with a sort`() {
        val random = Random(0)
        val dim = 37
        val rows = List(3000) { FloatArray(dim) { random.nextGaussian().toFloat() } }
        PhotoIndex(file, "large", dim).use { index ->
            rows.forEachIndexed { i, row -> index.put(photo(i.toLong()), row) }
            val query = FloatArray(dim) { random.nextGaussian().toFloat() }
            val expected = rows.indices.sortedByDescending { i -> dot(query, rows[i], 0) / norm(rows[i]) }.take(50)
            assertEquals(expected.map { it.toLong() }, index.search(query, 50).map { it.id })
            assertTrue(allocated { index.search(query, 50) } < 10_000)
        }
    }
}
