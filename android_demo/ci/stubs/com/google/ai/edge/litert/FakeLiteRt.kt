package com.google.ai.edge.litert

/**
 * What the stand-in does, and what was done with it. Tests set it; LiteRT itself has no such object.
 *
 * The classes beside this one have the names and signatures of LiteRT 2.3 that the app uses, and none of its code.
 */
object FakeLiteRt {
    /** What was called, in order: `create gpu`, `write`, `run`, `read`, `close model`... */
    val calls = mutableListOf<String>()

    /** Accelerator -> why [CompiledModel.create] refuses it. */
    val refusals = mutableMapOf<Accelerator, String>()

    /** Call -> what it throws. */
    val failures = mutableMapOf<String, Throwable>()

    /** What [CompiledModel.run] computes, from the model's path, its options and its input. */
    var compute: (path: String, options: CompiledModel.Options, input: FloatArray) -> FloatArray = { _, _, input -> input }

    /** Numbers in an input, and how many inputs and outputs a model has. */
    var inputLength = 0
    var inputs = 1
    var outputs = 1

    /** What was made and not closed yet. */
    val open = mutableListOf<String>()

    fun reset() {
        calls.clear()
        refusals.clear()
        failures.clear()
        open.clear()
        compute = { _, _, input -> input }
        inputLength = 0
        inputs = 1
        outputs = 1
    }

    internal fun call(name: String) {
        calls += name
        failures[name]?.let { throw it }
    }
}
