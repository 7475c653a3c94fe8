package org.pecore.core

import org.junit.jupiter.api.DynamicTest
import org.junit.jupiter.api.DynamicTest.dynamicTest
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.TestFactory
import org.junit.jupiter.api.assertThrows
import kotlin.math.exp
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertTrue

private const val TOLERANCE = 1e-5

class ClassifierTest {
    private val scores = Vectors.index.at("scores")
    private val dim = scores.int("dim")
    private val embeddings = Vectors.floats(scores.text("embeddings"))
    private val classifier = Classifier(vectorLabels())

    @TestFactory
    fun `labels, cosines and probabilities are Python's`(): List<DynamicTest> =
        scores.list("cases").mapIndexed { i, case ->
            dynamicTest(case.text("image")) {
                val expected = case.list("predictions")
                val actual = classifier.classify(embedding(i), scores.int("top_k"))
                assertEquals(expected.map { it.int("index") to it.text("label") }, actual.map { it.index to it.label })
                expected.zip(actual) { there, here ->
                    assertEquals(there.double("cosine"), here.cosine, TOLERANCE)
                    assertEquals(there.double("probability"), here.probability, TOLERANCE)
                }
            }
        }

    @Test
    fun `the length of an embedding does not matter`() {
        val longer = FloatArray(dim) { 1.3f * embedding(0)[it] }
        assertEquals(classifier.classify(embedding(0))[0].probability, classifier.classify(longer)[0].probability, TOLERANCE)
    }

    @Test
    fun `probabilities are over the active labels alone`() {
        val all = classifier.classify(embedding(0), top = 8).associateBy { it.index }
        val active = BooleanArray(8) { it == 1 || it == 4 || it == 6 }
        val some = classifier.classify(embedding(0), active = active)
        assertEquals(setOf(1, 4, 6), some.map { it.index }.toSet())
        assertEquals(1.0, some.sumOf { it.probability }, 1e-12)
        assertEquals(
            all.getValue(some[0].index).probability / all.getValue(some[1].index).probability,
            exp(100 * (some[0].cosine - some[1].cosine)),
            1e-6,
        )
        assertEquals(all.getValue(some[0].index).cosine, some[0].cosine)
    }

    @Test
    fun `of equal labels the first comes first, and both come`() {
        val twins = classifier.classify(FloatArray(dim) { classifier.labels.rows[it] }, top = 2) // rows 0 and 7 are equal
        assertEquals(listOf(0, 7), twins.map { it.index })
        assertEquals(twins[0].probability, twins[1].probability)
    }

    @Test
    fun `no label, no answer`() {
        assertEquals(emptyList(), classifier.classify(embedding(0), active = BooleanArray(8)))
    }

    @Test
    fun `an embedding that is no direction is refused`() {
        for (value in listOf(Float.NaN, Float.POSITIVE_INFINITY, 0f)) {
            val error = assertThrows<IllegalArgumentException> { classifier.classify(FloatArray(dim) { value }) }
            assertContains(error.message!!, "self-test")
        }
        assertThrows<IllegalArgumentException> { classifier.classify(FloatArray(dim - 1) { 1f }) }
        assertThrows<IllegalArgumentException> { classifier.classify(embedding(0), active = BooleanArray(7)) }
    }

    @Test
    fun `nothing is made but the list`() {
        val one = embedding(0)
        val active = BooleanArray(8) { it != 2 }
        assertTrue(allocated { classifier.classify(one, 5, active) } < 500)
    }

    private fun embedding(i: Int) = embeddings.copyOfRange(i * dim, (i + 1) * dim)

    private fun vectorLabels(): Labels {
        val names = Labels.parseNames(Vectors.bytes(scores.text("labels")))
        val rows = Labels.parseRows(Vectors.bytes(scores.text("text_embeddings")), names.size, dim)
        val weights = Weights("synthetic", "synthetic", true, 0, null)
        return Labels(names, dim, scores.double("logit_scale"), "T16", weights, emptyList(), rows)
    }
}
