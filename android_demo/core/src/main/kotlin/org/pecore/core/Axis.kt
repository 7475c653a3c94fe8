package org.pecore.core

import kotlin.math.abs
import kotlin.math.max
import kotlin.math.min

internal const val PRECISION_BITS = 32 - 8 - 2

/**
 * Fixed-point weights of a resize from [from] pixels to [to] along one axis (docs/preprocessing.md, 2).
 *
 * Output pixel x reads `count[x]` pixels from `first[x]` on, with the weights from `x * taps` on.
 */
internal class Axis(val from: Int, val to: Int) {
    val first = IntArray(to)
    val count = IntArray(to)
    val taps: Int
    val weights: IntArray

    init {
        val scale = from.toDouble() / to
        val support = max(scale, 1.0)
        val steepness = 1.0 / support
        taps = min(2 * support.toInt() + 3, from)
        weights = IntArray(to * taps)
        val shares = DoubleArray(taps)
        for (x in 0 until to) {
            val centre = (x + 0.5) * scale
            first[x] = max((centre - support + 0.5).toInt(), 0)
            count[x] = min((centre + support + 0.5).toInt(), from) - first[x]
            var sum = 0.0
            for (k in 0 until count[x]) {
                shares[k] = max(1.0 - abs((first[x] + k - centre + 0.5) * steepness), 0.0)
                sum += shares[k]
            }
            for (k in 0 until count[x]) weights[x * taps + k] = (0.5 + shares[k] / sum * (1 shl PRECISION_BITS)).toInt()
        }
    }
}
