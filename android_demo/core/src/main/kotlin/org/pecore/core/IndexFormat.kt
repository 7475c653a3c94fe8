package org.pecore.core

import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.zip.CRC32

/** One photograph in the phone's library, as it was when it was looked at: a changed one has another time or length. */
data class Photo(val id: Long, val modified: Long, val bytes: Long)

/** What a record says about a photograph. */
internal enum class IndexEntry { EMBEDDED, UNREADABLE, REMOVED }

/** The beginning of an index: `PEPHOTOS`, int32 format, int32 dim, int32 bytes of the space's name, the name, zeros to a multiple of 4. */
internal fun indexHeader(space: String, dim: Int): ByteArray {
    val name = space.toByteArray()
    val buffer = ByteBuffer.allocate((FIXED + name.size + 3) / 4 * 4).order(ByteOrder.LITTLE_ENDIAN)
    buffer.put("PEPHOTOS".toByteArray()).putInt(FORMAT).putInt(dim).putInt(name.size).put(name)
    return buffer.array()
}

private const val FIXED = 8 + 3 * 4
private const val FORMAT = 1

/**
 * One record of an index in a buffer of its own: CRC-32 of what follows, int32 kind, int64 id, int64 modified, int64 bytes,
 * `dim` float32 (zeros where there is no embedding).
 */
internal class IndexRecord(private val dim: Int) {
    val length = ROW + 4 * dim
    val buffer: ByteBuffer = ByteBuffer.allocate(length).order(ByteOrder.LITTLE_ENDIAN)
    private val crc = CRC32()

    /** Makes [buffer] a record, to be read from its start. */
    fun fill(entry: IndexEntry, photo: Photo, row: FloatArray?) {
        buffer.clear()
        buffer.putInt(0).putInt(entry.ordinal + 1).putLong(photo.id).putLong(photo.modified).putLong(photo.bytes)
        for (i in 0 until dim) buffer.putFloat(row?.get(i) ?: 0f)
        buffer.putInt(0, checksum())
        buffer.flip()
    }

    /** What the record in [buffer] says, or null where it is damaged. */
    val entry: IndexEntry? get() = if (buffer.getInt(0) == checksum()) IndexEntry.entries.getOrNull(buffer.getInt(4) - 1) else null

    val photo: Photo get() = Photo(buffer.getLong(8), buffer.getLong(16), buffer.getLong(24))

    private fun checksum(): Int {
        crc.reset()
        crc.update(buffer.array(), 4, length - 4)
        return crc.value.toInt()
    }

    companion object {
        /** Where the numbers begin. */
        const val ROW = 32
    }
}
