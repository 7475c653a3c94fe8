package org.pecore.demo.model

import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import com.google.ai.edge.litert.CompiledModel.GpuOptions.Precision
import com.google.ai.edge.litert.FakeLiteRt
import com.google.ai.edge.litert.LiteRtException
import org.junit.jupiter.api.BeforeEach
import org.junit.jupiter.api.DynamicTest
import org.junit.jupiter.api.DynamicTest.dynamicTest
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.TestFactory
import org.junit.jupiter.api.assertThrows
import org.junit.jupiter.api.io.TempDir
import org.pecore.core.Bundle
import java.io.File
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertNull
import kotlin.test.assertTrue

private val MADE = listOf("create environment", "create gpu", "create inputs", "create outputs")
private val CLOSED = listOf("close output", "close input", "close model", "close environment")

class ImageEncoderTest {
    @TempDir
    lateinit var folder: File
    private lateinit var bundle: Bundle
    private val model get() = bundle.models[0]

    @BeforeEach
    fun fake() {
        FakeLiteRt.reset()
        FakeLiteRt.inputLength = 3
        FakeLiteRt.compute = { _, _, input -> floatArrayOf(input[0], input[1] + input[2]) }
        bundle = PixelBundle.write(folder)
    }

    @Test
    fun `made once, then write, run, read for every image, then closed once`() {
        ImageEncoder(bundle, model, Compute.GPU_FP16).use { encoder ->
            assertEquals(listOf(1f, 5f), encoder.encode(floatArrayOf(1f, 2f, 3f)).toList())
            assertEquals(listOf(4f, 11f), encoder.encode(floatArrayOf(4f, 5f, 6f)).toList())
            encoder.close()
        }
        assertEquals(MADE + listOf("write", "run", "read", "write", "run", "read") + CLOSED, FakeLiteRt.calls)
        assertTrue(FakeLiteRt.open.isEmpty())
    }

    @Test
    fun `what LiteRT is asked for`() {
        val asked = mutableListOf<Pair<String, CompiledModel.Options>>()
        FakeLiteRt.compute = { path, options, _ -> floatArrayOf(0f, 1f).also { asked += path to options } }
        for (compute in Compute.entries) ImageEncoder(bundle, model, compute).use { it.encode(FloatArray(3)) }
        assertEquals(listOf(File(folder, "pixel_fp16.tflite").path), asked.map { it.first }.distinct())
        val (half, single, cpu) = asked.map { it.second }
        assertEquals(listOf(Accelerator.GPU) to Precision.FP16, half.accelerators.toList() to half.gpuOptions?.precision)
        assertEquals(listOf(Accelerator.GPU) to Precision.FP32, single.accelerators.toList() to single.gpuOptions?.precision)
        assertEquals(listOf(Accelerator.CPU) to null, cpu.accelerators.toList() to cpu.gpuOptions)
        assertTrue(cpu.cpuOptions!!.numThreads!! in 1..4)
    }

    @Test
    fun `a closed encoder does not run`() {
        val encoder = ImageEncoder(bundle, model, Compute.CPU).apply { close() }
        assertThrows<IllegalStateException> { encoder.encode(FloatArray(3)) }
    }

    @Test
    fun `other lengths are refused`() {
        ImageEncoder(bundle, model, Compute.CPU).use { encoder ->
            assertThrows<IllegalArgumentException> { encoder.encode(FloatArray(4)) }
            FakeLiteRt.compute = { _, _, _ -> FloatArray(7) }
            assertContains(assertThrows<EncoderException> { encoder.encode(FloatArray(3)) }.message!!, "gave 7 numbers")
        }
    }

    @TestFactory
    fun `what was made is closed where the rest fails`(): List<DynamicTest> =
        MADE.mapIndexed { i, call ->
            dynamicTest(call) {
                fake()
                FakeLiteRt.failures[call] = LiteRtException(3, "no memory")
                assertThrows<LiteRtException> { ImageEncoder(bundle, model, Compute.GPU_FP16) }
                val closed = listOf(emptyList(), CLOSED.drop(3), CLOSED.drop(2), CLOSED.drop(1))[i]
                assertEquals(MADE.take(i + 1) + closed, FakeLiteRt.calls)
                assertTrue(FakeLiteRt.open.isEmpty())
            }
        }

    @Test
    fun `a model of two outputs is refused and closed`() {
        FakeLiteRt.outputs = 2
        assertContains(assertThrows<EncoderException> { ImageEncoder(bundle, model, Compute.CPU) }.message!!, "2 outputs")
        assertTrue(FakeLiteRt.open.isEmpty())
    }

    @Test
    fun `the GPU comes first`() {
        val opened = openEncoder(bundle, model)
        assertEquals(Compute.GPU_FP16 to null, opened.encoder.compute to opened.refusal)
        assertEquals(MADE, FakeLiteRt.calls)
        opened.encoder.close()
    }

    @Test
    fun `a GPU that refuses says why, and the CPU runs`() {
        FakeLiteRt.refusals[Accelerator.GPU] = "Some ops are not accelerated\n"
        val opened = openEncoder(bundle, model)
        assertEquals(Compute.CPU to "Some ops are not accelerated", opened.encoder.compute to opened.refusal)
        assertEquals(listOf("environment", "model", "input", "output"), FakeLiteRt.open)
        opened.encoder.close()
        assertTrue(FakeLiteRt.open.isEmpty())
    }

    @Test
    fun `the CPU, asked for, is no refusal`() {
        FakeLiteRt.refusals[Accelerator.GPU] = "no"
        val opened = openEncoder(bundle, model, Compute.CPU)
        assertNull(opened.refusal)
        assertTrue("create gpu" !in FakeLiteRt.calls)
        opened.encoder.close()
    }

    @Test
    fun `where nothing runs, both reasons are told`() {
        FakeLiteRt.refusals += mapOf(Accelerator.GPU to "no OpenCL", Accelerator.CPU to "no memory")
        val both = assertThrows<EncoderException> { openEncoder(bundle, model) }.message!!
        assertContains(both, "no OpenCL")
        assertContains(both, "no memory")
        assertContains(assertThrows<EncoderException> { openEncoder(bundle, model, Compute.CPU) }.message!!, "no memory")
        assertTrue(FakeLiteRt.open.isEmpty())
    }

    @Test
    fun `a library that does not load is no refusal of the GPU`() {
        FakeLiteRt.failures["create environment"] = UnsatisfiedLinkError("litert_jni")
        assertContains(assertThrows<EncoderException> { openEncoder(bundle, model) }.message!!, "litert_jni")
    }
}
