package org.pecore.core

import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonPrimitive
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.assertThrows
import kotlin.math.sqrt
import kotlin.test.assertContains
import kotlin.test.assertEquals

class TextEmbedderTest {
    private val vectors = Vectors.json("text/tokens.json")
    private val dim = vectors.int("dim")
    private val numbers = Vectors.floats("text/" + vectors.text("embeddings"))
    private val rows =
        vectors.list("cases").take(numbers.size / dim).mapIndexed { i, case ->
            case.list("ids").map { it.jsonPrimitive.int } to numbers.copyOfRange(i * dim, (i + 1) * dim)
        }.toMap()
    private val tokenizer = Tokenizer.parse(Vectors.bytes("text/tokenizer.json").toString(Charsets.UTF_8), "tokenizer.json")

    /** What the tiny text tower answered in Python. */
    private val recorded = TokenEncoder { ids -> rows.getValue(ids.dropLastWhile { it == 0 }) }
    private val embedder = TextEmbedder(tokenizer, vectors.int("context_length"), recorded)

    @Test
    fun `a text's embedding is the tower's, at length 1`() {
        for (case in vectors.list("cases").take(rows.size)) {
            val row = embedder.embed(case.text("text"))
            val expected = recorded.encode(case.list("ids").map { it.jsonPrimitive.int }.toIntArray())
            for (i in 0 until dim) assertEquals(expected[i], row[i], 1e-6f) // float32 rows have norm 1 to 1e-6
        }
        val loud = TextEmbedder(tokenizer, 32) { FloatArray(4) { 3f } }
        assertEquals(listOf(0.5f, 0.5f, 0.5f, 0.5f), loud.embed("cat").toList())
    }

    /** Expected: `torch.nn.functional.normalize(rows.mean(0), dim=-1)` of the two prompts' rows. */
    @Test
    fun `a label is the mean over its templates, as Python has it`() {
        val row = embedder.embedLabel("cat", listOf("{}", "a photo of a {}."))
        assertEquals(1.0, sqrt(row.sumOf { it.toDouble() * it }), 1e-6)
        val expected = floatArrayOf(-0.0321926363f, -0.0563670769f, 0.0195799209f, -0.0208327733f, 0.00322944764f, 0.0467044115f)
        for (i in expected.indices) assertEquals(expected[i], row[i], 1e-6f)
    }

    @Test
    fun `own labels are added once, renamed, moved, taken out, and written down`() {
        val labels = OwnLabels().add(" cat ").add("red panda").add("").add("CAT").add("dog")
        assertEquals(listOf("cat", "red panda", "dog"), labels.names)
        assertEquals(listOf("cat", "dog"), labels.remove("red panda").names)
        assertEquals(listOf("cat", "blue panda", "dog"), labels.rename("red panda", " blue panda ").names)
        assertEquals(listOf("Cat", "red panda", "dog"), labels.rename("cat", "Cat").names)
        for (taken in listOf("DOG", " ")) assertEquals(labels, labels.rename("cat", taken))
        assertEquals(labels, labels.rename("gone", "wolf"))
        assertEquals(listOf("red panda", "dog", "cat"), labels.move("cat", 2).names)
        assertEquals(listOf("cat", "dog", "red panda"), labels.move("dog", -1).names)
        for ((name, by) in listOf("cat" to -1, "dog" to 1, "gone" to 1)) assertEquals(labels, labels.move(name, by))
        assertEquals(labels, OwnLabels.parse(labels.format()))
        assertEquals(OwnLabels(), OwnLabels.parse(OwnLabels().format()))
        assertEquals(null, labels.problem)
        assertContains(labels.copy(template = "a photo").problem!!, "a photo of a {}")
    }
}
