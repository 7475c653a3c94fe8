package com.google.ai.edge.litert

/** Something native that has to be closed, once, and can't be used afterwards. */
abstract class JniHandle internal constructor(private val what: String) : AutoCloseable {
    private var closed = false

    init {
        FakeLiteRt.open += what
    }

    protected fun use(call: String) {
        check(!closed) { "$what is closed" }
        FakeLiteRt.call(call)
    }

    override fun close() {
        if (closed) return
        closed = true
        FakeLiteRt.open -= what
        FakeLiteRt.call("close $what")
    }
}
