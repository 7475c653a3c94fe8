package org.pecore.demo.model

import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import com.google.ai.edge.litert.FakeLiteRt
import org.junit.jupiter.api.BeforeEach
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.assertThrows
import org.junit.jupiter.api.io.TempDir
import org.pecore.core.Bundle
import org.pecore.core.BundleException
import org.pecore.core.DeviceReport
import org.pecore.core.Outcome
import java.io.File
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFalse
import kotlin.test.assertNull
import kotlin.test.assertTrue

private val FILES = listOf("pixel_fp16.tflite", "pixel_int8.tflite")

class SelfTestTest {
    @TempDir
    lateinit var folder: File
    private lateinit var bundle: Bundle
    private var now = 0L

    @BeforeEach
    fun fake() {
        FakeLiteRt.reset()
        FakeLiteRt.inputLength = 3
        FakeLiteRt.compute = { _, _, input -> right(input) }
        bundle = PixelBundle.write(folder)
    }

    @Test
    fun `right answers pass on both backends`() {
        val said = mutableListOf<String>()
        val report = run(said::add)
        assertTrue(report.passed)
        assertEquals(FILES.flatMap { listOf(it to "cpu", it to "gpu fp16") }, report.gates.map { it.subject to it.kind })
        assertEquals(bundle.models.flatMap { listOf(it.sha256, it.sha256) }, report.gates.map { it.sha256 })
        assertEquals("LiteRT GPU fp16 on Phone", report.gates[1].backend)
        assertEquals(mapOf("correlation" to 0.9999, "norm_error" to 0.002), report.gates[1].thresholds)
        val made = report.gates[0].run!!
        assertEquals(PixelBundle.embeddings.map { it.toList() }, made.outputs.map { it.toList() })
        assertEquals(0.0, made.figures.maxAbsDiff)
        assertEquals("f1" to "pixel", report.fingerprint to report.name)
        assertContains(said, "Running pixel_fp16.tflite on the GPU fp16")
        assertTrue(FakeLiteRt.open.isEmpty())
    }

    /** The fake clock gains 1, 2, 3, ... ms with every reading: runs take 2 (first), 4, 6, ... 22 ms. */
    @Test
    fun `the first run and the median of ten after it`() {
        val latency = run().gates[0].run!!.latency
        assertEquals(Triple(2.0, 13.0, 10), Triple(latency.first, latency.median, latency.runs))
        assertEquals(4 * (2 + 10), FakeLiteRt.calls.count { it == "run" })
    }

    @Test
    fun `a wrong GPU fails, and the CPU does not`() {
        FakeLiteRt.compute = { _, options, input -> if (onGpu(options)) right(input).reversedArray() else right(input) }
        val report = run()
        assertFalse(report.passed)
        assertEquals(listOf(Outcome.PASSED, Outcome.FAILED), report.gates.take(2).map { it.outcome })
        assertContains(report.gates[1].detail, "correlation")
    }

    @Test
    fun `an answer of another length of vector fails, where its direction is right`() {
        FakeLiteRt.compute = { _, options, input -> FloatArray(2) { right(input)[it] * if (onGpu(options)) 1.01f else 1f } }
        assertContains(run().gates[1].detail, "norm_error 0.01")
    }

    @Test
    fun `NaN fails`() {
        FakeLiteRt.compute = { _, _, _ -> floatArrayOf(Float.NaN, 0f) }
        assertTrue(run().gates.all { it.outcome == Outcome.FAILED })
    }

    @Test
    fun `a GPU that refuses fails with its reason, and nothing runs in its place`() {
        FakeLiteRt.refusals[Accelerator.GPU] = "Some ops are not accelerated"
        val report = run()
        assertEquals(listOf(Outcome.PASSED, Outcome.FAILED, Outcome.PASSED, Outcome.FAILED), report.gates.map { it.outcome })
        assertEquals("Some ops are not accelerated" to null, report.gates[1].detail to report.gates[1].run)
        assertFalse(report.passed)
        assertContains(report.toJson(), "Some ops are not accelerated")
    }

    @Test
    fun `a file that is not on the device is skipped`() {
        File(folder, "pixel_int8.tflite").delete()
        bundle = Bundle.open(folder)
        val report = run()
        assertTrue(report.passed)
        assertEquals(listOf(Outcome.SKIPPED, Outcome.SKIPPED), report.gates.drop(2).map { it.outcome })
        assertNull(report.gates[2].run)
    }

    @Test
    fun `a backend without thresholds is not run`() {
        val manifest = File(folder, "manifest.json")
        manifest.writeText(manifest.readText().replace("\"gpu fp16\"", "\"other\""))
        bundle = Bundle.open(folder)
        assertEquals(listOf("cpu", "cpu"), run().gates.map { it.kind })
    }

    @Test
    fun `a damaged model is not run`() {
        File(folder, "pixel_fp16.tflite").writeBytes(ByteArray(20))
        assertContains(assertThrows<BundleException> { run() }.message!!, "pixel_fp16.tflite")
        assertTrue(FakeLiteRt.calls.isEmpty())
    }

    @Test
    fun `it can be ended from outside, and leaves nothing open`() {
        assertThrows<InterruptedException> {
            run { if ("int8" in it && "Running" in it) throw InterruptedException() }
        }
        assertTrue(FakeLiteRt.open.isEmpty())
    }

    private fun run(progress: (String) -> Unit = {}): DeviceReport {
        var step = 0L
        now = 0
        val clock = { (++step * 1_000_000L).let { now += it }.let { now } }
        return SelfTest(bundle, mapOf("name" to "Phone", "system" to "Android 16"), mapOf("litert" to "2.3.2"), clock).run(progress)
    }

    private fun right(input: FloatArray) = PixelBundle.embeddings[PixelBundle.inputs.indexOfFirst { it.contentEquals(input) }].copyOf()

    private fun onGpu(options: CompiledModel.Options) = Accelerator.GPU in options.accelerators
}
