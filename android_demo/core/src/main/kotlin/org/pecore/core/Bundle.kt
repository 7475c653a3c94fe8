package org.pecore.core

import java.io.File

/** How the model's input is laid out. */
enum class Layout { NCHW, NHWC }

/** What the model's input expects, [text] in the manifest: -1..1, or others where the graph normalises. */
enum class ValueRange(val text: String) {
    MINUS_ONE_TO_ONE("-1..1"),
    ZERO_TO_ONE("0..1"),
    ZERO_TO_255("0..255"),
}

/** The model's input: [size] x [size] RGB pixels, and how an image becomes as many. */
data class InputSpec(val name: String, val size: Int, val layout: Layout, val range: ValueRange, val resize: Resize = Resize()) {
    /** Numbers in an input. */
    val length: Int get() = 3 * size * size
}

/** A `.tflite` of a tower; [precision] of its weights: `fp16`, `fp32`, `int8`, or one that this app does not know. */
class ModelFile internal constructor(listed: ListedFile, val precision: String) : ListedFile(listed.file, listed.bytes, listed.sha256)

/** A verdict of the conversion's gates, in the manifest's words. */
data class GateVerdict(val gate: String, val subject: String, val backend: String, val outcome: String, val detail: String)

/** What a device judges itself by: [thresholds] is file -> `cpu`, `gpu fp16`, `gpu fp32` -> figure -> worst value that passes. */
class SelfTestSpec internal constructor(val reference: ListedFile, val thresholds: Map<String, Map<String, Map<String, Double>>>)

/**
 * A folder that `pecore convert` wrote, as docs/artefacts.md describes it.
 *
 * [size] is the variant's (`B16`). [models] are those in the folder, the preferred one first; [absent] are the names of
 * those that the manifest lists and the folder lacks. [labels] and [text] are null where none were made, [selfTest] where
 * the converter was older.
 */
class Bundle private constructor(
    val folder: File,
    val name: String,
    val size: String,
    val models: List<ModelFile>,
    val absent: List<String>,
    val input: InputSpec,
    val outputName: String,
    val embeddingDim: Int,
    val weights: Weights,
    val labels: Labels?,
    val text: TextSpec?,
    val selfTest: SelfTestSpec?,
    val gates: List<GateVerdict>,
) {
    /** What tells which embeddings this bundle's may be compared with. */
    val space: String get() = "$size ${weights.fingerprint ?: weights.source}"

    /** The model called [name], or null. */
    fun model(name: String): ModelFile? = models.firstOrNull { it.name == name }

    companion object {
        /**
         * Reads the manifest and the labels, and looks at the models' lengths; [ListedFile.verify] reads a model.
         *
         * @throws BundleException the folder is no bundle with a vision tower, or a file in it is not what it should be.
         */
        fun open(folder: File): Bundle {
            val manifest = readManifest(folder)
            if ("files" !in manifest.keys || "weights" !in manifest.keys) {
                throw BundleException("${folder.name} holds no vision tower: make one with `pecore convert`")
            }
            val name = manifest.text("name")
            val (present, absent) = models(folder, manifest.section("files")).partition { it.file.exists() }
            if (present.isEmpty()) throw BundleException("${folder.name} holds no .tflite file: $REINSTALL")
            present.forEach { it.checkLength() }
            val output = output(manifest)
            val dim = output.ints("shape")[1]
            val size = manifest.section("variant").text("size")
            val weights = readWeights(manifest.section("weights"))
            val labels = manifest.sectionOrNull("labels")?.let { Labels.read(folder, it, size) }
            labels?.checkPartner(name, size, dim, weights)
            return Bundle(
                folder,
                name,
                size,
                present,
                absent.map { it.name },
                input(manifest),
                output.text("name"),
                dim,
                weights,
                labels,
                manifest.sectionOrNull("text")?.let { readText(folder, it, dim, weights) },
                manifest.sectionOrNull("self_test")?.let { selfTest(folder, it) },
                manifest.sections("gates").map(::gate),
            )
        }
    }
}

private val PREFERRED = listOf("fp16", "fp32", "int8")

internal fun models(folder: File, files: Section): List<ModelFile> =
    files.keys
        .filter { it.endsWith(".tflite") }
        .map { name -> files.section(name).let { ModelFile(listedFile(folder, name, it), it.text("precision")) } }
        .sortedBy { PREFERRED.indexOf(it.precision).let { place -> if (place < 0) PREFERRED.size else place } }

private fun input(manifest: Section): InputSpec {
    val input = manifest.section("input")
    val shape = input.ints("shape")
    val layout =
        when (val layout = input.text("layout")) {
            "nchw" -> Layout.NCHW
            "nhwc" -> Layout.NHWC
            else -> throw BundleException("the model's input layout is $layout, which this app does not know: update the app")
        }
    val range =
        ValueRange.entries.firstOrNull { it.text == input.text("range") }
            ?: throw BundleException("the model's input range is ${input.text("range")}, which this app does not know: update the app")
    val size = shape.getOrElse(2) { 0 }
    val expected = if (layout == Layout.NCHW) listOf(1, 3, size, size) else listOf(1, size, size, 3)
    if (shape != expected || size < 1 || input.text("dtype") != "float32") {
        throw BundleException(
            "the model takes ${input.text("dtype")} $shape, this app one square float32 image: convert it without --batch",
        )
    }
    val resize = Resize.of(manifest.section("preprocessing"))
    return InputSpec(input.text("name"), size, layout, range, resize)
}

/** The model's one output, an embedding `[1, dim]`; `outputs` lists all of them where there may be more. */
private fun output(manifest: Section): Section {
    val output = manifest.section("output")
    val all = if ("outputs" in manifest.keys) manifest.sections("outputs") else listOf(output)
    val shape = output.ints("shape")
    val embedding = output.text("name") == "embedding" && shape.size == 2 && shape[0] == 1 && shape[1] > 0
    if (!embedding || all.size != 1 || output.text("dtype") != "float32") {
        val given = all.joinToString(" and ") { "${it.text("name")} ${it.ints("shape")}" }
        throw BundleException("the model gives $given, this app needs one embedding: convert it with --output embedding")
    }
    return output
}

private fun selfTest(folder: File, section: Section): SelfTestSpec {
    val reference = section.section("reference")
    val thresholds = section.section("thresholds")
    return SelfTestSpec(
        listedFile(folder, reference.text("name"), reference),
        thresholds.each { kinds -> kinds.each { limits -> limits.keys.associateWith(limits::number) } },
    )
}

private fun <T> Section.each(read: (Section) -> T): Map<String, T> = keys.associateWith { read(section(it)) }

private fun gate(section: Section) =
    GateVerdict(
        section.text("gate"),
        section.text("subject"),
        section.text("backend"),
        section.text("outcome"),
        section.text("detail"),
    )
