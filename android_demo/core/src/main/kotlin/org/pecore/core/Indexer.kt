package org.pecore.core

import java.io.IOException

/** An upright picture: ARGB, row by row from the top. */
class Pixels(val argb: IntArray, val width: Int, val height: Int)

/** The photographs of a phone, as far as the app may see them. */
interface PhotoLibrary {
    /** All of them, the newest first. */
    fun photos(): List<Photo>

    /** Whether it is still there. */
    fun has(id: Long): Boolean

    /**
     * One of them.
     *
     * @throws IOException it can't be read, or is gone.
     */
    fun read(id: Long): Pixels
}

/** What is left to do: photographs to [embed], in this order, and those to [remove]. */
class IndexingPlan(val embed: List<Photo>, val remove: List<Long>)

/** New and changed photographs, in the library's order, are to be embedded; those that the library lacks leave the index. */
fun planIndexing(library: List<Photo>, index: PhotoIndex): IndexingPlan {
    val there = library.mapTo(HashSet()) { it.id }
    return IndexingPlan(library.filter { index[it.id] != it }, index.photos.map { it.id }.filter { it !in there })
}

/** The storage did not take a record: to be tried again when there is room. */
class StorageException(cause: IOException) : Exception("The index can't be written (${cause.message}).", cause)

/**
 * Brings an index up to date, one photograph a [step], so that the caller decides between two of them whether to go on. It
 * keeps no state that a kill could lose: a new one goes on where the last one was.
 *
 * @param embed a picture's embedding; what it throws goes on to the caller, apart from IllegalArgumentException.
 */
class Indexer(private val library: PhotoLibrary, private val index: PhotoIndex, private val embed: (Pixels) -> FloatArray) {
    private var waiting = ArrayDeque<Photo>()
    private var pointless = 0

    /** Photographs in the library. */
    var total = 0
        private set

    /** Of [total], those that are up to date. */
    val done: Int get() = total - left

    /** And those that are not. */
    val left: Int get() = waiting.size

    /** Looks at the library: takes out what is gone, and returns whether there is anything to do. */
    fun plan(): Boolean {
        val photos = library.photos()
        val plan = planIndexing(photos, index)
        total = photos.size
        waiting = ArrayDeque(plan.embed)
        storing { plan.remove.forEach(index::remove) }
        return waiting.isNotEmpty()
    }

    /**
     * Embeds the next photograph. After the last one it looks at the library again, since it may have grown meanwhile.
     *
     * @return whether there is more to do.
     * @throws StorageException the photograph was not stored, and is the next one again.
     * @throws IllegalArgumentException the model gave no embedding for [POINTLESS] photographs in a row.
     */
    fun step(): Boolean {
        val photo = waiting.firstOrNull() ?: return finish()
        val embedding = read(photo.id)?.let { direction(it) }
        storing {
            when {
                embedding != null -> index.put(photo, embedding)
                library.has(photo.id) -> index.putUnreadable(photo)
            }
        }
        waiting.removeFirst()
        return waiting.isNotEmpty() || finish()
    }

    private fun finish(): Boolean {
        if (plan()) return true
        storing {
            if (index.wasted > maxOf(WASTED, index.photos.size / 4)) index.compact()
            index.flush()
        }
        return false
    }

    private fun read(id: Long): Pixels? =
        try {
            library.read(id)
        } catch (_: IOException) {
            null
        }

    /** The embedding, or null where it is no direction: a picture on which a GPU overflows is passed over, a GPU that always does is not. */
    private fun direction(pixels: Pixels): FloatArray? =
        try {
            normalised(embed(pixels)).also { pointless = 0 }
        } catch (error: IllegalArgumentException) {
            if (++pointless == POINTLESS) throw error
            null
        }

    private fun storing(write: () -> Unit) =
        try {
            write()
        } catch (error: IOException) {
            throw StorageException(error)
        }

    private companion object {
        const val POINTLESS = 3
        const val WASTED = 256
    }
}
