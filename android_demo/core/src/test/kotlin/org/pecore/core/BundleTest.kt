package org.pecore.core

import org.junit.jupiter.api.DynamicTest
import org.junit.jupiter.api.DynamicTest.dynamicTest
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.TestFactory
import org.junit.jupiter.api.assertThrows
import org.junit.jupiter.api.io.TempDir
import java.io.File
import kotlin.test.assertContains
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertNull

class BundleTest {
    @TempDir
    lateinit var folder: File

    private val tiny get() = TinyBundle(folder)

    @Test
    fun `a bundle is read`() {
        val bundle = Bundle.open(tiny.write())
        assertEquals(listOf("tiny_fp16.tflite" to "fp16", "tiny_int8.tflite" to "int8"), bundle.models.map { it.name to it.precision })
        assertEquals(InputSpec("image", 1, Layout.NCHW, ValueRange.MINUS_ONE_TO_ONE), bundle.input)
        assertEquals(2, bundle.embeddingDim)
        assertEquals(Weights("timm", "tiny.safetensors", false, null, "ab12"), bundle.weights)
        assertEquals(listOf("cat", "dog", "été"), bundle.labels!!.names)
        assertEquals(100.0, bundle.labels.logitScale)
        assertEquals(mapOf("cosine" to 0.99999), bundle.selfTest!!.thresholds["tiny_fp16.tflite"]!!["cpu"])
        assertEquals(listOf(GateVerdict("cpu", "tiny_fp16.tflite", "LiteRT CPU", "passed", "fine")), bundle.gates)
        bundle.models.forEach { it.verify() }
    }

    @Test
    fun `a text tower is read, and has to belong to the vision tower`() {
        val text = Bundle.open(tiny.withText().write()).requireText()
        assertEquals(listOf("tiny_text_int8.tflite") to 32, text.models.map { it.name } to text.contextLength)
        assertEquals(50.0, text.logitScale)
        assertEquals(49407, IntArray(2).also { Tokenizer.read(text.tokenizer).encode("cat", it) }[1])
        assertContains(assertThrows<BundleException> { Bundle.open(tiny.write()).requireText() }.message!!, "--size T16 --tower text")
        val spoilt =
            mapOf(
                "\"context_length\": 32" to "\"context_length\": 72",
                "\"dtype\": \"int32\"" to "\"dtype\": \"int64\"",
                "\"name\": \"text_embedding\", \"dtype\": \"float32\", \"shape\": [1, 2]" to "\"shape\": [1, 3]",
                "\"tokenizer.json\": {" to "\"tokenizer.txt\": {",
            )
        for ((from, to) in spoilt) {
            val error = assertThrows<BundleException> { Bundle.open(tiny.withText().write(edit = { it.replace(from, to) })) }
            assertContains(error.message!!, "--tower text", message = to)
        }
        // The labels' weights stay; the text tower's, which come last, do not.
        val other = { json: String -> json.substringBeforeLast("ab12") + "cd34" + json.substringAfterLast("ab12") }
        assertContains(assertThrows<BundleException> { Bundle.open(tiny.withText().write(edit = other)) }.message!!, "one checkpoint")
        tiny.withText().write(spoil = { File(it, "tokenizer.json").appendText(" ") })
        assertThrows<BundleException> { Tokenizer.read(Bundle.open(folder).requireText().tokenizer) }
    }

    @Test
    fun `the reference is NumPy's`() {
        val reference = Bundle.open(tiny.write()).reference()
        assertEquals(listOf(listOf(0f, 0.25f, 0.5f), listOf(0.75f, 1f, 1.25f)), reference.inputs.map { it.toList() })
        assertEquals(listOf(listOf(1f, 0f), listOf(0.6f, -0.8f)), reference.outputs.map { it.toList() })
    }

    @Test
    fun `nhwc and a bundle without labels and self-test`() {
        val bundle =
            Bundle.open(
                tiny.write({ text ->
                    text
                        .replace("[1, 3, 1, 1]", "[1, 1, 1, 3]")
                        .replace("nchw", "nhwc")
                        .replace("-1..1", "0..255")
                        .replace("\"labels\": {", "\"no labels\": {")
                        .replace("\"self_test\": {", "\"self_test\": null, \"older\": {")
                }),
            )
        assertEquals(InputSpec("image", 1, Layout.NHWC, ValueRange.ZERO_TO_255), bundle.input)
        assertNull(bundle.labels)
        assertContains(assertThrows<BundleException> { bundle.reference() }.message!!, "convert the model again")
    }

    @Test
    fun `a crop is read`() {
        val preprocessing = "\"crop\", \"filter\": \"bicubic, antialiased\", \"crop_pct\": 0.9"
        assertEquals(Resize(true, Filter.BICUBIC, 0.9), Bundle.open(tiny.write(edit("\"squash\"", preprocessing))).input.resize)
    }

    @Test
    fun `a precision that is not known comes last`() {
        val bundle = Bundle.open(tiny.write(edit("\"precision\": \"fp16\"", "\"precision\": \"fp4\"")))
        assertEquals(listOf("int8", "fp4"), bundle.models.map { it.precision })
    }

    @Test
    fun `one model of two is enough`() {
        val bundle = Bundle.open(tiny.write(spoil = { File(it, "tiny_int8.tflite").delete() }))
        assertEquals(listOf("tiny_fp16.tflite") to listOf("tiny_int8.tflite"), bundle.models.map { it.name } to bundle.absent)
    }

    @Test
    fun `a model of the right length and the wrong bytes is found when it is verified`() {
        val bundle = Bundle.open(tiny.write(spoil = { File(it, "tiny_fp16.tflite").writeBytes(ByteArray(200)) }))
        val shares = mutableListOf<Float>()
        assertContains(assertThrows<BundleException> { bundle.models[0].verify(shares::add) }.message!!, "tiny_fp16.tflite is not the file")
        assertEquals(listOf(1f), shares)
    }

    @TestFactory
    fun `every flaw has its sentence`(): List<DynamicTest> =
        listOf(
            flaw("holds no manifest.json", spoil = { File(it, "manifest.json").delete() }),
            flaw("is not JSON", { it.dropLast(5) }),
            flaw("is not a manifest", { "[]" }),
            flaw("update the app", edit("\"format\": 1", "\"format\": 2")),
            flaw("format in manifest.json is no whole number", edit("\"format\": 1", "\"format\": \"1\"")),
            flaw("holds no vision tower", edit("\"files\": {\n", "\"no files\": {")),
            flaw("lacks name", edit("\"name\": \"tiny\", ", "")),
            flaw("lacks input.layout", edit("\"layout\": \"nchw\", ", "")),
            flaw("is no text", edit("\"tiny.safetensors\"", "7")),
            flaw("is no plain name", edit("tiny_fp16.tflite", "../tiny_fp16.tflite")),
            flaw("tiny_fp16.tflite has 5 bytes instead of 200", spoil = { File(it, "tiny_fp16.tflite").writeBytes(ByteArray(5)) }),
            flaw("no .tflite", spoil = { all -> all.listFiles()!!.filter { it.extension == "tflite" }.forEach { it.delete() } }),
            flaw("input layout is chwn", edit("nchw", "chwn")),
            flaw("input range is 0..2", edit("-1..1", "0..2")),
            flaw("[2, 3, 1, 1]", edit("[1, 3, 1, 1]", "[2, 3, 1, 1]")),
            flaw("resized by letterbox", edit("squash", "letterbox")),
            flaw("resized by crop (lanczos", edit("\"squash\"", "\"crop\", \"filter\": \"lanczos\"")),
            flaw("resized by squash (bicubic", edit("\"squash\"", "\"squash\", \"filter\": \"bicubic, antialiased\"")),
            flaw("gives features", edit("\"embedding\"", "\"features\"")),
            flaw("gives embedding [1, 2, 7, 7]", edit("[1, 2]", "[1, 2, 7, 7]")),
            flaw(
                "gives features [1] and a [2], this app",
                edit("\"gates\"", """"outputs": [${output("features", 1)}, ${output("a", 2)}], "gates""""),
            ),
            flaw("labels.txt is missing", spoil = { File(it, "labels.txt").delete() }),
            flaw("labels.txt is not the file", spoil = { File(it, "labels.txt").writeText("cat\ndog\nhiver\n") }),
            flaw("labels.txt has 2 labels for 3", tiny.put("labels.txt", "cat\ndog\n".toByteArray())),
            flaw("labels.txt is not UTF-8", tiny.put("labels.txt", byteArrayOf(-1, 10, 65, 10, 66, 10))),
            flaw("says 4 rows of 2", tiny.put("text_embeddings.bin", TinyBundle.rows(FloatArray(6), n = 4))),
            flaw("has 31 bytes", tiny.put("text_embeddings.bin", tiny.rows.dropLast(1).toByteArray())),
            flaw("has 3 bytes", tiny.put("text_embeddings.bin", ByteArray(3))),
            flaw("the manifest 0 of 2", edit("\"n\": 3", "\"n\": 0")),
            flaw("row 2 of text_embeddings.bin has norm NaN", rows(1f, 0f, Float.NaN, 0f, 0f, 1f)),
            flaw("row 3 of text_embeddings.bin has norm Infinity", rows(1f, 0f, 0f, 1f, 0f, Float.POSITIVE_INFINITY)),
            flaw("row 2 of text_embeddings.bin has norm 0.5", rows(1f, 0f, 0.5f, 0f, 0f, 1f)),
            flaw("logit_scale is 0", edit("100.0", "0")),
            flaw(
                "from tiny.pt, and tiny is from tiny.safetensors",
                edit("\"seed\": null, \"fingerprint\": \"ab12\"}}}", "\"seed\": null, \"fingerprint\": \"cd\"}}}"),
            ),
            flaw("rows of 2 numbers, and tiny gives 3", edit("\"shape\": [1, 2]", "\"shape\": [1, 3]")),
        )

    @Test
    fun `a damaged reference is refused`() {
        val bundle = Bundle.open(tiny.write(spoil = { File(it, "reference.npz").appendText("x") }))
        assertContains(assertThrows<BundleException> { bundle.reference() }.message!!, "reference.npz has")
    }

    @Test
    fun `a reference of another model is refused`() {
        val bundle = Bundle.open(tiny.write({ it.replace("[1, 3, 1, 1]", "[1, 3, 2, 2]") }))
        assertContains(assertThrows<BundleException> { bundle.reference() }.message!!, "does not fit")
    }

    @Test
    fun `labels of another folder, for the same weights alone`() {
        val bundle = Bundle.open(tiny.write())
        val other = File(folder, "labels").apply { mkdir() }
        val edit = { text: String -> text.replace("\"weights\": {\"kind\": \"timm\"", "\"were\": {\"kind\": \"timm\"") }
        Labels.open(TinyBundle(other).write(edit)).checkPartner(bundle)
        val larger = Labels.open(TinyBundle(other).write({ edit(it).replace("T16", "B16") }))
        assertContains(assertThrows<BundleException> { larger.checkPartner(bundle) }.message!!, "made for B16, and tiny is T16")
        val none = TinyBundle(other).write({ it.replace("\"labels\": {", "\"no labels\": {") })
        assertContains(assertThrows<BundleException> { Labels.open(none) }.message!!, "holds no labels")
    }

    @Test
    fun `rows come as they are`() {
        assertContentEquals(floatArrayOf(1f, 0f, 0.6f, 0.8f, 0f, 1f), Bundle.open(tiny.write()).labels!!.rows)
    }

    private fun edit(from: String, to: String): (String) -> String = { it.replaceFirst(from, to).also { new -> check(new != it) } }

    private fun output(name: String, length: Int) = """{"name": "$name", "shape": [$length]}"""

    private fun rows(vararg numbers: Float) = tiny.put("text_embeddings.bin", TinyBundle.rows(numbers))

    private fun flaw(says: String, bundle: TinyBundle) = dynamicTest(says) { refused(says, bundle.write()) }

    private fun flaw(says: String, edit: (String) -> String = { it }, spoil: (File) -> Unit = {}) =
        dynamicTest(says) { refused(says, tiny.write(edit, spoil)) }

    private fun refused(says: String, folder: File) {
        val message = assertThrows<BundleException> { Bundle.open(folder) }.message!!
        assertContains(message, says)
        assertContains(message, ": ") // what to do
    }
}
