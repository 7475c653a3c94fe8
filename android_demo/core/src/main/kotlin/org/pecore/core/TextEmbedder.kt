package org.pecore.core

/** A text tower that is loaded: token ids in, an embedding out. */
fun interface TokenEncoder {
    /** @param ids of one text, as many as the tower takes; not kept. */
    fun encode(ids: IntArray): FloatArray
}

/** Words to embeddings, as `pecore/text.py` does it. Keeps its buffers: not for several threads at once. */
class TextEmbedder(private val tokenizer: Tokenizer, contextLength: Int, private val tower: TokenEncoder) {
    private val ids = IntArray(contextLength)

    /** The embedding of a text, of length 1; what is too long is cut. */
    fun embed(text: String): FloatArray {
        tokenizer.encode(text, ids)
        return normalised(tower.encode(ids))
    }

    /**
     * A label's row, as `pecore labels` makes it: every template filled in and embedded, the embeddings' mean, of length 1.
     *
     * @param templates with `{}` for the label.
     */
    fun embedLabel(label: String, templates: List<String>): FloatArray {
        val rows = templates.map { embed(it.replace("{}", label)) }
        return normalised(FloatArray(rows[0].size) { i -> (rows.sumOf { it[i].toDouble() } / rows.size).toFloat() })
    }
}
