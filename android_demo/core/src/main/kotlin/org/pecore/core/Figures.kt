package org.pecore.core

import java.math.MathContext
import kotlin.math.abs
import kotlin.math.sqrt

/**
 * How far outputs are from their references, the worst over the samples, as in validate/parity.py: [cosine] and
 * [correlation] the lowest (both are blind to scale), [normError] the largest | |actual| / |reference| - 1 |, [maxAbsDiff]
 * the largest difference of any number, [relativeDiff] that over the reference's largest number. All NaN where an output is
 * not finite.
 */
data class Figures(val cosine: Double, val correlation: Double, val normError: Double, val maxAbsDiff: Double, val relativeDiff: Double) {
    /** By the names they have in thresholds and reports. */
    val byName: Map<String, Double>
        get() =
            mapOf(
                "cosine" to cosine,
                "correlation" to correlation,
                "norm_error" to normError,
                "max_abs_diff" to maxAbsDiff,
                "relative_diff" to relativeDiff,
            )

    /** Those that miss their limit, NaN included, a part of a sentence each. */
    fun missed(limits: Map<String, Double>): List<String> =
        limits.mapNotNull { (name, limit) ->
            val value = byName[name] ?: return@mapNotNull "$name is not known here: update the app"
            val atLeast = name in AT_LEAST
            val good = if (atLeast) value >= limit else value <= limit
            if (good) null else "$name ${shown(value)} (must be ${if (atLeast) ">=" else "<="} ${shown(limit)})"
        }

    companion object {
        private val AT_LEAST = setOf("cosine", "correlation")

        private fun shown(value: Double) = value.toBigDecimalOrNull()?.toString() ?: value.toString()

        private fun Double.toBigDecimalOrNull() = if (isFinite()) toBigDecimal(SEVEN_DIGITS).stripTrailingZeros() else null

        private val SEVEN_DIGITS = MathContext(7)

        private val NOT_FINITE = Figures(Double.NaN, Double.NaN, Double.NaN, Double.NaN, Double.NaN)

        /** Compares outputs with their references, pairwise. */
        fun compare(references: List<FloatArray>, outputs: List<FloatArray>): Figures {
            require(references.isNotEmpty() && references.size == outputs.size) {
                "${references.size} references and ${outputs.size} outputs: one of each is needed for every input"
            }
            return references.zip(outputs, ::figures).reduce { a, b ->
                Figures(
                    minOf(a.cosine, b.cosine),
                    minOf(a.correlation, b.correlation),
                    maxOf(a.normError, b.normError),
                    maxOf(a.maxAbsDiff, b.maxAbsDiff),
                    maxOf(a.relativeDiff, b.relativeDiff),
                )
            }
        }

        private fun figures(reference: FloatArray, output: FloatArray): Figures {
            require(reference.isNotEmpty() && reference.size == output.size) {
                "an output of ${output.size} numbers can't be compared with a reference of ${reference.size}"
            }
            if (!output.all { it.isFinite() }) return NOT_FINITE
            val r = DoubleArray(reference.size) { reference[it].toDouble() }
            val a = DoubleArray(output.size) { output[it].toDouble() }
            val largest = r.indices.maxOf { abs(a[it] - r[it]) }
            val scale = r.maxOf { abs(it) }
            return Figures(
                cosine(r, a),
                cosine(centred(r), centred(a)),
                abs(norm(a) / norm(r) - 1),
                largest,
                if (scale > 0) largest / scale else Double.NaN,
            )
        }

        private fun cosine(r: DoubleArray, a: DoubleArray) =
            r.indices.sumOf { r[it] * a[it] } / (norm(r) * norm(a)) // NaN where one of them is zero

        private fun norm(a: DoubleArray) = sqrt(a.sumOf { it * it })

        private fun centred(a: DoubleArray) = a.average().let { mean -> DoubleArray(a.size) { i -> a[i] - mean } }
    }
}
