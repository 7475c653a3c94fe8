package com.google.ai.edge.litert

class LiteRtException(val code: Int, message: String) : Exception(message)
