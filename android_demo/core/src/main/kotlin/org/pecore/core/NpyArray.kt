package org.pecore.core

import java.io.File
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.zip.ZipFile

/** An array of NumPy's: [data] in C order. */
class NpyArray internal constructor(val shape: List<Int>, val data: FloatArray) {
    /** The first axis taken apart. */
    fun samples(): List<FloatArray> {
        val length = data.size / shape[0]
        return List(shape[0]) { data.copyOfRange(it * length, (it + 1) * length) }
    }
}

/**
 * The arrays of an `.npz` by their names: little-endian float32 in C order, with at least one axis and one number.
 *
 * @throws BundleException it is no zip file, or holds anything else.
 */
fun readNpz(file: File): Map<String, NpyArray> =
    try {
        ZipFile(file).use { zip ->
            zip.entries().asSequence().associate { entry ->
                entry.name.removeSuffix(".npy") to parseNpy(zip.getInputStream(entry).use { it.readBytes() }, entry.name)
            }
        }
    } catch (error: IOException) {
        throw BundleException("${file.name} can't be read (${error.message}): $REINSTALL", error)
    }

private const val MAGIC = "\u0093NUMPY"
private val SHAPE = Regex("""'shape': \(([\d, ]*)\)""")

internal fun parseNpy(data: ByteArray, name: String): NpyArray {
    fun refuse(): Nothing = throw BundleException("$name is no little-endian float32 array in C order: $REINSTALL")
    if (data.size < 12 || String(data, 0, MAGIC.length, Charsets.ISO_8859_1) != MAGIC) refuse()
    val buffer = ByteBuffer.wrap(data).order(ByteOrder.LITTLE_ENDIAN)
    val begin = if (data[6].toInt() == 1) 10 else 12
    val length = if (begin == 10) buffer.getShort(8).toInt() and 0xFFFF else buffer.getInt(8)
    if (length < 0 || length > data.size - begin) refuse()
    val header = String(data, begin, length, Charsets.ISO_8859_1)
    val axes = SHAPE.find(header)?.groupValues?.get(1) ?: refuse()
    val shape = axes.split(',').filter { it.isNotBlank() }.map { it.trim().toIntOrNull() ?: refuse() }
    val bytes = data.size - begin - length
    val sound = "'descr': '<f4'" in header && "'fortran_order': False" in header && bytes > 0 && shape.isNotEmpty()
    if (!sound || shape.fold(4.0) { product, axis -> product * axis } != bytes.toDouble()) refuse()
    val numbers = ByteBuffer.wrap(data, begin + length, bytes).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
    return NpyArray(shape, FloatArray(bytes / 4).also(numbers::get))
}
