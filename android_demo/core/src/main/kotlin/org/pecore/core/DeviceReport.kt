package org.pecore.core

import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonObjectBuilder
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.add
import kotlinx.serialization.json.addJsonObject
import kotlinx.serialization.json.buildJsonObject
import kotlinx.serialization.json.put
import kotlinx.serialization.json.putJsonArray
import kotlinx.serialization.json.putJsonObject
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.Base64

/** [id] is the word in a report. */
enum class Outcome(val id: String) {
    PASSED("passed"),
    FAILED("failed"),
    SKIPPED("skipped"),
}

/** Milliseconds of the [first] run, and the [median] of the [runs] after it. */
data class LatencyFigures(val first: Double, val median: Double, val runs: Int)

/** What came out of a run on a device: one of [outputs] for each sample of the reference. */
class DeviceRun(val figures: Figures, val latency: LatencyFigures, val outputs: List<FloatArray>)

/** One file ([subject], [sha256]) on one backend; [kind]: `cpu`, `gpu fp16`, `gpu fp32`. [run] is null where it did not run. */
class DeviceGate(
    val subject: String,
    val sha256: String,
    val kind: String,
    val backend: String,
    val outcome: Outcome,
    val detail: String,
    val thresholds: Map<String, Double>,
    val run: DeviceRun? = null,
)

/**
 * What a device's self-test found; [toJson] is what `pecore validate BUNDLE --device-report FILE` judges
 * (docs/artefacts.md). [device] has at least `name` and `system`.
 */
class DeviceReport(
    val name: String,
    val fingerprint: String?,
    val device: Map<String, String>,
    val versions: Map<String, String>,
    val gates: List<DeviceGate>,
) {
    /** Something ran, and nothing failed. */
    val passed: Boolean
        get() = gates.any { it.outcome == Outcome.PASSED } && gates.none { it.outcome == Outcome.FAILED }

    fun toJson(): String =
        JSON.encodeToString(
            JsonObject.serializer(),
            buildJsonObject {
                put("format", 1)
                put("name", name)
                put("fingerprint", fingerprint)
                putJsonObject("device") { device.forEach { (key, value) -> put(key, value) } }
                putJsonObject("versions") { versions.forEach { (key, value) -> put(key, value) } }
                put("verdict", (if (passed) Outcome.PASSED else Outcome.FAILED).id)
                putJsonArray("gates") { gates.forEach { gate -> addJsonObject { write(gate) } } }
            },
        ) + "\n"
}

private val JSON = Json { prettyPrint = true }

private fun JsonObjectBuilder.write(gate: DeviceGate) {
    put("gate", "device")
    put("subject", gate.subject)
    put("backend", gate.backend)
    put("outcome", gate.outcome.id)
    put("detail", gate.detail)
    putJsonObject("figures") {
        put("sha256", gate.sha256)
        put("kind", gate.kind)
        put("samples", gate.run?.outputs?.size ?: 0)
        gate.run?.let { run ->
            run.figures.byName.forEach { (name, value) -> number(name, value) }
            putJsonObject("latency_ms") {
                number("first", run.latency.first)
                number("median", run.latency.median)
                put("runs", run.latency.runs)
            }
        }
        putJsonArray("outputs") { gate.run?.outputs?.forEach { add(base64(it)) } }
    }
    putJsonObject("thresholds") { gate.thresholds.forEach { (name, limit) -> number(name, limit) } }
}

/** JSON has no NaN and no infinity. */
private fun JsonObjectBuilder.number(name: String, value: Double) {
    put(name, if (value.isFinite()) JsonPrimitive(value) else JsonNull)
}

private fun base64(numbers: FloatArray): String {
    val bytes = ByteBuffer.allocate(4 * numbers.size).order(ByteOrder.LITTLE_ENDIAN)
    bytes.asFloatBuffer().put(numbers)
    return Base64.getEncoder().encodeToString(bytes.array())
}
