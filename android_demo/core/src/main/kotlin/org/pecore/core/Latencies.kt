package org.pecore.core

/** Times of the last [window] runs. Makes nothing per call: not for several threads at once. */
class Latencies(private val window: Int = 64) {
    private val millis = DoubleArray(window)
    private val ends = LongArray(window)
    private val sorted = DoubleArray(window)

    /** Runs since the start or the last [reset], also those that have left the window. */
    var runs = 0
        private set

    /** Runs in the window: those that [median] is of. */
    val recent: Int get() = minOf(runs, window)

    /** Of the last run; NaN before the first. */
    val last: Double get() = if (runs == 0) Double.NaN else millis[(runs - 1) % window]

    /** Of the runs in the window; NaN before the first. */
    val median: Double
        get() {
            val n = recent
            if (n == 0) return Double.NaN
            millis.copyInto(sorted, 0, 0, n)
            sorted.sort(0, n)
            return (sorted[(n - 1) / 2] + sorted[n / 2]) / 2
        }

    /** A run from [startNanos] to [endNanos], of one clock that never goes back. */
    fun add(startNanos: Long, endNanos: Long) {
        millis[runs % window] = (endNanos - startNanos) / 1e6
        ends[runs % window] = endNanos
        runs++
    }

    /** Runs that ended per second, of those in the window that are not older than [RECENT_NANOS]; null for fewer than two. */
    fun perSecond(nowNanos: Long): Double? {
        var n = 0
        while (n < recent && nowNanos - ends[(runs - 1 - n) % window] <= RECENT_NANOS) n++
        if (n < 2) return null
        val span = ends[(runs - 1) % window] - ends[(runs - n) % window]
        return if (span > 0) (n - 1) * 1e9 / span else null
    }

    /** Forgets all runs: another model, another backend, or a pause. */
    fun reset() {
        runs = 0
    }

    companion object {
        const val RECENT_NANOS = 2_000_000_000L
    }
}
