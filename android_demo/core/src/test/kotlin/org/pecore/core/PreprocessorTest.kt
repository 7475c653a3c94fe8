package org.pecore.core

import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.junit.jupiter.api.DynamicTest
import org.junit.jupiter.api.DynamicTest.dynamicTest
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.TestFactory
import org.junit.jupiter.api.assertThrows
import javax.imageio.ImageIO
import kotlin.math.abs
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertSame
import kotlin.test.assertTrue

private const val TOLERANCE = 1e-6

class PreprocessorTest {
    @TestFactory
    fun `weights are Pillow's, to the bit`(): List<DynamicTest> =
        Vectors.index.at("resize").list("weights").map { case ->
            val (from, to) = case.int("in") to case.int("out")
            dynamicTest("$from to $to, ${case.text("filter")}") {
                val axis = Axis(from, to, filter = Filter.valueOf(case.text("filter").uppercase()))
                assertEquals(case.list("first").map { it.jsonPrimitive.content.toInt() }, axis.first.toList())
                val weights = List(to) { x -> List(axis.count[x]) { k -> axis.weights[x * axis.taps + k] } }
                assertEquals(case.list("weights").map { row -> row.jsonArray.map { it.jsonPrimitive.content.toInt() } }, weights)
            }
        }

    @TestFactory
    fun `pictures are resized as Pillow does, to the bit`(): List<DynamicTest> =
        Vectors.index.list("images").flatMap { image ->
            image.at("resized_sha256").jsonObject.map { (size, expected) ->
                dynamicTest("${image.text("name")} to $size") {
                    val pixels = Vectors.pixels(image.text("rgb"))
                    assertEquals(expected.jsonPrimitive.content, resized(pixels, image.int("width"), image.int("height"), size.toInt()))
                }
            }
        }

    @TestFactory
    fun `large and odd pictures are resized as Pillow does, to the bit`(): List<DynamicTest> =
        Vectors.index.at("generated").list("cases").map { case ->
            val (width, height) = case.int("width") to case.int("height")
            dynamicTest("$width x $height to ${case.int("size")}") {
                val pixels = IntArray(width * height) { generated(it % width, it / width) }
                assertEquals(case.text("resized_sha256"), resized(pixels, width, height, case.int("size")))
            }
        }

    @TestFactory
    fun `pictures are cropped and resized as a manifest says, to the bit`(): List<DynamicTest> =
        Vectors.index.list("resizes").map { case ->
            dynamicTest(case.at("preprocessing").toString()) {
                val resize = Resize.of(Section(case.at("preprocessing").jsonObject))
                Vectors.index.list("images").forEach { image ->
                    case.at("resized_sha256").at(image.text("name")).jsonObject.forEach { (size, expected) ->
                        val pixels = Vectors.pixels(image.text("rgb"))
                        val actual = resized(pixels, image.int("width"), image.int("height"), size.toInt(), resize)
                        assertEquals(expected.jsonPrimitive.content, actual, "${image.text("name")} to $size")
                    }
                }
            }
        }

    @TestFactory
    fun `the model's input is Python's`(): List<DynamicTest> =
        Vectors.index.list("images").flatMap { image ->
            image.list("tensors").map { tensor ->
                dynamicTest(tensor.text("file")) {
                    val preprocessor = Preprocessor(spec(tensor.int("size"), tensor.text("layout"), tensor.text("range")))
                    val expected = Vectors.floats(tensor.text("file"))
                    val actual = preprocessor.run(Vectors.pixels(image.text("rgb")), image.int("width"), image.int("height"))
                    assertEquals(expected.size, actual.size)
                    assertTrue(expected.indices.all { abs(expected[it] - actual[it]) <= TOLERANCE })
                }
            }
        }

    @TestFactory
    fun `pictures are on white, to the bit`(): List<DynamicTest> =
        Vectors.index.list("images").map { image ->
            dynamicTest(image.text("png")) {
                val picture = ImageIO.read(Vectors.file(image.text("png")))
                val pixels = picture.getRGB(0, 0, picture.width, picture.height, null, 0, picture.width)
                assertContentEquals(Vectors.pixels(image.text("rgb")), IntArray(pixels.size) { onWhite(pixels[it]) })
            }
        }

    /** Expected: Pillow's `alpha_composite` of red a, green 255 - a, blue 77 with alpha b over white, for all bytes a and b. */
    @Test
    fun `every transparency is Pillow's`() {
        val pixels = IntArray(256 * 256) { onWhite(argb(it / 256, 255 - it / 256, 77, alpha = it % 256)) }
        assertEquals("89ceaed071c8bdcdbac4770e2bcc42ab63b645e088dfc109cb25571e0e458272", sha256(rgb(pixels)))
    }

    @Test
    fun `transparency is laid on white before it is resized`() {
        val case = Vectors.index.list("images").first { it.text("name") == "transparent" }
        val picture = ImageIO.read(Vectors.file(case.text("png")))
        val pixels = picture.getRGB(0, 0, picture.width, picture.height, null, 0, picture.width)
        assertEquals(case.at("resized_sha256").text("64"), resized(pixels, picture.width, picture.height, 64))
    }

    @Test
    fun `buffers are kept, also between frames that alternate`() {
        val preprocessor = Preprocessor(spec(64, "nchw", "-1..1"))
        val frame = IntArray(640 * 480) { generated(it % 640, it / 640) }
        val first = preprocessor.run(frame, 640, 480)
        val kept = first.copyOf()
        assertTrue(allocated { preprocessor.run(frame, 640, 480) } < 100)
        preprocessor.run(frame, 100, 200)
        assertSame(first, preprocessor.run(frame, 640, 480))
        assertContentEquals(kept, first)
    }

    @Test
    fun `too few pixels are refused`() {
        assertThrows<IllegalArgumentException> { Preprocessor(spec(8, "nchw", "0..1")).run(IntArray(5), 2, 3) }
    }
}

private fun spec(size: Int, layout: String, range: String, resize: Resize = Resize()) =
    InputSpec("image", size, Layout.valueOf(layout.uppercase()), ValueRange.entries.first { it.text == range }, resize)

private fun resized(pixels: IntArray, width: Int, height: Int, size: Int, resize: Resize = Resize()): String =
    sha256(rgb(Preprocessor(spec(size, "nchw", "0..255", resize)).resize(pixels, width, height)))

private fun rgb(pixels: IntArray) = ByteArray(3 * pixels.size) { (pixels[it / 3] shr (16 - 8 * (it % 3))).toByte() }

/** The formula in vectors.json. */
private fun generated(x: Int, y: Int): Int =
    (0..2).map { channel -> 37 * x + 61 * y + 97 * channel + x * y / 7 }.let { (r, g, b) -> argb(r, g, b) }
