package org.pecore.core

/** What the self-test runs: [inputs], and the [outputs] that PyTorch gave for them. */
class Reference internal constructor(val inputs: List<FloatArray>, val outputs: List<FloatArray>)

/**
 * Reads and checks the bundle's `reference.npz`.
 *
 * @throws BundleException the bundle has none, or it is damaged or of another model.
 */
fun Bundle.reference(): Reference {
    val spec = selfTest ?: throw BundleException("$name carries no self-test: convert the model again with this version of pecore")
    spec.reference.verify()
    val arrays = readNpz(spec.reference.file)
    val inputs = arrays[input.name]?.samples().orEmpty()
    val outputs = arrays[outputName]?.samples().orEmpty()
    if (inputs.isEmpty() || inputs.size != outputs.size || inputs[0].size != input.length || outputs[0].size != embeddingDim) {
        throw BundleException("${spec.reference.name} does not fit the model's input and output: $REINSTALL")
    }
    return Reference(inputs, outputs)
}
