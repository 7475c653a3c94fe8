package org.pecore.core

/** Labels that a person typed: [names] in their order, and the [template] that each is put into. Immutable. */
data class OwnLabels(val names: List<String> = emptyList(), val template: String = DEFAULT_TEMPLATE) {
    /** With [name] at the end; as it is where the name is empty, or already one to the tokenizer, which lower-cases. */
    fun add(name: String): OwnLabels {
        val plain = name.trim()
        return if (plain.isEmpty() || names.any { clean(it) == clean(plain) }) this else copy(names = names + plain)
    }

    fun remove(name: String) = copy(names = names - name)

    /** Why the template can't be used; null where it can. */
    val problem: String?
        get() = if ("{}" in template) null else "The template \"$template\" has no {} for the label: try \"$DEFAULT_TEMPLATE\"."

    /** One line each, the template first: what [parse] reads. */
    fun format(): String = (listOf(template) + names).joinToString("\n")

    companion object {
        const val DEFAULT_TEMPLATE = "a photo of a {}"

        fun parse(text: String): OwnLabels = text.split('\n').let { OwnLabels(it.drop(1), it[0]) }
    }
}

/**
 * The labels' embeddings, which the bundle's vision tower may be compared with.
 *
 * @param progress told how many labels are done.
 * @throws BundleException the bundle has no text tower.
 */
fun Bundle.embed(own: OwnLabels, embedder: TextEmbedder, progress: (Int) -> Unit = {}): Labels {
    val text = requireText()
    val rows = FloatArray(own.names.size * embeddingDim)
    own.names.forEachIndexed { i, name ->
        embedder.embedLabel(name, listOf(own.template)).copyInto(rows, i * embeddingDim)
        progress(i + 1)
    }
    return Labels(own.names, embeddingDim, text.logitScale, size, text.weights, emptyList(), rows)
}
