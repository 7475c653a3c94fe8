package com.google.ai.edge.litert

enum class Accelerator { NONE, CPU, GPU, NPU }

class CompiledModel private constructor(private val path: String, private val options: Options) : JniHandle("model") {
    data class CpuOptions(val numThreads: Int? = null, val xnnPackFlags: Int? = null, val xnnPackWeightCachePath: String? = null)

    data class GpuOptions(
        val constantTensorSharing: Boolean? = null,
        val infiniteFloatCapping: Boolean? = null,
        val allowSrcQuantizedFcConvOps: Boolean? = null,
        val precision: Precision? = null,
    ) {
        enum class Precision { DEFAULT, FP16, FP32 }
    }

    class Options(vararg val accelerators: Accelerator) {
        var cpuOptions: CpuOptions? = null
        var gpuOptions: GpuOptions? = null

        companion object {
            @JvmStatic val CPU = Options(Accelerator.CPU)
        }
    }

    @Throws(LiteRtException::class)
    @JvmOverloads
    fun createInputBuffers(
        @Suppress("UNUSED_PARAMETER") signatureIndex: Int = 0,
    ): List<TensorBuffer> {
        use("create inputs")
        return List(FakeLiteRt.inputs) { TensorBuffer("input", FakeLiteRt.inputLength) }
    }

    @Throws(LiteRtException::class)
    @JvmOverloads
    fun createOutputBuffers(
        @Suppress("UNUSED_PARAMETER") signatureIndex: Int = 0,
    ): List<TensorBuffer> {
        use("create outputs")
        return List(FakeLiteRt.outputs) { TensorBuffer("output", null) }
    }

    @Throws(LiteRtException::class)
    @JvmOverloads
    fun run(
        inputs: List<TensorBuffer>,
        outputs: List<TensorBuffer>,
        @Suppress("UNUSED_PARAMETER") signatureIndex: Int = 0,
    ) {
        use("run")
        outputs[0].content = FakeLiteRt.compute(path, options, inputs[0].content)
    }

    companion object {
        private const val COMPILATION = 504

        @Throws(LiteRtException::class)
        @JvmOverloads
        @JvmStatic
        fun create(
            filePath: String,
            options: Options = Options.CPU,
            @Suppress("UNUSED_PARAMETER") optionalEnv: Environment? = null,
        ): CompiledModel {
            FakeLiteRt.call("create ${options.accelerators.joinToString { it.name.lowercase() }}")
            options.accelerators.firstNotNullOfOrNull(FakeLiteRt.refusals::get)?.let { throw LiteRtException(COMPILATION, it) }
            return CompiledModel(filePath, options)
        }
    }
}
