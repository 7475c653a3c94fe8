package org.pecore.demo.model

import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import com.google.ai.edge.litert.Environment
import com.google.ai.edge.litert.LiteRtException
import com.google.ai.edge.litert.TensorBuffer
import org.pecore.core.ModelFile

/** What a model computes on, and in; [kind] is the word in thresholds and reports, [title] is for people. */
enum class Compute(val kind: String, val title: String) {
    GPU_FP16("gpu fp16", "GPU fp16"),
    GPU_FP32("gpu fp32", "GPU fp32"),
    CPU("cpu", "CPU"),
}

/** The model can't be run at all; [message] is one sentence for people. */
class EncoderException(message: String, cause: Throwable? = null) : Exception(message, cause)

/**
 * A tower that is loaded, of one input and one output.
 *
 * Owns LiteRT's environment, model and buffers, which are made once. One thread makes it, uses it and closes it. Strict:
 * with a GPU in [compute], a model of which some op is not on the GPU is refused, and nothing runs elsewhere.
 *
 * @param outputLength numbers in an output, as the manifest says.
 * @throws LiteRtException what LiteRT says; nothing is left open then.
 * @throws EncoderException the model has other inputs and outputs than its manifest says; nothing is left open then.
 */
internal class Tower(private val model: ModelFile, compute: Compute, private val outputLength: Int) : AutoCloseable {
    private val opened = ArrayDeque<AutoCloseable>()
    private val compiled: CompiledModel
    private val inputs: List<TensorBuffer>
    private val outputs: List<TensorBuffer>

    init {
        try {
            val environment = Environment.create().also(opened::addFirst)
            compiled = CompiledModel.create(model.file.path, options(compute), environment).also(opened::addFirst)
            inputs = compiled.createInputBuffers().onEach(opened::addFirst)
            outputs = compiled.createOutputBuffers().onEach(opened::addFirst)
            if (inputs.size != 1 || outputs.size != 1) {
                throw EncoderException("${model.name} has ${inputs.size} inputs and ${outputs.size} outputs instead of one each")
            }
        } catch (error: Throwable) {
            close()
            throw error
        }
    }

    /**
     * The output for what [write] puts into the input.
     *
     * @throws LiteRtException what LiteRT says.
     * @throws EncoderException the output has another length than the manifest says.
     * @throws IllegalStateException the tower is closed.
     */
    fun run(write: (TensorBuffer) -> Unit): FloatArray {
        write(inputs[0])
        compiled.run(inputs, outputs)
        val output = outputs[0].readFloat() // waits for the GPU; LiteRT makes a new array, and has no way to fill one
        if (output.size != outputLength) {
            throw EncoderException("${model.name} gave ${output.size} numbers, its manifest says $outputLength")
        }
        return output
    }

    /** Buffers first, then the model, then the environment. Twice does nothing. */
    override fun close() {
        while (opened.isNotEmpty()) opened.removeFirst().close()
    }
}

private const val MOST_THREADS = 4 // a phone's large cores; small ones slow the others down

private fun options(compute: Compute): CompiledModel.Options =
    when (compute) {
        Compute.CPU -> {
            CompiledModel.Options(Accelerator.CPU).apply {
                val threads = minOf(MOST_THREADS, Runtime.getRuntime().availableProcessors())
                cpuOptions = CompiledModel.CpuOptions(numThreads = threads)
            }
        }

        Compute.GPU_FP16 -> {
            gpu(CompiledModel.GpuOptions.Precision.FP16)
        }

        Compute.GPU_FP32 -> {
            gpu(CompiledModel.GpuOptions.Precision.FP32)
        }
    }

private fun gpu(precision: CompiledModel.GpuOptions.Precision) =
    CompiledModel.Options(Accelerator.GPU).apply { gpuOptions = CompiledModel.GpuOptions(precision = precision) }
