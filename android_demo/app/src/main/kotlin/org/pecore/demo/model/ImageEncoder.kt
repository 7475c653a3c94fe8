package org.pecore.demo.model

import org.pecore.core.Bundle
import org.pecore.core.ModelFile

/** A vision tower that is loaded: image in, embedding out. Throws, and is used, as [Tower] is. */
class ImageEncoder(bundle: Bundle, val model: ModelFile, val compute: Compute) : AutoCloseable {
    private val inputLength = bundle.input.length
    private val tower = Tower(model, compute, bundle.embeddingDim)

    /**
     * The embedding of a prepared image.
     *
     * @param input from the bundle's `Preprocessor`; not kept.
     */
    fun encode(input: FloatArray): FloatArray {
        require(input.size == inputLength) { "an input of ${input.size} numbers, where ${model.name} takes $inputLength" }
        return tower.run { it.writeFloat(input) }
    }

    override fun close() = tower.close()
}
