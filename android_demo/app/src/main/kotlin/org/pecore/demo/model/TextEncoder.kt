package org.pecore.demo.model

import com.google.ai.edge.litert.LiteRtException
import org.pecore.core.Bundle
import org.pecore.core.ModelFile
import org.pecore.core.TokenEncoder

/**
 * A text tower that is loaded, on the CPU: that is where its conversion's gates ran it. Throws, and is used, as [Tower] is.
 *
 * @throws EncoderException the CPU does not take it, or LiteRT's libraries do not load on this device.
 */
class TextEncoder(bundle: Bundle, private val model: ModelFile) :
    TokenEncoder,
    AutoCloseable {
    private val tower =
        try {
            Tower(model, Compute.CPU, bundle.embeddingDim)
        } catch (error: LiteRtException) {
            throw EncoderException("the CPU can't run ${model.name}: ${reason(error)}", error)
        } catch (error: LinkageError) {
            throw noLibrary(error)
        }

    override fun encode(ids: IntArray): FloatArray = tower.run { it.writeInt(ids) }

    override fun close() = tower.close()
}
