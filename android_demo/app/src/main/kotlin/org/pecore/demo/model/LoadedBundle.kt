package org.pecore.demo.model

import org.pecore.core.Bundle
import org.pecore.core.Labels
import org.pecore.core.ListedFile
import org.pecore.core.OwnLabels
import org.pecore.core.Pixels
import org.pecore.core.Preprocessor
import org.pecore.core.TextEmbedder
import org.pecore.core.Tokenizer
import org.pecore.core.embed
import org.pecore.core.requireText

/**
 * A bundle with its vision tower loaded; the text tower from when words are first asked for. The worker's own.
 *
 * @param verify reads a file and refuses one that the manifest does not mean.
 */
class LoadedBundle(val bundle: Bundle, val encoder: ImageEncoder, private val verify: (ListedFile) -> Unit) : AutoCloseable {
    private val preprocessor = Preprocessor(bundle.input)
    private var text: TextEncoder? = null

    /** Rows of the labels that were embedded last, by label and template. */
    private var rows = emptyMap<Pair<String, String>, FloatArray>()

    /**
     * Words to embeddings; loads the text tower the first time.
     *
     * @throws org.pecore.core.BundleException the bundle has no text tower, or a damaged one.
     * @throws EncoderException the CPU does not take it.
     */
    val words: TextEmbedder by lazy(LazyThreadSafetyMode.NONE) {
        val spec = bundle.requireText()
        val model = spec.models.firstOrNull { it.file.exists() } ?: spec.models.first()
        verify(model)
        val tokenizer = Tokenizer.read(spec.tokenizer)
        TextEmbedder(tokenizer, spec.contextLength, TextEncoder(bundle, model).also { text = it })
    }

    /**
     * A person's own labels, embedded; only for those that are new the text tower is asked.
     *
     * @throws org.pecore.core.BundleException as [words].
     * @throws EncoderException as [words].
     */
    fun embed(own: OwnLabels): Labels {
        val before = rows
        val fresh = HashMap<Pair<String, String>, FloatArray>()
        val labels =
            bundle.embed(own) { name ->
                val key = name to own.template
                (before[key] ?: words.embedLabel(name, listOf(own.template))).also { fresh[key] = it }
            }
        rows = fresh
        return labels
    }

    /** What the vision tower takes for a picture, in an array that the next call overwrites. */
    fun prepare(pixels: Pixels): FloatArray = preprocessor.run(pixels.argb, pixels.width, pixels.height)

    override fun close() {
        encoder.close()
        text?.close()
    }
}
