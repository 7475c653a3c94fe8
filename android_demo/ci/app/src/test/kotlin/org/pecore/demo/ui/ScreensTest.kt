package org.pecore.demo.ui

import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.Typography
import androidx.compose.runtime.Composable
import androidx.compose.ui.ImageComposeScene
import androidx.compose.ui.graphics.ImageBitmap
import androidx.compose.ui.graphics.toComposeImageBitmap
import androidx.compose.ui.text.font.FontFamily
import androidx.compose.ui.text.font.FontWeight
import androidx.compose.ui.text.platform.Font
import androidx.compose.ui.unit.Density
import androidx.compose.ui.use
import org.jetbrains.skia.Bitmap
import org.jetbrains.skia.EncodedImageFormat
import org.jetbrains.skia.Image
import org.jetbrains.skia.Rect
import org.jetbrains.skia.SamplingMode
import org.jetbrains.skia.Surface
import org.junit.jupiter.api.AfterAll
import org.junit.jupiter.api.Test
import org.pecore.core.AccessNotice
import org.pecore.core.Hit
import org.pecore.core.OwnLabels
import org.pecore.core.Pause
import org.pecore.demo.Actions
import org.pecore.demo.GateLine
import org.pecore.demo.Guess
import org.pecore.demo.Indexing
import org.pecore.demo.Input
import org.pecore.demo.ModelState
import org.pecore.demo.Screen
import org.pecore.demo.SearchState
import org.pecore.demo.SelfTestState
import org.pecore.demo.Timing
import org.pecore.demo.UiState
import org.pecore.demo.model.Compute
import java.io.File
import kotlin.test.assertEquals
import kotlin.test.assertTrue

/**
 * Draws the screens off-screen, to PNGs in target/screens, and checks the pixels that say something. Every figure in them is
 * made up here.
 */
class ScreensTest {
    private val ready =
        UiState(
            bundles = listOf("pe_core_base_224", "pe_core_tiny_384"),
            bundle = "pe_core_base_224",
            files = listOf("pe_core_base_224_fp16.tflite", "pe_core_base_224_int8.tflite"),
            file = "pe_core_base_224_fp16.tflite",
            model = ModelState.Ready(Compute.GPU_FP16),
            input = Input.PHOTO,
            top =
                listOf(
                    Guess("tabby cat", 0.62),
                    Guess("tiger cat", 0.21),
                    Guess("Egyptian cat", 0.09),
                    Guess("lynx", 0.03),
                    Guess("window screen", 0.01),
                ),
            timing = Timing(lastMs = 44.4, medianMs = 44.0, runs = 44, perSecond = null),
            labels = listOf("tabby cat", "tiger cat", "Egyptian cat", "lynx", "window screen", "Persian cat", "coffee mug", "rocket"),
        )

    @Test
    fun `the photo keeps its colours and the first bar is the longest`() {
        val light = draw("photo_light", ready, chelsea)
        // The cat's picture fills the width: its own pixel in the middle, not one with red and blue swapped.
        val (x, y) = PICTURE_MIDDLE
        val inPhoto = Image.makeFromEncoded(chelseaBytes).let { image -> Bitmap.makeFromImage(image).getColor(225, 150) }
        assertClose(inPhoto, light.getColor(x, y))
        val bar = filledPixels(light, BAR_COLOUR_LIGHT)
        assertTrue(bar.first() > 2 * bar[1] && bar[1] > bar[2], "lengths of the bars: $bar")
    }

    @Test
    fun `dark draws on dark`() {
        val corner = draw("photo_dark", ready, chelsea, dark = true).getColor(2, HEIGHT / 2)
        assertEquals(0xFF0E1513.toInt(), corner)
    }

    @Test
    fun `a refusal by the GPU is on the screen`() {
        val reason = "Some ops are not accelerated: RESHAPE (rank 5) is not supported."
        val timing = Timing(lastMs = 444.4, medianMs = 444.0, runs = 44, perSecond = 2.2)
        val refused =
            ready.copy(model = ModelState.Ready(Compute.CPU, reason), synthetic = true, input = Input.CAMERA, timing = timing)
        val without = draw("plain", refused.copy(model = ModelState.Ready(Compute.CPU)), chelsea)
        val with = draw("gpu_refused", refused, chelsea)
        draw("gpu_refused_dark", refused, chelsea, dark = true)
        val container = 0xFFF9DEDC.toInt()
        assertTrue(count(with, container) > 20_000, "the error's container fills a part of the screen")
        assertEquals(0, count(without, container))
    }

    @Test
    fun `landscape puts the answer beside the picture`() {
        val wide = draw("landscape", ready, chelsea, width = HEIGHT, height = WIDTH)
        assertTrue(count(wide, BAR_COLOUR_LIGHT) > 0)
    }

    @Test
    fun `with large text every button still has a line of its own`() {
        val gate = GateLine("GPU fp16", ready.file!!, "passed", "", listOf("latency" to "44.0 ms, median of 10"))
        val state = ready.copy(screen = Screen.SELF_TEST, selfTest = SelfTestState.Done(true, listOf(gate)))
        val large = draw("self_test_large_text", state, null, fontScale = 2f)
        // "Run again", the one tonal button.
        assertTrue((0 until HEIGHT).maxOf { y -> (0 until WIDTH).count { x -> large.getColor(x, y) == TONAL_LIGHT } } > WIDTH / 3)
        draw("photo_large_text", ready, chelsea, fontScale = 2f)
        draw("labels_large_text", ready.copy(screen = Screen.LABELS), null, fontScale = 2f)
    }

    @Test
    fun `labels are filtered and ticked`() {
        val state = ready.copy(screen = Screen.LABELS, labelsOff = setOf(3, 7))
        val all = draw("labels", state, null) { LabelsScreen(state, Nothing) }
        val cats = draw("labels_filtered", state, null) { LabelsScreen(state, Nothing, initialFilter = "CAT") }
        assertTrue(count(all, BAR_COLOUR_LIGHT) > count(cats, BAR_COLOUR_LIGHT), "fewer ticks with a filter")
        assertEquals(listOf(0, 1, 2, 5), matching(state.labels, " cat"))
    }

    private val searching =
        ready.copy(
            screen = Screen.SEARCH,
            search =
                SearchState(
                    access = AccessNotice.NOTHING,
                    searchable = 1824,
                    indexing = Indexing.Running(1824, 4444, 222),
                    hits = List(14) { Hit(it.toLong(), 0.44 - it / 100.0) },
                ),
        )

    private fun searching(change: SearchState.() -> SearchState) = searching.copy(search = searching.search.change())

    @Test
    fun `the photographs that were found fill a grid, and how far the index is stands above`() {
        val found = draw("search", searching, null)
        draw("search_dark", searching, null, dark = true)
        draw("search_large_text", searching, null, fontScale = 2f)
        val none = draw("search_none", searching { copy(hits = emptyList()) }, null)
        val grey = 0xFFE4E9E7.toInt()
        assertTrue(count(none, grey) < 1000, "without a grid only the edges of letters are")
        // The one that is gone keeps its place; the others are covered by their pictures.
        assertTrue(count(found, grey) in 10_000..60_000, "${count(found, grey)}")
        val done = draw("search_done", searching { copy(indexing = Indexing.Idle(0)) }, null)
        assertTrue(count(done, BAR_COLOUR_LIGHT) < count(found, BAR_COLOUR_LIGHT), "the bar of the progress")
    }

    @Test
    fun `a refusal, a choice and a missing text tower are said`() {
        val tertiary = 0xFFFFDEA4.toInt()
        val said =
            AccessNotice.entries.map { notice ->
                count(draw("search_${notice.name.lowercase()}", searching { copy(access = notice, hits = emptyList()) }, null), tertiary)
            }
        assertEquals(0, said[AccessNotice.NOTHING.ordinal])
        assertTrue(said.drop(1).all { it > 20_000 }, "$said")
        val missing = "pe_core_small_384 has no text tower: add one with `pecore convert --size S16 --tower text`."
        assertTrue(count(draw("search_missing", searching { copy(missing = missing) }, null), tertiary) > 20_000)
        draw("search_hot", searching { copy(indexing = Indexing.Waiting(Pause.HOT, 1824, 4444)) }, null)
        val spoilt = Indexing.Failed("photos-ab12 is no index of this model's embeddings: start again with an empty one.", spoilt = true)
        draw("search_failed", searching { copy(indexing = spoilt) }, null)
    }

    @Test
    fun `own labels are typed, and say what they lack`() {
        val own = OwnLabels(listOf("my cat", "the red bicycle", "lunch"))
        val state = ready.copy(screen = Screen.LABELS, labels = own.names, own = own, ownChosen = true)
        val without = draw("labels_own", state, null)
        draw("labels_own_large_text", state, null, fontScale = 2f)
        val problem = draw("labels_own_problem", state.copy(labelsProblem = "pe_core_small_384 has no text tower."), null)
        val edited = draw("labels_own_edited", state, null) { LabelsScreen(state, Nothing, initialEdited = own.names[1]) }
        draw("labels_own_edited_large_text", state, null, dark = true, fontScale = 2f) {
            LabelsScreen(state, Nothing, initialEdited = own.names[2])
        }
        val ticks = { screen: Bitmap -> (0 until HEIGHT).count { y -> screen.getColor(TICK_X, y) == BAR_COLOUR_LIGHT } }
        assertTrue(ticks(without) > 60, "three ticks")
        assertEquals(ticks(without) * 2 / 3, ticks(edited), "one of them makes room for a field")
        assertEquals(0, count(without, 0xFFF9DEDC.toInt()))
        assertTrue(count(problem, 0xFFF9DEDC.toInt()) > 10_000)
    }

    @Test
    fun `a time is said as a person would`() {
        assertEquals(
            listOf("About a minute left.", "About 4 minutes left.", "About 3 hours left."),
            listOf(20, 222, 10_000).map(::timeLeft),
        )
    }

    @Test
    fun `the self-test names the backend that failed`() {
        val figures = listOf("correlation" to "0.99998", "cosine" to "0.99998", "max |diff|" to "1.9e-04", "norm error" to "3.0e-04")
        val file = "pe_core_base_224_fp16.tflite"
        val gpu = GateLine("GPU fp16", file, "passed", "", figures + ("latency" to "44.0 ms, median of 10"))
        val cpu = GateLine("CPU", file, "passed", "", figures + ("latency" to "444.0 ms, median of 10"))
        val wrong =
            gpu.copy(
                outcome = "failed",
                detail = "norm_error 0.34 (must be <= 0.002)",
                figures =
                    gpu.figures.map {
                        if (it.first ==
                            "norm error"
                        ) {
                            it.first to "3.4e-01"
                        } else {
                            it
                        }
                    },
            )
        val passed = ready.copy(screen = Screen.SELF_TEST, selfTest = SelfTestState.Done(true, listOf(cpu, gpu)))
        val failed = passed.copy(selfTest = SelfTestState.Done(false, listOf(cpu, wrong)))
        assertEquals(0, count(draw("self_test", passed, null, dark = true), ERROR_DARK))
        assertTrue(count(draw("self_test_failed", failed, null, dark = true), ERROR_DARK) > 0)
    }

    @Test
    fun `what stands in the way is said`() {
        val command = "android_demo/install_bundle.sh out/pe_core_base_224"
        draw("no_bundle", UiState(model = ModelState.NoBundle(command)), null)
        draw("loading", UiState(bundle = "pe_core_base_224", model = ModelState.Loading("Compiling for the GPU")), null)
        val corrupt = "labels.txt has 999 lines and text_embeddings.bin 1000 rows: install the bundle again."
        val failed = draw("corrupt", UiState(bundle = "pe_core_base_224", model = ModelState.Failed(corrupt)), null)
        assertTrue(count(failed, 0xFFF9DEDC.toInt()) > 10_000)
        draw(
            "permission",
            ready.copy(top = emptyList(), timing = null, input = Input.NONE, inputProblem = "The camera permission is off."),
            null,
        )
        draw("self_test_idle", ready.copy(screen = Screen.SELF_TEST), null)
    }

    companion object {
        private const val WIDTH = 360 * 2
        private const val HEIGHT = 740 * 2
        private const val GAP = 16
        private const val TICK_X = 23 * 2
        private const val BAR_COLOUR_LIGHT = 0xFF006A62.toInt()
        private const val TONAL_LIGHT = 0xFFCCE8E2.toInt()
        private const val ERROR_DARK = 0xFFF2B8B5.toInt()

        /** Below a bar of 64 dp, 16 dp from the sides, in the shape of the photo, which is 451 x 300. */
        private val PICTURE_MIDDLE = WIDTH / 2 to 64 * 2 + (WIDTH - 4 * 16) * 300 / 451 / 2
        private val folder = File("android_demo/ci/target/screens").apply { mkdirs() }
        private val chelseaBytes = ScreensTest::class.java.getResourceAsStream("/chelsea.jpg")!!.use { it.readBytes() }
        private val thumbnails =
            Thumbnails { id, ready ->
                if (id != GONE) ready(chelsea)
                AutoCloseable { }
            }
        private const val GONE = 4L
        private val chelsea = Image.makeFromEncoded(chelseaBytes).toComposeImageBitmap()

        /** The font of most phones; without it whatever this machine has. */
        private val typography =
            listOf("Regular", "Medium").map { File("/usr/share/fonts/truetype/roboto/unhinted/RobotoTTF/Roboto-$it.ttf") }.let { files ->
                if (!files.all(File::exists)) return@let Typography()
                val family = FontFamily(Font(files[0]), Font(files[1], FontWeight.Medium))
                with(Typography()) {
                    Typography(
                        headlineSmall = headlineSmall.copy(fontFamily = family),
                        titleLarge = titleLarge.copy(fontFamily = family),
                        titleMedium = titleMedium.copy(fontFamily = family),
                        titleSmall = titleSmall.copy(fontFamily = family),
                        bodyLarge = bodyLarge.copy(fontFamily = family),
                        bodyMedium = bodyMedium.copy(fontFamily = family),
                        bodySmall = bodySmall.copy(fontFamily = family),
                        labelLarge = labelLarge.copy(fontFamily = family),
                    )
                }
            }

        /** The documentation's pictures: screens side by side, at half their size. */
        @AfterAll
        @JvmStatic
        fun combine() {
            val sheets =
                mapOf(
                    "android_main" to listOf("photo_light", "gpu_refused_dark", "labels"),
                    "android_search" to listOf("search", "search_dark", "labels_own"),
                    "android_checks" to listOf("self_test_failed", "no_bundle"),
                )
            sheets.forEach { (sheet, names) ->
                val surface = Surface.makeRasterN32Premul(names.size * (WIDTH / 2 + GAP) - GAP, HEIGHT / 2)
                surface.canvas.clear(0xFFBDBDBD.toInt())
                names.forEachIndexed { i, name ->
                    val place = Rect.makeXYWH(i * (WIDTH / 2f + GAP), 0f, WIDTH / 2f, HEIGHT / 2f)
                    val screen = Image.makeFromEncoded(File(folder, "$name.png").readBytes())
                    surface.canvas.drawImageRect(
                        screen,
                        Rect.makeWH(WIDTH.toFloat(), HEIGHT.toFloat()),
                        place,
                        SamplingMode.MITCHELL,
                        null,
                        true,
                    )
                }
                File(folder, "$sheet.jpg").writeBytes(surface.makeImageSnapshot().encodeToData(EncodedImageFormat.JPEG, 92)!!.bytes)
            }
        }

        private fun draw(
            name: String,
            state: UiState,
            picture: ImageBitmap?,
            dark: Boolean = false,
            fontScale: Float = 1f,
            width: Int = WIDTH,
            height: Int = HEIGHT,
            content: @Composable () -> Unit = { DemoScreen(state, picture, Nothing, thumbnails) },
        ): Bitmap =
            ImageComposeScene(width, height, Density(2f, fontScale)) {
                MaterialTheme(typography = typography) { DemoTheme(dark, content) }
            }.use { scene ->
                scene.render() // what is read when the screen is there is drawn the second time
                val image = scene.render()
                File(folder, "$name.png").writeBytes(image.encodeToData(EncodedImageFormat.PNG)!!.bytes)
                Bitmap.makeFromImage(image)
            }

        private fun count(bitmap: Bitmap, colour: Int) =
            (0 until bitmap.height).sumOf { y -> (0 until bitmap.width).count { x -> bitmap.getColor(x, y) == colour } }

        /** Pixels of [colour] in each bar, top to bottom: runs of lines that hold any in the column of the bars' left end. */
        private fun filledPixels(bitmap: Bitmap, colour: Int): List<Int> =
            (bitmap.height / 2 until bitmap.height * 9 / 10)
                .map { y -> (0 until bitmap.width).count { x -> bitmap.getColor(x, y) == colour } }
                .fold(mutableListOf(0)) { runs, n ->
                    if (n > 0) {
                        runs[runs.lastIndex] = maxOf(runs.last(), n)
                    } else if (runs.last() > 0) {
                        runs += 0
                    }
                    runs
                }.filter { it > 0 }

        private fun assertClose(expected: Int, actual: Int) =
            listOf(0, 8, 16).forEach { shift ->
                val off = (expected shr shift and 255) - (actual shr shift and 255)
                assertTrue(off in -24..24, "%08x is not %08x".format(actual, expected))
            }
    }

    private object Nothing : Actions {
        override fun show(screen: Screen) = Unit

        override fun chooseBundle(name: String) = Unit

        override fun chooseFile(name: String) = Unit

        override fun chooseCompute(compute: Compute) = Unit

        override fun reload() = Unit

        override fun setLabels(indices: Collection<Int>, on: Boolean) = Unit

        override fun chooseLabels(own: Boolean) = Unit

        override fun addLabel(name: String) = Unit

        override fun renameLabel(name: String, to: String) = Unit

        override fun moveLabel(name: String, by: Int) = Unit

        override fun removeLabel(name: String) = Unit

        override fun setTemplate(template: String) = Unit

        override fun runSelfTest() = Unit

        override fun search(words: String) = Unit

        override fun searchLike(id: Long) = Unit

        override fun pauseIndexing() = Unit

        override fun startAgain() = Unit

        override fun pickExample() = Unit

        override fun askForPhotos() = Unit

        override fun openSettings() = Unit

        override fun indexNow() = Unit

        override fun indexWhileCharging(on: Boolean) = Unit

        override fun open(id: Long) = Unit

        override fun pickPhoto() = Unit

        override fun startCamera() = Unit

        override fun stopCamera() = Unit

        override fun shareReport() = Unit

        override fun copy(text: String) = Unit
    }
}
