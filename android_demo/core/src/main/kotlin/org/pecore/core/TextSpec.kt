package org.pecore.core

import java.io.File

/**
 * A bundle's text tower, as its manifest lists it: [models], the preferred one first, each of [contextLength] tokens in and an
 * embedding out. Its files are looked at when they are opened.
 */
class TextSpec internal constructor(
    val models: List<ModelFile>,
    val tokenizer: ListedFile,
    val contextLength: Int,
    val logitScale: Double,
    val weights: Weights,
)

private const val TOKENIZER = "tokenizer.json"

/** The text tower of a manifest, which has to belong to the vision tower beside it. */
internal fun readText(folder: File, section: Section, dim: Int, vision: Weights): TextSpec {
    val files = section.section("files")
    val models = models(folder, files)
    if (models.isEmpty() || TOKENIZER !in files.keys) {
        throw BundleException(
            "the text tower of ${folder.name} lacks a .tflite or a $TOKENIZER: convert it again, `pecore convert --tower text`",
        )
    }
    val input = section.section("input")
    val output = section.section("output")
    val context = section.int("context_length")
    if (input.ints("shape") != listOf(1, context) || input.text("dtype") != "int32" || output.ints("shape") != listOf(1, dim)) {
        throw BundleException(
            "the text tower takes ${input.text("dtype")} ${input.ints("shape")} and gives ${output.ints("shape")}, " +
                "this app needs int32 [1, $context] and [1, $dim]: convert it again, `pecore convert --tower text`",
        )
    }
    val weights = readWeights(section.section("weights"))
    if (!belong(weights, vision)) {
        throw BundleException(
            "the text tower is from ${weights.source}, the vision tower from ${vision.source}: convert both from one checkpoint",
        )
    }
    return TextSpec(models, listedFile(folder, TOKENIZER, files.section(TOKENIZER)), context, section.number("logit_scale"), weights)
}

/**
 * The text tower, which words need.
 *
 * @throws BundleException the bundle has none; the sentence says how to add one.
 */
fun Bundle.requireText(): TextSpec =
    text ?: throw BundleException(
        "$name has no text tower, which words of your own need: add one with `pecore convert --size $size --tower text`, " +
            "and install the bundle again with install_bundle.sh",
    )
