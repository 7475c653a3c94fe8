package com.google.ai.edge.litert

class Environment private constructor() : JniHandle("environment") {
    enum class Option { CompilerPluginLibraryDir, DispatchLibraryDir }

    companion object {
        @Throws(LiteRtException::class)
        @JvmOverloads
        @JvmStatic
        fun create(
            @Suppress("UNUSED_PARAMETER") options: Map<Option, String> = mapOf(),
        ): Environment {
            FakeLiteRt.call("create environment")
            return Environment()
        }
    }
}
