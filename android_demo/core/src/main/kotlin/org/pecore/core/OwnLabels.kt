package org.pecore.core

/** Labels that a person typed: [names] in their order, and the [template] that each is put into. Immutable. */
data class OwnLabels(val names: List<String> = emptyList(), val template: String = DEFAULT_TEMPLATE) {
    /** With [name] at the end; as it is where the name is empty, or already one to the tokenizer, which lower-cases. */
    fun add(name: String): OwnLabels = if (name.isBlank() || has(name)) this else copy(names = names + name.trim())

    /** With [to] in the place of [name]; as it is where that is empty, or one of the others. */
    fun rename(name: String, to: String): OwnLabels =
        if (to.isBlank() || remove(name).has(to)) this else copy(names = names.map { if (it == name) to.trim() else it })

    /** With [name] as many places further on as [by] says, as far as there are places. */
    fun move(name: String, by: Int): OwnLabels {
        val at = names.indexOf(name)
        if (at < 0) return this
        val rest = names - name
        val to = (at + by).coerceIn(0, rest.size)
        return copy(names = rest.take(to) + name + rest.drop(to))
    }

    fun remove(name: String) = copy(names = names - name)

    /** Whether [name] is one of them to the tokenizer. */
    fun has(name: String): Boolean = clean(name).let { plain -> names.any { clean(it) == plain } }

    /** Why the template can't be used; null where it can. */
    val problem: String?
        get() = if ("{}" in template) null else "The template \"$template\" has no {} for the label: try \"$DEFAULT_TEMPLATE\"."

    /** One line each, the template first: what [parse] reads. */
    fun format(): String = (listOf(template) + names).joinToString("\n")

    companion object {
        const val DEFAULT_TEMPLATE = "a photo of a {}"

        /** What [format] wrote; of an empty text, what there is at first. */
        fun parse(text: String): OwnLabels = if (text.isEmpty()) OwnLabels() else text.split('\n').let { OwnLabels(it.drop(1), it[0]) }
    }
}

/**
 * The labels' embeddings, which the bundle's vision tower may be compared with.
 *
 * @param row embeds a label.
 * @throws BundleException the bundle has no text tower.
 */
fun Bundle.embed(own: OwnLabels, row: (name: String) -> FloatArray): Labels {
    val text = requireText()
    val rows = FloatArray(own.names.size * embeddingDim)
    own.names.forEachIndexed { i, name -> row(name).copyInto(rows, i * embeddingDim) }
    return Labels(own.names, embeddingDim, text.logitScale, size, text.weights, emptyList(), rows)
}
