package org.pecore.core

import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.jsonPrimitive
import org.junit.jupiter.api.Test
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.Base64
import kotlin.test.assertEquals
import kotlin.test.assertFalse
import kotlin.test.assertTrue

class DeviceReportTest {
    private val run =
        DeviceRun(
            Figures(1.0, 0.99999, Double.NaN, 1e-4, 2e-4),
            LatencyFigures(31.5, 12.25, 10),
            listOf(floatArrayOf(0.6f, -0.8f), floatArrayOf(Float.NaN, 1f)),
        )
    private val ran =
        DeviceGate("a.tflite", "ab", "gpu fp16", "LiteRT GPU fp16 on Phone", Outcome.PASSED, "fine", mapOf("cosine" to 0.9), run)
    private val refused = DeviceGate("a.tflite", "ab", "cpu", "LiteRT CPU on Phone", Outcome.FAILED, "\"no\" memory", mapOf())
    private val skipped = DeviceGate("b.tflite", "cd", "cpu", "LiteRT CPU on Phone", Outcome.SKIPPED, "not here", mapOf())

    @Test
    fun `a report has what docs_artefacts_md says`() {
        val json = Json.parseToJsonElement(report(ran, refused).toJson())
        assertEquals(listOf("1", "tiny", "f1", "failed"), listOf("format", "name", "fingerprint", "verdict").map(json::text))
        assertEquals("Phone", json.at("device").text("name"))
        assertEquals("2.3.2", json.at("versions").text("litert"))
        val (first, second) = json.list("gates")
        assertEquals(
            listOf("device", "a.tflite", "LiteRT GPU fp16 on Phone", "passed", "fine"),
            listOf("gate", "subject", "backend", "outcome", "detail").map(first::text),
        )
        val figures = first.at("figures")
        assertEquals(listOf("ab", "gpu fp16", "2", "1.0"), listOf("sha256", "kind", "samples", "cosine").map(figures::text))
        assertEquals(JsonNull, figures.at("norm_error"))
        assertEquals(2e-4, figures.double("relative_diff"))
        assertEquals(listOf("31.5", "12.25", "10"), listOf("first", "median", "runs").map(figures.at("latency_ms")::text))
        val outputs = figures.list("outputs").map { Base64.getDecoder().decode(it.jsonPrimitive.content) }
        val numbers = ByteBuffer.wrap(outputs[0]).order(ByteOrder.LITTLE_ENDIAN)
        assertEquals(listOf(8, 8), outputs.map { it.size })
        assertEquals(0.6f to -0.8f, numbers.float to numbers.float)
        assertEquals(0.9, first.at("thresholds").double("cosine"))
        assertEquals("\"no\" memory", second.text("detail"))
        assertEquals(listOf("ab", "cpu", "0"), listOf("sha256", "kind", "samples").map(second.at("figures")::text))
        assertEquals(0, second.at("figures").list("outputs").size)
    }

    @Test
    fun `a report passes if something ran and nothing failed`() {
        assertTrue(report(ran, skipped).passed)
        assertFalse(report(ran, refused).passed)
        assertFalse(report(skipped).passed)
    }

    private fun report(vararg gates: DeviceGate) =
        DeviceReport("tiny", "f1", mapOf("name" to "Phone", "system" to "Android 16"), mapOf("litert" to "2.3.2"), gates.toList())
}
