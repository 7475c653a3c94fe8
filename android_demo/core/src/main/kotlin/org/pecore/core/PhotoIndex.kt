package org.pecore.core

import java.io.Closeable
import java.io.File
import java.io.IOException
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer
import java.nio.channels.FileChannel
import java.nio.file.Files
import java.nio.file.StandardCopyOption
import java.util.stream.IntStream

/** A file that is no index of the wanted embeddings; [message] is one sentence for people. */
class IndexException(message: String) : Exception(message)

/** A photograph that a search found, and its cosine with the query. */
data class Hit(val id: Long, val cosine: Double)

/**
 * Embeddings of photographs in one file that only grows: a kill at any byte costs the record that was being written.
 *
 * The file is [indexHeader] and records of one length ([IndexRecord]), each with a checksum. A damaged record is passed over,
 * an end that is no whole record is overwritten, a later record of a photograph replaces an earlier one, and [compact] leaves
 * out what was replaced. A search reads the rows from the mapped file, with as many threads as there are cores, and they take no
 * memory of the app's own. Not to be called by several threads at once.
 *
 * @param file made where there is none.
 * @param space which embeddings these are; those of another one are refused.
 * @param dim numbers in an embedding.
 * @throws IndexException the file has another header.
 * @throws IOException the storage is full or gone.
 */
class PhotoIndex(private val file: File, space: String, private val dim: Int) : Closeable {
    private val header = indexHeader(space, dim)
    private val record = IndexRecord(dim)
    private lateinit var channel: FileChannel
    private val known = HashMap<Long, Known>()

    /** Whole records in the file; of each the photograph whose row it holds, or [NO_ROW]. */
    private var records = 0
    private var ids = LongArray(0)

    /** The file, mapped in pieces. A full one stays; the last one is mapped anew when it has grown. */
    private val pieces = ArrayList<Piece>()
    private val pieceRecords = PIECE_BYTES / record.length

    private class Known(val photo: Photo, val place: Int)

    private class Piece(val numbers: FloatBuffer, val records: Int) {
        /** The same numbers with a position of their own, for another thread. */
        fun view() = Piece(numbers.duplicate(), records)
    }

    /** Damaged records that were passed over when the file was opened. */
    var damaged = 0
        private set

    /** Photographs that a search can find. */
    var searchable = 0
        private set

    /** Photographs that are known, those included that can't be read. */
    val photos: Collection<Photo> get() = known.values.map { it.photo }

    /** Records that [compact] would leave out. */
    val wasted: Int get() = records - known.size

    init {
        part().delete()
        if (file.length() < header.size) replace { }
        open()
    }

    private fun open() {
        channel = RandomAccessFile(file, "rw").channel
        try {
            load()
        } catch (error: Throwable) {
            close()
            throw error
        }
    }

    private fun load() {
        val begin = ByteBuffer.allocate(header.size)
        read(begin, 0)
        if (!begin.array().contentEquals(header)) {
            throw IndexException("${file.name} is no index of this model's embeddings: start again with an empty one")
        }
        val whole = (channel.size() - header.size) / record.length
        if (whole > MOST) throw IndexException("${file.name} holds $whole records, this app takes $MOST: start again with an empty one")
        known.clear()
        pieces.clear()
        records = 0
        searchable = 0
        damaged = 0
        ids = LongArray(whole.toInt())
        repeat(whole.toInt()) {
            record.buffer.clear()
            read(record.buffer, offset(records))
            record.entry?.let { remember(it, record.photo) } ?: pass()
        }
    }

    private fun pass() {
        ids[records++] = NO_ROW
        damaged++
    }

    /** Counts the record at the end of those that are known. */
    private fun remember(entry: IndexEntry, photo: Photo) {
        known.remove(photo.id)?.let { before ->
            if (ids[before.place] != NO_ROW) searchable--
            ids[before.place] = NO_ROW
        }
        if (records == ids.size) ids = ids.copyOf(maxOf(2 * records, 64))
        ids[records] = if (entry == IndexEntry.EMBEDDED) photo.id else NO_ROW
        if (entry == IndexEntry.EMBEDDED) searchable++
        if (entry != IndexEntry.REMOVED) known[photo.id] = Known(photo, records)
        records++
    }

    /** What is known of a photograph, as it was then. */
    operator fun get(id: Long): Photo? = known[id]?.photo

    /**
     * Adds a photograph, or replaces what is known of it.
     *
     * @param embedding `dim` numbers of any length; kept as a direction.
     * @throws IllegalArgumentException the embedding has no direction.
     * @throws IOException the storage is full or gone; the index is as it was.
     */
    fun put(photo: Photo, embedding: FloatArray) {
        require(embedding.size == dim) { "an embedding of ${embedding.size} numbers, where the index has $dim" }
        append(IndexEntry.EMBEDDED, photo, normalised(embedding))
    }

    /** Remembers that a photograph can't be read: not to be tried again before it changes. */
    fun putUnreadable(photo: Photo) = append(IndexEntry.UNREADABLE, photo)

    /** Leaves a photograph out from now on. */
    fun remove(id: Long) {
        this[id]?.let { append(IndexEntry.REMOVED, it) }
    }

    private fun append(entry: IndexEntry, photo: Photo, row: FloatArray? = null) {
        if (records == MOST) compact()
        if (records == MOST) throw IOException("${file.name} is full: it takes $MOST photographs")
        record.fill(entry, photo, row)
        val end = offset(records)
        while (record.buffer.hasRemaining()) channel.write(record.buffer, end + record.buffer.position())
        remember(entry, photo)
    }

    /** Waits until what was added is safe from the phone itself being switched off. */
    fun flush() = channel.force(false)

    /** Writes what counts to a new file, which then takes this one's place. A kill leaves the one or the other. */
    fun compact() {
        val kept = known.values.map { it.place }.sorted()
        replace { to ->
            for (place in kept) {
                record.buffer.clear()
                read(record.buffer, offset(place))
                record.buffer.flip()
                while (record.buffer.hasRemaining()) to.write(record.buffer)
            }
        }
        channel.close()
        open()
    }

    /** A photograph's direction, or null where it has none. */
    fun embedding(id: Long): FloatArray? {
        val place = known[id]?.place?.takeIf { ids[it] == id } ?: return null
        return FloatArray(dim).also { piece(place / pieceRecords).row(place % pieceRecords, it) }
    }

    /**
     * The [top] photographs nearest to [query], the nearest first, of equal ones the one that was added first; fewer where
     * fewer are [searchable].
     *
     * @param query `dim` numbers of any length.
     * @throws IllegalArgumentException the query has no direction.
     */
    fun search(query: FloatArray, top: Int): List<Hit> {
        require(query.size == dim) { "a query of ${query.size} numbers, where the index has $dim" }
        val direction = normalised(query)
        val nearest = Nearest(minOf(top, searchable))
        for (first in 0 until records step pieceRecords) piece(first / pieceRecords) // mapped before several threads read
        IntStream
            .rangeClosed(0, (records - 1) / SPAN)
            .parallel()
            .mapToObj { nearestIn(it * SPAN until minOf((it + 1) * SPAN, records), direction, nearest.top) }
            .forEachOrdered(nearest::offer)
        return nearest.map { place, score -> Hit(ids[place], score) }
    }

    private fun nearestIn(places: IntRange, direction: FloatArray, top: Int): Nearest {
        val nearest = Nearest(top)
        val row = FloatArray(dim)
        val views = pieces.map { it.view() }
        for (place in places) {
            if (ids[place] == NO_ROW) continue
            views[place / pieceRecords].row(place % pieceRecords, row)
            nearest.offer(place, quickDot(direction, row))
        }
        return nearest
    }

    private fun piece(number: Int): Piece {
        val count = minOf(pieceRecords, records - number * pieceRecords)
        pieces.getOrNull(number)?.let { if (it.records == count) return it }
        val map = channel.map(FileChannel.MapMode.READ_ONLY, offset(number * pieceRecords), count.toLong() * record.length)
        val piece = Piece(map.order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer(), count)
        if (number < pieces.size) pieces[number] = piece else pieces.add(piece)
        return piece
    }

    private fun Piece.row(place: Int, into: FloatArray) {
        numbers.position((place * record.length + IndexRecord.ROW) / 4)
        numbers.get(into)
    }

    private fun offset(place: Int): Long = header.size + place.toLong() * record.length

    private fun read(into: ByteBuffer, from: Long) {
        while (into.hasRemaining()) {
            if (channel.read(into, from + into.position()) < 0) throw IOException("${file.name} ends before its last record")
        }
    }

    private fun part() = File(file.path + ".part")

    private fun replace(records: (FileChannel) -> Unit) {
        try {
            RandomAccessFile(part(), "rw").channel.use { to ->
                to.write(ByteBuffer.wrap(header))
                records(to)
                to.force(true)
            }
            Files.move(part().toPath(), file.toPath(), StandardCopyOption.REPLACE_EXISTING, StandardCopyOption.ATOMIC_MOVE)
        } finally {
            part().delete()
        }
    }

    override fun close() = channel.close()

    private companion object {
        const val NO_ROW = Long.MIN_VALUE
        const val MOST = 1_000_000
        const val PIECE_BYTES = 1 shl 28
        const val SPAN = 2048 // records that one thread searches before it takes others
    }
}
