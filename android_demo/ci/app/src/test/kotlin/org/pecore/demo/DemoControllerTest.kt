package org.pecore.demo

import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.FakeLiteRt
import com.google.ai.edge.litert.LiteRtException
import org.junit.jupiter.api.BeforeEach
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import org.pecore.core.Pixels
import org.pecore.core.TinyBundle
import org.pecore.demo.model.Compute
import java.io.File
import java.util.concurrent.Executor
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFalse
import kotlin.test.assertIs
import kotlin.test.assertNotNull
import kotlin.test.assertTrue

class DemoControllerTest {
    @TempDir
    lateinit var folder: File

    private val remembered = mutableMapOf<String, String>()
    private val rendered = mutableListOf<UiState>()
    private val waiting = ArrayDeque<Runnable>()
    private var held = false
    private var clock = 0L

    /** The worker, in the test's own thread; while [held], what it is given waits. */
    private val worker = Executor { if (held) waiting += it else it.run() }

    private val settings =
        object : Settings {
            override fun get(key: String) = remembered[key]

            override fun set(key: String, value: String) {
                remembered[key] = value
            }
        }

    private fun controller(where: File? = folder, render: (UiState) -> Unit = { rendered += it }) =
        DemoController({ where }, settings, mapOf("name" to "Fake"), worker, StateStore(render), { clock.also { clock += 5_000_000 } })

    private fun install(name: String = "tiny", edit: (String) -> String = { it }, spoil: (File) -> Unit = {}) =
        TinyBundle(File(folder, name).apply { mkdirs() }).write(edit, spoil)

    /** One pixel whose embedding is near the label at [index]. */
    private val pixels = listOf(0xFFFF0000.toInt(), 0xFF00FF00.toInt(), 0xFF0000FF.toInt()).map { intArrayOf(it) }

    @BeforeEach
    fun reset() {
        FakeLiteRt.reset()
        FakeLiteRt.inputLength = 3
        // Red is cat, green dog, blue the third label.
        FakeLiteRt.compute = { _, _, (red, green, _) ->
            if (red > 0) {
                floatArrayOf(1f, 0f)
            } else if (green > 0) {
                floatArrayOf(0.6f, 0.8f)
            } else {
                floatArrayOf(0f, 1f)
            }
        }
    }

    @Test
    fun `without a bundle the command to install one is shown`() {
        listOf(folder, null, File(folder, "missing")).forEach { where ->
            val controller = controller(where).apply { resume() }
            assertContains(assertIs<ModelState.NoBundle>(controller.state.model).command, "install_bundle.sh")
        }
    }

    @Test
    fun `a photo is classified, red is not blue`() {
        install()
        val controller = controller().apply { resume() }
        assertEquals(ModelState.Ready(Compute.GPU_FP16), controller.state.model)
        controller.photo(Pixels(pixels[0], 1, 1))
        assertEquals("cat", controller.state.top.first().label)
        assertEquals(1.0, controller.state.top.sumOf { it.share }, 1e-9)
        controller.photo(Pixels(pixels[2], 1, 1))
        assertEquals("été", controller.state.top.first().label)
        assertEquals(Timing(5.0, 5.0, 1, null), controller.state.timing)
    }

    @Test
    fun `a GPU that refuses is said, with its reason, and the CPU runs`() {
        install()
        FakeLiteRt.refusals[Accelerator.GPU] = "Some ops are not accelerated."
        val controller = controller().apply { resume() }
        assertEquals(ModelState.Ready(Compute.CPU, "Some ops are not accelerated."), controller.state.model)
        assertEquals(Compute.GPU_FP16, controller.state.wanted)
        controller.photo(Pixels(pixels[0], 1, 1))
        assertEquals("cat", controller.state.top.first().label)
        FakeLiteRt.refusals[Accelerator.CPU] = "No memory."
        controller.reload()
        assertContains(assertIs<ModelState.Failed>(controller.state.model).sentence, "No memory.")
        assertEquals(emptyList(), FakeLiteRt.open)
    }

    @Test
    fun `the switch loads the other backend, classifies the photo again and is remembered`() {
        install()
        val controller = controller().apply { resume() }
        controller.photo(Pixels(pixels[1], 1, 1))
        controller.chooseCompute(Compute.CPU)
        assertEquals(ModelState.Ready(Compute.CPU), controller.state.model)
        assertEquals("dog", controller.state.top.first().label)
        assertEquals(1, FakeLiteRt.open.count { it == "model" })
        assertEquals(ModelState.Ready(Compute.CPU), controller().apply { resume() }.state.model)
    }

    @Test
    fun `frames are dropped while one is under way, and after the camera stopped`() {
        install()
        val controller = controller().apply { resume() }
        assertFalse(controller.frame(pixels[0], 1, 1), "no camera yet")
        controller.cameraStarted()
        held = true
        assertTrue(controller.frame(pixels[0], 1, 1))
        assertFalse(controller.frame(pixels[2], 1, 1), "one is under way")
        release()
        assertEquals("cat", controller.state.top.first().label)
        assertTrue(controller.frame(pixels[2], 1, 1))
        assertEquals("été", controller.state.top.first().label)
        assertEquals(100.0, assertNotNull(controller.state.timing?.perSecond), 1e-9)
        controller.cameraStopped("The camera permission is off.")
        assertEquals(Input.NONE to "The camera permission is off.", controller.state.input to controller.state.inputProblem)
        assertFalse(controller.frame(pixels[0], 1, 1))
    }

    @Test
    fun `what was asked last is what is shown, however busy the worker is`() {
        install()
        val controller = controller().apply { resume() }
        held = true
        controller.photo(Pixels(pixels[0], 1, 1))
        controller.cameraStarted()
        release()
        assertEquals(Input.CAMERA, controller.state.input)
        assertEquals(emptyList(), controller.state.top, "the photo is of no interest any more")
        held = true
        controller.cameraStarted()
        controller.cameraStopped("Another app took the camera.")
        release()
        assertEquals(Input.NONE to "Another app took the camera.", controller.state.input to controller.state.inputProblem)
    }

    @Test
    fun `a tap on labels that are no more changes nothing`() {
        install(spoil = { File(it, "text_embeddings.bin").appendText("x") })
        remembered["off tiny"] = "cat"
        val controller = controller().apply { resume() }
        controller.setLabels(listOf(0), false)
        assertEquals(0, controller.state.labelsOn)
        assertEquals("cat", remembered["off tiny"])
    }

    @Test
    fun `labels that are off take no part, at once and after a restart`() {
        install()
        val controller = controller().apply { resume() }
        controller.photo(Pixels(pixels[0], 1, 1))
        val runs = FakeLiteRt.calls.count { it == "run" }
        controller.setLabels(listOf(0), false)
        assertEquals(listOf("dog", "été"), controller.state.top.map { it.label })
        assertEquals(runs, FakeLiteRt.calls.count { it == "run" }, "the embedding is kept")
        assertEquals(setOf(0), controller().apply { resume() }.state.labelsOff)
        controller.setLabels(listOf(1, 2), false)
        assertEquals(emptyList(), controller.state.top)
        controller.setLabels(listOf(0, 1, 2), true)
        assertEquals(3, controller.state.top.size)
    }

    @Test
    fun `own labels are embedded by the text tower, kept for the bundle, and compete instead of its own`() {
        TinyBundle(File(folder, "tiny").apply { mkdirs() }).withText().write()
        val pictures = FakeLiteRt.compute
        val rocket = 8383f // its token
        FakeLiteRt.compute = { path, options, input ->
            if ("text" !in path) {
                pictures(path, options, input)
            } else if (rocket in input.toList()) {
                floatArrayOf(0f, 1f)
            } else {
                floatArrayOf(1f, 0f)
            }
        }
        val controller = controller().apply { resume() }
        controller.photo(Pixels(pixels[2], 1, 1))
        controller.addLabel("dog")
        assertEquals("été", controller.state.top.first().label, "the bundle's labels are the chosen ones")
        controller.chooseLabels(own = true)
        controller.addLabel("rocket")
        assertEquals(listOf("dog", "rocket"), controller.state.labels)
        assertEquals("rocket", controller.state.top.first().label)
        val restarted = controller().apply { resume() }
        assertEquals("rocket", restarted.state.own.names.last())
        restarted.close()
        controller.setLabels(listOf(1), false)
        assertEquals(listOf("dog"), controller.state.top.map { it.label })
        controller.setTemplate("no place for it")
        assertContains(controller.state.labelsProblem!!, "no place for it")
        assertEquals(emptyList(), controller.state.top)
        controller.setTemplate("a {}")
        assertEquals(null, controller.state.labelsProblem)
        controller.removeLabel("rocket")
        assertEquals(listOf("dog"), controller.state.labels)
        controller.chooseLabels(own = false)
        assertEquals("été", controller.state.top.first().label)
        assertEquals(emptySet(), controller.state.labelsOff)
        controller.close()
        assertEquals(emptyList(), FakeLiteRt.open, "the text tower is closed with the vision tower")
    }

    @Test
    fun `own labels are renamed and moved where they stand, and only new words are embedded`() {
        TinyBundle(File(folder, "tiny").apply { mkdirs() }).withText().write()
        var embedded = 0
        val pictures = FakeLiteRt.compute
        FakeLiteRt.compute = { path, options, input ->
            if ("text" in path) floatArrayOf(1f, (embedded++).toFloat()) else pictures(path, options, input)
        }
        val controller = controller().apply { resume() }
        controller.chooseLabels(own = true)
        listOf("dog", "cat", "rocket").forEach(controller::addLabel)
        assertEquals(3, embedded)
        controller.setLabels(listOf(1), false)
        held = true // two quick taps while the worker is busy
        repeat(2) { controller.moveLabel("dog", 1) }
        held = false
        while (waiting.isNotEmpty()) waiting.removeFirst().run()
        assertEquals(listOf("cat", "rocket", "dog"), controller.state.labels)
        assertEquals(setOf(0), controller.state.labelsOff)
        assertEquals(3, embedded)
        controller.renameLabel("rocket", "dog") // which there is
        assertEquals(listOf("cat", "rocket", "dog"), controller.state.labels)
        controller.renameLabel("rocket", "moon")
        assertEquals(listOf("cat", "moon", "dog"), controller.state.labels)
        assertEquals(4, embedded)
        controller.setTemplate("a {}")
        assertEquals(7, embedded)
        val restarted = controller().apply { resume() }
        assertEquals(listOf("cat", "moon", "dog"), restarted.state.own.names)
    }

    @Test
    fun `own labels without a text tower say what is missing, and the bundle's are there again`() {
        install()
        val controller = controller().apply { resume() }
        controller.chooseLabels(own = true)
        controller.addLabel("rocket")
        assertContains(controller.state.labelsProblem!!, "--tower text")
        controller.photo(Pixels(pixels[0], 1, 1))
        assertEquals(emptyList(), controller.state.top)
        controller.chooseLabels(own = false)
        assertEquals("cat" to null, controller.state.top.first().label to controller.state.labelsProblem)
    }

    @Test
    fun `a bundle with a text tower needs no labels of its own`() {
        TinyBundle(File(folder, "tiny").apply { mkdirs() }).withText().write(edit = { it.replace("\"labels\": {", "\"none\": {") })
        val controller = controller().apply { resume() }
        assertIs<ModelState.Ready>(controller.state.model)
        assertTrue(controller.state.ownChosen)
        assertFalse(controller.state.bundleLabels)
    }

    @Test
    fun `a damaged bundle is one sentence, another one can be chosen`() {
        install("a", spoil = { File(it, "text_embeddings.bin").appendText("x") })
        install("b", spoil = { File(it, "tiny_fp16.tflite").writeBytes(ByteArray(200)) })
        install("c", edit = { it.replace("\"labels\": {", "\"none\": {") })
        install("d")
        File(folder, ".e.part").mkdirs()
        val controller = controller().apply { resume() }
        assertEquals(listOf("a", "b", "c", "d"), controller.state.bundles)
        assertContains(assertIs<ModelState.Failed>(controller.state.model).sentence, "text_embeddings.bin")
        controller.chooseBundle("b")
        assertContains(assertIs<ModelState.Failed>(controller.state.model).sentence, "tiny_fp16.tflite")
        controller.chooseBundle("c")
        assertContains(assertIs<ModelState.Failed>(controller.state.model).sentence, "pecore labels")
        controller.chooseBundle("d")
        assertIs<ModelState.Ready>(controller.state.model)
        controller.chooseFile("tiny_int8.tflite")
        assertEquals("tiny_int8.tflite", controller.state.file)
        File(folder, "d").deleteRecursively()
        controller.reload()
        assertEquals("a", controller.state.bundle)
    }

    @Test
    fun `a model's checksum is taken once for a file`() {
        val bundle = install()
        controller().resume()
        assertTrue(rendered.any { (it.model as? ModelState.Loading)?.what?.startsWith("Checking") == true })
        rendered.clear()
        controller().resume()
        assertFalse(rendered.any { (it.model as? ModelState.Loading)?.what?.startsWith("Checking") == true })
        File(bundle, "tiny_fp16.tflite").run {
            writeBytes(ByteArray(200))
            setLastModified(1_000_000)
        }
        assertIs<ModelState.Failed>(controller().apply { resume() }.state.model)
    }

    @Test
    fun `a run that fails or gives no direction is said, and goes on`() {
        install()
        val controller = controller().apply { resume() }
        FakeLiteRt.failures["run"] = LiteRtException(1, "device lost")
        controller.photo(Pixels(pixels[0], 1, 1))
        assertContains(controller.state.inputProblem.orEmpty(), "device lost")
        FakeLiteRt.failures.clear()
        FakeLiteRt.compute = { _, _, _ -> FloatArray(7) }
        controller.photo(Pixels(pixels[0], 1, 1))
        assertContains(controller.state.inputProblem.orEmpty(), "7 numbers")
        FakeLiteRt.compute = { _, _, _ -> floatArrayOf(Float.NaN, 0f) }
        controller.photo(Pixels(pixels[0], 1, 1))
        assertContains(controller.state.inputProblem.orEmpty(), "self-test")
        controller.setLabels(listOf(1), false)
        reset()
        controller.photo(Pixels(pixels[0], 1, 1))
        assertEquals(null, controller.state.inputProblem)
    }

    @Test
    fun `memory is given back and taken again, once`() {
        install()
        val controller = controller().apply { resume() }
        controller.resume()
        assertEquals(1, FakeLiteRt.calls.count { it.startsWith("create gpu") })
        controller.release()
        assertEquals(emptyList(), FakeLiteRt.open)
        controller.resume()
        assertEquals(2, FakeLiteRt.calls.count { it.startsWith("create gpu") })
        controller.close()
        assertEquals(emptyList(), FakeLiteRt.open)
    }

    @Test
    fun `the self-test has the memory for itself, shows its figures and leaves the model running`() {
        install()
        // The reference's two samples, as TinyBundle has them.
        FakeLiteRt.compute = { _, _, (red) -> if (red < 0.5f) floatArrayOf(1f, 0f) else floatArrayOf(0.6f, -0.8f) }
        val controller = controller().apply { resume() }
        controller.show(Screen.SELF_TEST)
        controller.runSelfTest()
        val done = assertIs<SelfTestState.Done>(controller.state.selfTest)
        assertTrue(done.passed)
        assertEquals(setOf("CPU", "GPU fp16"), done.gates.map { it.backend }.toSet())
        assertEquals(listOf("correlation", "cosine", "max |diff|", "norm error", "latency"), done.gates.first().figures.map { it.first })
        assertContains(assertNotNull(controller.report).toJson(), "\"litert\": \"$LITERT_VERSION\"")
        assertIs<ModelState.Ready>(controller.state.model)
        assertEquals(1, FakeLiteRt.open.count { it == "model" })
        // Red and blue swapped on the way in, say.
        FakeLiteRt.compute = { _, _, _ -> floatArrayOf(0f, 1f) }
        controller.runSelfTest()
        assertFalse(assertIs<SelfTestState.Done>(controller.state.selfTest).passed)
    }

    @Test
    fun `closing ends a self-test, and nothing is loaded after it`() {
        install()
        lateinit var controller: DemoController
        controller =
            controller { state ->
                if ((state.selfTest as? SelfTestState.Running)?.what == "Running tiny_fp16.tflite on the CPU") controller.close()
            }
        controller.resume()
        controller.runSelfTest()
        assertEquals(listOf("create gpu", "create cpu"), FakeLiteRt.calls.filter { it == "create gpu" || it == "create cpu" })
        assertEquals(emptyList(), FakeLiteRt.open)
    }

    @Test
    fun `the report's LiteRT is the catalogue's`() {
        val catalogue = File("android_demo/gradle/libs.versions.toml").readLines()
        assertContains(catalogue, "litert = \"$LITERT_VERSION\"")
    }

    private fun release() {
        held = false
        while (waiting.isNotEmpty()) waiting.removeFirst().run()
    }
}
