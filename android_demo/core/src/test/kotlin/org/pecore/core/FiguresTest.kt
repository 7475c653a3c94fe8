package org.pecore.core

import org.junit.jupiter.api.Test
import org.junit.jupiter.api.assertThrows
import kotlin.test.assertEquals
import kotlin.test.assertTrue

class FiguresTest {
    private val references = listOf(floatArrayOf(0.6f, 0.8f, 0f, 0f), floatArrayOf(0.5f, -0.5f, 0.5f, 0.5f))
    private val outputs = listOf(floatArrayOf(0.59f, 0.81f, 0.01f, 0f), floatArrayOf(0.52f, -0.5f, 0.5f, 0.48f))

    /** Expected: `validate.parity.compare` of the same numbers. */
    @Test
    fun `figures are Python's, the worst of the samples`() {
        val figures = Figures.compare(references, outputs)
        assertEquals(0.9996002399948982, figures.cosine, 1e-12)
        assertEquals(0.9994670931660167, figures.correlation, 1e-12)
        assertEquals(0.002147656297427414, figures.normError, 1e-12)
        assertEquals(0.02000001072883606, figures.maxAbsDiff, 1e-12)
        assertEquals(0.04000002145767212, figures.relativeDiff, 1e-12)
    }

    @Test
    fun `what misses its limit is named`() {
        val figures = Figures(0.99995, 0.99991, 0.003, 0.01, 0.02)
        assertEquals(emptyList(), figures.missed(mapOf("cosine" to 0.9999, "norm_error" to 0.003)))
        assertEquals(
            listOf("correlation 0.99991 (must be >= 0.9999999)", "max_abs_diff 0.01 (must be <= 0.000002)"),
            figures.missed(mapOf("correlation" to 0.9999999, "max_abs_diff" to 2e-6, "relative_diff" to 0.02)),
        )
        assertEquals(listOf("sharpness is not known here: update the app"), figures.missed(mapOf("sharpness" to 1.0)))
    }

    @Test
    fun `a number that is none fails everything`() {
        val nan = Figures.compare(references, listOf(outputs[0], floatArrayOf(0f, Float.NaN, 0f, 0f)))
        assertTrue(nan.byName.values.all { it.isNaN() })
        assertEquals(5, nan.missed(nan.byName.mapValues { (name, _) -> if (name in setOf("cosine", "correlation")) 0.0 else 9.0 }).size)
    }

    @Test
    fun `zero is no direction`() {
        assertTrue(Figures.compare(references, List(2) { FloatArray(4) }).cosine.isNaN())
        assertTrue(Figures.compare(listOf(FloatArray(4)), references.take(1)).relativeDiff.isNaN())
    }

    @Test
    fun `other lengths are refused`() {
        assertThrows<IllegalArgumentException> { Figures.compare(references, outputs.drop(1)) }
        assertThrows<IllegalArgumentException> { Figures.compare(references, List(2) { FloatArray(3) }) }
    }
}
