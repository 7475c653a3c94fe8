package org.pecore.demo.model

import com.google.ai.edge.litert.LiteRtException
import org.pecore.core.Bundle
import org.pecore.core.BundleException
import org.pecore.core.DeviceGate
import org.pecore.core.DeviceReport
import org.pecore.core.DeviceRun
import org.pecore.core.Figures
import org.pecore.core.Latencies
import org.pecore.core.LatencyFigures
import org.pecore.core.ModelFile
import org.pecore.core.Outcome
import org.pecore.core.Reference
import org.pecore.core.reference
import java.util.Locale

/**
 * Runs the bundle's reference on this device and judges the answers by the manifest's thresholds.
 *
 * @param device what the device says of itself, at least `name` and `system`.
 * @param versions of what runs the model: `litert`.
 * @param nanos a clock.
 */
class SelfTest(
    private val bundle: Bundle,
    private val device: Map<String, String>,
    private val versions: Map<String, String>,
    private val nanos: () -> Long = System::nanoTime,
) {
    /**
     * Every model of the bundle on the CPU and on the GPU, one after the other. Takes the thread, and memory for one
     * model: close other encoders first.
     *
     * @param progress told what is being done; may throw to end it.
     * @throws BundleException the bundle has no self-test, or a file in it is damaged.
     * @throws EncoderException LiteRT's libraries do not load on this device.
     */
    fun run(progress: (String) -> Unit = {}): DeviceReport {
        progress("Reading the reference")
        val reference = bundle.reference()
        val gates =
            bundle.selfTest!!.thresholds.flatMap { (name, limits) ->
                val model = bundle.model(name)
                model?.verify { share -> progress("Checking $name: ${(100 * share).toInt()} %") }
                BACKENDS.filter { it.kind in limits }.map { compute ->
                    progress("Running $name on the ${compute.title}")
                    val thresholds = limits.getValue(compute.kind)
                    if (model == null) absent(name, compute, thresholds) else judge(model, compute, thresholds, reference)
                }
            }
        return DeviceReport(bundle.name, bundle.weights.fingerprint, device, versions, gates)
    }

    private fun judge(model: ModelFile, compute: Compute, thresholds: Map<String, Double>, reference: Reference): DeviceGate {
        val run =
            try {
                ImageEncoder(bundle, model, compute).use { measure(it, reference) }
            } catch (error: LiteRtException) {
                return gate(model.name, model.sha256, compute, Outcome.FAILED, reason(error), thresholds)
            } catch (error: EncoderException) {
                return gate(model.name, model.sha256, compute, Outcome.FAILED, reason(error), thresholds)
            } catch (error: LinkageError) {
                throw noLibrary(error)
            }
        val missed = run.figures.missed(thresholds)
        val outcome = if (missed.isEmpty()) Outcome.PASSED else Outcome.FAILED
        val detail = missed.joinToString("; ").ifEmpty { summary(run.figures) }
        return gate(model.name, model.sha256, compute, outcome, detail, thresholds, run)
    }

    private fun summary(figures: Figures) = "cosine %.7f, |norm - 1| %.0e".format(Locale.ROOT, figures.cosine, figures.normError)

    private fun measure(encoder: ImageEncoder, reference: Reference): DeviceRun {
        val times = Latencies(RUNS)

        fun timed(input: FloatArray): FloatArray {
            val start = nanos()
            return encoder.encode(input).also { times.add(start, nanos()) }
        }
        val first = timed(reference.inputs[0])
        val firstMillis = times.last
        val outputs = listOf(first) + reference.inputs.drop(1).map(encoder::encode)
        times.reset()
        repeat(RUNS) { timed(reference.inputs[0]) }
        return DeviceRun(Figures.compare(reference.outputs, outputs), LatencyFigures(firstMillis, times.median, RUNS), outputs)
    }

    private fun absent(name: String, compute: Compute, thresholds: Map<String, Double>) =
        gate(name, "", compute, Outcome.SKIPPED, "$name is not on this device", thresholds)

    private fun gate(
        name: String,
        sha256: String,
        compute: Compute,
        outcome: Outcome,
        detail: String,
        thresholds: Map<String, Double>,
        run: DeviceRun? = null,
    ): DeviceGate {
        val backend = "LiteRT ${compute.title} on ${device["name"]}"
        return DeviceGate(name, sha256, compute.kind, backend, outcome, detail, thresholds, run)
    }

    private companion object {
        const val RUNS = 10
        val BACKENDS = listOf(Compute.CPU, Compute.GPU_FP16)
    }
}
