package org.pecore.core

import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonPrimitive
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.assertThrows
import java.io.File
import kotlin.test.assertContains
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertNotEquals

class TokenizerTest {
    private val vectors = Vectors.json("text/tokens.json")
    private val content = Vectors.bytes("text/" + vectors.text("tokenizer")).toString(Charsets.UTF_8)
    private val tokenizer = Tokenizer.parse(content, "tokenizer.json")
    private val ids = IntArray(vectors.int("context_length"))
    private val cases = vectors.list("cases")

    @Test
    fun `500 texts are cleaned and cut into tokens as Python does it`() {
        assertEquals(500, cases.size)
        for (case in cases) {
            val text = case.text("text")
            assertEquals(case.text("cleaned"), clean(text), "cleaned: $text")
            val expected = IntArray(ids.size).also { row -> case.list("ids").forEachIndexed { i, id -> row[i] = id.jsonPrimitive.int } }
            val count = tokenizer.encode(text, ids)
            assertContentEquals(expected, ids, text)
            if (count <= ids.size) assertEquals(case.list("ids").size, count, text)
        }
        assertEquals(1003, tokenizer.encode("a ".repeat(1001), ids), "what was cut is counted")
    }

    /** Expected: Python's `str.lower`. The JDK's own rule takes the end of a word from its line breaking. */
    @Test
    fun `a sigma at the end of a word is the final one`() {
        val lower =
            mapOf(
                "ΟΔΥΣΣΕΥΣ" to "οδυσσευς",
                "Σ" to "σ",
                "ΑΣ. ΑΣ" to "ας. ας",
                "ΑΣ'Α" to "ασ'α",
                "ΑΣ1" to "ας1",
                "1Σ" to "1σ",
                "Α\u0301Σ" to "άς",
                "ΑΣ👍" to "ας👍",
                "𝐀Σ" to "𝐀ς",
            )
        lower.forEach { (text, expected) -> assertEquals(expected, clean(text)) }
    }

    @Test
    fun `HTML's names are the web page's`() {
        val here = javaClass.getResource("entities.json")!!.readBytes()
        assertContentEquals(Vectors.file("../../web_demo/site/entities.json").readBytes(), here)
    }

    @Test
    fun `a long word and a long text take no more than their result`() {
        val text = clean("antidisestablishmentarianism is 99 % of ${"x".repeat(500)} 日本の猫 ".repeat(20))
        assertEquals(0, allocated { tokenizer.encodeClean(text, ids) })
    }

    @Test
    fun `a file that is no CLIP tokenizer is one sentence`() {
        val cases =
            listOf(
                "{" to "not JSON",
                "[]" to "no CLIP tokenizer",
                content.replace("<end_of_text>", "<eos>") to "no CLIP tokenizer",
                content.replace("\"merges\":[[", "\"merges\":[[\"x\",") to "no CLIP tokenizer",
                """{"model": {"vocab": {"a": "b"}, "merges": []}}""" to "no CLIP tokenizer",
            )
        for ((spoilt, problem) in cases) {
            val error = assertThrows<BundleException> { Tokenizer.parse(spoilt, "tokenizer.json") }
            assertContains(error.message!!, problem)
            assertContains(error.message!!, "tokenizer.json")
        }
    }

    @Test
    fun `merges may be lines, as older files have them`() {
        val lines = content.replace(Regex("""\["((?:[^"\\]|\\.)+)","((?:[^"\\]|\\.)+)"]"""), "\"$1 $2\"")
        assertNotEquals(content, lines)
        val older = Tokenizer.parse(lines, "tokenizer.json")
        older.encode("two dogs on a beach", ids)
        val expected = ids.copyOf()
        tokenizer.encode("two dogs on a beach", ids)
        assertContentEquals(ids, expected)
    }
}
