package org.pecore.core

import kotlin.math.max
import kotlin.math.min

internal const val PRECISION_BITS = 32 - 8 - 2

/**
 * Fixed-point weights of a resize from [from] pixels to [to] along one axis (docs/preprocessing.md, 2), of which the
 * middle [size] are kept.
 *
 * Output pixel x reads `count[x]` pixels from `first[x]` on, with the weights from `x * taps` on.
 */
internal class Axis(val from: Int, val to: Int, val size: Int = to, filter: Filter = Filter.BILINEAR) {
    val first = IntArray(size)
    val count = IntArray(size)
    val taps: Int
    val weights: IntArray

    init {
        val scale = from.toDouble() / to
        val support = filter.radius * max(scale, 1.0)
        val steepness = 1.0 / max(scale, 1.0)
        taps = min(2 * support.toInt() + 3, from)
        weights = IntArray(size * taps)
        val shares = DoubleArray(taps)
        val start = middle(to - size)
        for (x in 0 until size) {
            val centre = (start + x + 0.5) * scale
            first[x] = max((centre - support + 0.5).toInt(), 0)
            count[x] = min((centre + support + 0.5).toInt(), from) - first[x]
            var sum = 0.0
            for (k in 0 until count[x]) {
                shares[k] = filter.weigh((first[x] + k - centre + 0.5) * steepness)
                sum += shares[k]
            }
            for (k in 0 until count[x]) weights[x * taps + k] = fixed(shares[k] / sum)
        }
    }
}

/** Half of what is left over; a half goes to the even number. */
private fun middle(left: Int): Int = if (left % 2 == 0) left / 2 else (left + 1) / 4 * 2

private fun fixed(weight: Double): Int = (weight * (1 shl PRECISION_BITS) + if (weight < 0) -0.5 else 0.5).toInt()
