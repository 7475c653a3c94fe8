package org.pecore.demo

import org.pecore.core.AccessNotice
import org.pecore.core.Hit
import org.pecore.core.Pause

/**
 * The search screen. [searchable] photographs can be found. [missing] says what the bundle lacks for words, [problem] what went
 * wrong last.
 */
data class SearchState(
    val access: AccessNotice = AccessNotice.ASK,
    val missing: String? = null,
    val searching: Boolean = false,
    val hits: List<Hit> = emptyList(),
    val problem: String? = null,
    val searchable: Int = 0,
    val indexing: Indexing = Indexing.Idle(0),
    val whileCharging: Boolean = true,
)

/** What the index is at. [done] of [total] photographs are in it. */
sealed interface Indexing {
    /** Nothing is being done; [left] photographs are not in the index yet. */
    data class Idle(val left: Int) : Indexing

    data class Running(val done: Int, val total: Int, val secondsLeft: Int?) : Indexing

    data class Waiting(val pause: Pause, val done: Int, val total: Int) : Indexing

    /** [spoilt]: the index itself can't be read, and only an empty one helps. */
    data class Failed(val sentence: String, val spoilt: Boolean = false) : Indexing
}

/** What a person can do with the search, apart from what needs the phone. */
interface SearchActions {
    fun search(words: String)

    fun searchLike(id: Long)

    fun pauseIndexing()

    fun startAgain()
}
