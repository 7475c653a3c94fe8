package org.pecore.demo.model

import com.google.ai.edge.litert.LiteRtException
import org.pecore.core.Bundle
import org.pecore.core.ModelFile

/** [refusal] is why the GPU, which was asked for, did not take the model, where [encoder] runs on the CPU instead. */
class Opened(val encoder: ImageEncoder, val refusal: String?)

/**
 * Loads a model on [wanted]; where that is a GPU which refuses, on the CPU, with the reason.
 *
 * @throws EncoderException no backend takes it, or LiteRT's libraries do not load on this device.
 */
fun openEncoder(bundle: Bundle, model: ModelFile, wanted: Compute = Compute.GPU_FP16): Opened {
    val refusal =
        try {
            return Opened(ImageEncoder(bundle, model, wanted), null)
        } catch (error: LiteRtException) {
            if (wanted == Compute.CPU) throw EncoderException("the CPU can't run ${model.name}: ${reason(error)}", error)
            reason(error)
        } catch (error: LinkageError) {
            throw noLibrary(error)
        }
    try {
        return Opened(ImageEncoder(bundle, model, Compute.CPU), refusal)
    } catch (error: LiteRtException) {
        throw EncoderException("neither GPU nor CPU can run ${model.name}; GPU: $refusal; CPU: ${reason(error)}", error)
    }
}

internal fun noLibrary(error: LinkageError) =
    EncoderException("LiteRT's native library does not load on this device (it needs arm64): ${reason(error)}", error)

internal fun reason(error: Throwable): String = error.message?.trim()?.ifEmpty { null } ?: error.javaClass.simpleName
