package org.pecore.demo

import com.google.ai.edge.litert.FakeLiteRt
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonPrimitive
import org.junit.jupiter.api.DynamicTest
import org.junit.jupiter.api.DynamicTest.dynamicTest
import org.junit.jupiter.api.TestFactory
import org.junit.jupiter.api.io.TempDir
import org.pecore.core.Pixels
import org.pecore.core.TinyBundle
import org.pecore.core.Vectors
import org.pecore.core.double
import org.pecore.core.int
import org.pecore.core.list
import org.pecore.core.text
import java.io.File
import java.util.concurrent.Executor
import kotlin.math.roundToInt
import kotlin.test.assertEquals
import kotlin.test.assertIs

/**
 * What two towers answered in Python (`scripts/record_zero_shot.py`), replayed by the fake runtime: typed labels, tokens,
 * embeddings and ranking have to lead to Python's top-1. Every folder in tests/zero_shot is a recording.
 */
class ZeroShotTest {
    @TempDir
    lateinit var folder: File

    @TestFactory
    fun `top-1 is Python's`(): List<DynamicTest> =
        Vectors.file(RECORDINGS).listFiles()!!.sorted().map { dynamicTest(it.name) { replay("$RECORDINGS/${it.name}") } }

    private fun replay(name: String) {
        val recording = Vectors.json("$name/recording.json")
        val dim = recording.int("dim")
        val labels = recording.list("labels").map { it.jsonPrimitive.content }
        val prompts = rows(Vectors.floats("$name/prompts.f32"), dim)
        val images = rows(Vectors.floats("$name/images.f32"), dim)
        val ids = recording.list("ids").map { row -> row.jsonArray.map { it.jsonPrimitive.int.toFloat() } }
        FakeLiteRt.reset()
        FakeLiteRt.inputLength = 3
        FakeLiteRt.compute = { path, _, input -> if ("text" in path) prompts[ids.indexOf(input.toList())] else images[number(input)] }

        val controller = install(name, dim)
        controller.chooseLabels(own = true)
        controller.setTemplate(recording.text("template"))
        labels.forEach(controller::addLabel)
        assertEquals(labels, controller.state.labels)
        val top =
            images.indices.map { i ->
                controller.photo(Pixels(intArrayOf(0xFF000000.toInt() or i), 1, 1))
                labels.indexOf(controller.state.top.first().label)
            }
        assertEquals(recording.list("top1").map { it.jsonPrimitive.int }, top)
        val right = recording.list("truth").zip(top) { truth, here -> truth.jsonPrimitive.int == here }.count { it }
        assertEquals(recording.double("accuracy"), right.toDouble() / top.size, 1e-9)
        controller.close()
    }

    /** A bundle whose towers have the recording's shape and tokens. */
    private fun install(name: String, dim: Int): DemoController {
        val bundle = TinyBundle(File(folder, "recorded").apply { mkdirs() }).withText()
        bundle.put("tokenizer.json", Vectors.bytes("$name/tokenizer.json"))
        bundle.write(edit = { it.replace("[1, 2]", "[1, $dim]").replace("\"labels\": {", "\"none\": {") })
        val settings = mutableMapOf<String, String>()
        val remembered =
            object : Settings {
                override fun get(key: String) = settings[key]

                override fun set(key: String, value: String) {
                    settings[key] = value
                }
            }
        val controller = DemoController({ folder }, remembered, mapOf("name" to "Fake"), Executor { it.run() }, StateStore { })
        controller.resume()
        assertIs<ModelState.Ready>(controller.state.model)
        return controller
    }

    /** The picture's number is its one pixel. */
    private fun number(input: FloatArray) = input.fold(0) { sum, channel -> 256 * sum + ((channel * 0.5f + 0.5f) * 255).roundToInt() }

    private fun rows(numbers: FloatArray, dim: Int) = List(numbers.size / dim) { numbers.copyOfRange(it * dim, (it + 1) * dim) }

    private companion object {
        /** Beside the vectors. */
        const val RECORDINGS = "../zero_shot"
    }
}
