package org.pecore.core

/** The [top] places with the largest scores that were offered, the largest first; of equal ones the one that came first. */
internal class Nearest(val top: Int) {
    private val places = IntArray(top)
    private val scores = DoubleArray(top)
    private var count = 0

    fun offer(place: Int, score: Double) {
        if (count == top && (top == 0 || score <= scores[top - 1])) return
        var at = if (count < top) count++ else top - 1
        while (at > 0 && scores[at - 1] < score) {
            places[at] = places[at - 1]
            scores[at] = scores[at - 1]
            at--
        }
        places[at] = place
        scores[at] = score
    }

    /** All that another one has kept, in its order. */
    fun offer(others: Nearest) {
        for (i in 0 until others.count) offer(others.places[i], others.scores[i])
    }

    fun <T> map(make: (place: Int, score: Double) -> T): List<T> = List(count) { make(places[it], scores[it]) }
}
