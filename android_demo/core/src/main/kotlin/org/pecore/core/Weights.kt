package org.pecore.core

/**
 * Where a tower's weights came from. [kind]: `hub`, `timm`, `open_clip`, `meta`, `synthetic`; [source] is for people;
 * [fingerprint] is of the vision tower's tensors, null for synthetic texts. A [synthetic] tower classifies nothing.
 */
data class Weights(val kind: String, val source: String, val synthetic: Boolean, val seed: Long?, val fingerprint: String?)

internal fun readWeights(section: Section) =
    Weights(
        section.text("kind"),
        section.text("source"),
        section.flag("synthetic"),
        section.longOrNull("seed"),
        section.textOrNull("fingerprint"),
    )

/** Whether embeddings of a text tower may be compared with a vision tower's: the table at the end of docs/artefacts.md. */
internal fun belong(text: Weights, vision: Weights): Boolean =
    when {
        text.synthetic != vision.synthetic -> false
        text.fingerprint != null && text.fingerprint == vision.fingerprint -> true
        text.synthetic -> (text.fingerprint == null || vision.fingerprint == null) && text.seed == vision.seed
        else -> text.kind == "hub" && vision.kind == "hub"
    }
