package org.pecore.core

import kotlin.math.exp

/** A label for an image: [index] in [Labels.names]; [probability] is over the labels that were asked about. */
data class Prediction(val index: Int, val label: String, val cosine: Double, val probability: Double)

/** From an image's embedding to labels (docs/preprocessing.md, Scores). Keeps its buffers: not for several threads at once. */
class Classifier(val labels: Labels) {
    private val cosines = DoubleArray(labels.names.size)

    /**
     * The [top] labels, the largest cosine first, of equal ones the first; fewer where fewer are [active].
     *
     * @param embedding `labels.dim` numbers; normalised here, because an fp16 GPU is off by its rounding.
     * @param active one flag a label, or null for all of them; the softmax runs over these.
     * @throws IllegalArgumentException an embedding that is no direction (NaN, infinity, zero), or of another length.
     */
    fun classify(embedding: FloatArray, top: Int = 5, active: BooleanArray? = null): List<Prediction> {
        require(embedding.size == labels.dim) { "an embedding of ${embedding.size} numbers, where the labels have ${labels.dim}" }
        require(active == null || active.size == cosines.size) { "${active?.size} flags for ${cosines.size} labels" }
        val norm = norm(embedding)
        var count = 0
        var largest = Double.NEGATIVE_INFINITY
        for (i in cosines.indices) {
            if (active != null && !active[i]) continue
            cosines[i] = dot(embedding, labels.rows, i * labels.dim) / norm
            if (cosines[i] > largest) largest = cosines[i]
            count++
        }
        var sum = 0.0
        for (i in cosines.indices) {
            if (active == null || active[i]) sum += exp(labels.logitScale * (cosines[i] - largest))
        }
        val found = ArrayList<Prediction>(minOf(top, count))
        var last = -1
        repeat(minOf(top, count)) {
            last = next(last, active)
            val probability = exp(labels.logitScale * (cosines[last] - largest)) / sum
            found += Prediction(last, labels.names[last], cosines[last], probability)
        }
        return found
    }

    /** The active label that comes after [last] by cosine, then by index; the first one for -1. */
    private fun next(last: Int, active: BooleanArray?): Int {
        var best = -1
        for (i in cosines.indices) {
            if (active != null && !active[i]) continue
            val after = last < 0 || cosines[i] < cosines[last] || (cosines[i] == cosines[last] && i > last)
            if (after && (best < 0 || cosines[i] > cosines[best])) best = i
        }
        return best
    }
}
