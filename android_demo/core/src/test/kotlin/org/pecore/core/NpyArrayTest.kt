package org.pecore.core

import org.junit.jupiter.api.Test
import org.junit.jupiter.api.assertThrows
import org.junit.jupiter.api.io.TempDir
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.Base64
import kotlin.test.assertContains
import kotlin.test.assertEquals

class NpyArrayTest {
    @TempDir
    lateinit var folder: File

    @Test
    fun `NumPy's file`() {
        val file = File(folder, "a.npz").apply { writeBytes(Base64.getDecoder().decode(TinyBundle.NUMPY_NPZ)) }
        val arrays = readNpz(file)
        assertEquals(setOf("image", "embedding"), arrays.keys)
        assertEquals(listOf(2, 1, 3), arrays.getValue("image").shape)
        assertEquals(listOf(0f, 0.25f, 0.5f, 0.75f, 1f, 1.25f), arrays.getValue("image").data.toList())
    }

    @Test
    fun `no zip file`() {
        val file = File(folder, "a.npz").apply { writeText("no zip") }
        assertContains(assertThrows<BundleException> { readNpz(file) }.message!!, "a.npz can't be read")
    }

    @Test
    fun `other arrays are refused`() {
        assertEquals(listOf(3), parseNpy(npy("'<f4'", "False", "3,", 12), "a").shape)
        val others =
            listOf(
                npy("'<f8'", "False", "3,", 24),
                npy("'>f4'", "False", "3,", 12),
                npy("'<f4'", "True", "3, 1", 12),
                npy("'<f4'", "False", "3,", 8),
                npy("'<f4'", "False", "", 4),
                npy("'<f4'", "False", "0,", 0),
                npy("'<f4'", "False", "99999999999,", 12),
                npy("'<f4'", "False", "2147483647, 2147483647, 2147483647", 12),
                npy("'<f4'", "False", "3,", 12).copyOf(30),
                ByteArray(5),
                ByteArray(64),
            )
        for (other in others) assertContains(assertThrows<BundleException> { parseNpy(other, "a.npy") }.message!!, "a.npy is no")
    }

    private fun npy(type: String, fortran: String, shape: String, bytes: Int): ByteArray {
        val header = "{'descr': $type, 'fortran_order': $fortran, 'shape': ($shape), }\n"
        val buffer = ByteBuffer.allocate(10 + header.length + bytes).order(ByteOrder.LITTLE_ENDIAN)
        buffer.put("\u0093NUMPY\u0001\u0000".toByteArray(Charsets.ISO_8859_1)).putShort(header.length.toShort())
        return buffer.put(header.toByteArray()).array()
    }
}
