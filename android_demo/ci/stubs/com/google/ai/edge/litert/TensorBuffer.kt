package com.google.ai.edge.litert

class TensorBuffer internal constructor(name: String, private val length: Int?) : JniHandle(name) {
    internal var content = FloatArray(0)

    @Throws(LiteRtException::class)
    fun writeFloat(data: FloatArray) {
        use("write")
        if (length != null && data.size != length) throw LiteRtException(1, "${data.size} numbers for a buffer of $length")
        content = data.copyOf()
    }

    @Throws(LiteRtException::class)
    fun writeInt(data: IntArray) {
        use("write")
        content = FloatArray(data.size) { data[it].toFloat() }
    }

    @Throws(LiteRtException::class)
    fun readFloat(): FloatArray {
        use("read")
        return content.copyOf()
    }
}
