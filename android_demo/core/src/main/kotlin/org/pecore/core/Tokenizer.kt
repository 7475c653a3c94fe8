package org.pecore.core

import kotlinx.serialization.SerializationException
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive

/**
 * CLIP's byte-pair encoder, from a bundle's `tokenizer.json` (Hugging Face's format): the ids of `pecore/tokenizer.py`.
 *
 * Keeps its buffers, and makes nothing per token: not for several threads at once.
 */
class Tokenizer private constructor(vocabulary: Map<String, Int>, pairs: List<Pair<String, String>>) {
    private val start = vocabulary.getValue(START)
    private val end = vocabulary.getValue(END)
    private val bytes = IntArray(256) { vocabulary.getValue(spelt(it)) }
    private val lastBytes = IntArray(256) { vocabulary.getValue(spelt(it) + WORD_END) }
    private val merges = Merges(pairs, vocabulary)

    // The word that is being put together: its symbols, and the rank of each with the next one.
    private var symbols = IntArray(64)
    private var ranks = IntArray(64)
    private var length = 0

    /**
     * The ids of a text in [ids]: start, the text, end, zeros; of a text that is too long the beginning, and end.
     *
     * @return how many tokens the text takes, start and end included: more than `ids.size` where it was cut.
     */
    fun encode(text: String, ids: IntArray): Int = encodeClean(clean(text), ids)

    internal fun encodeClean(text: String, ids: IntArray): Int {
        ids.fill(0)
        ids[0] = start
        var count = 1
        var at = 0
        while (at < text.length) {
            val after = endOfWord(text, at)
            if (text[at] != ' ') {
                merge(text, at, after)
                for (i in 0 until length) if (count + i < ids.size) ids[count + i] = symbols[i]
                count += length
            }
            at = after
        }
        ids[minOf(count, ids.size - 1)] = end
        return count + 1
    }

    /** Where the word ends that begins at [from]: one of open_clip's pattern, or a space. */
    private fun endOfWord(text: String, from: Int): Int {
        if (text[from] == ' ') return from + 1
        SPECIALS.forEach { if (text.startsWith(it, from)) return from + it.length }
        if (text[from] == '\'') {
            CONTRACTIONS.forEach { if (text.startsWith(it, from)) return from + it.length }
            if (text.startsWith("'ſ", from)) return from + 2 // an s to a pattern that ignores case
        }
        val kind = kind(text.codePointAt(from))
        var at = from
        do {
            at += Character.charCount(text.codePointAt(at))
        } while (
            kind != Kind.NUMBER && at < text.length && kind(text.codePointAt(at)) == kind
        )
        return at
    }

    /** Makes [symbols] a word's bytes, and merges the pair of the lowest rank until there is none. */
    private fun merge(text: String, from: Int, to: Int) {
        length = 0
        if (text.startsWith(START, from)) return append(start)
        if (text.startsWith(END, from)) return append(end)
        var at = from
        while (at < to) {
            val code = text.codePointAt(at)
            appendUtf8(code)
            at += Character.charCount(code)
        }
        for (i in 0 until length) symbols[i] = (if (i < length - 1) bytes else lastBytes)[symbols[i]]
        for (i in 0 until length - 1) ranks[i] = merges.rank(symbols[i], symbols[i + 1])
        while (length > 1) {
            var best = 0
            for (i in 1 until length - 1) if (ranks[i] < ranks[best]) best = i
            if (ranks[best] == Merges.NONE) return
            symbols[best] = merges.merged[ranks[best]]
            symbols.copyInto(symbols, best + 1, best + 2, length)
            ranks.copyInto(ranks, best, best + 1, length - 1)
            length--
            if (best > 0) ranks[best - 1] = merges.rank(symbols[best - 1], symbols[best])
            if (best < length - 1) ranks[best] = merges.rank(symbols[best], symbols[best + 1])
        }
    }

    private fun appendUtf8(code: Int) {
        when {
            code < 0x80 -> append(code)
            code < 0x800 -> append(0xC0 or (code shr 6))
            code < 0x10000 -> append(0xE0 or (code shr 12))
            else -> append(0xF0 or (code shr 18))
        }
        if (code >= 0x10000) append(0x80 or (code shr 12 and 0x3F))
        if (code >= 0x800) append(0x80 or (code shr 6 and 0x3F))
        if (code >= 0x80) append(0x80 or (code and 0x3F))
    }

    private fun append(symbol: Int) {
        if (length == symbols.size) {
            symbols = symbols.copyOf(2 * length)
            ranks = ranks.copyOf(2 * length)
        }
        symbols[length++] = symbol
    }

    companion object {
        private const val START = "<start_of_text>"
        private const val END = "<end_of_text>"
        private const val WORD_END = "</w>"
        private val SPECIALS = arrayOf(START, END)
        private val CONTRACTIONS = arrayOf("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")

        /**
         * The tokenizer in a file.
         *
         * @throws BundleException it can't be read, or is not CLIP's.
         */
        fun read(file: ListedFile): Tokenizer = parse(file.read().toString(Charsets.UTF_8), file.name)

        internal fun parse(json: String, name: String): Tokenizer =
            try {
                val model = Json.parseToJsonElement(json).jsonObject.getValue("model").jsonObject
                val vocabulary = model.getValue("vocab").jsonObject.mapValues { it.value.jsonPrimitive.int }
                Tokenizer(vocabulary, model.getValue("merges").jsonArray.map(::pair))
            } catch (error: SerializationException) {
                throw BundleException("$name is not JSON: $REINSTALL", error)
            } catch (error: NoSuchElementException) {
                throw notClip(name, error)
            } catch (error: IllegalArgumentException) {
                throw notClip(name, error)
            }

        private fun notClip(name: String, error: Exception) =
            BundleException("$name is no CLIP tokenizer (${error.message}): $REINSTALL", error)

        /** `["a", "b"]`, or `"a b"` of files before tokenizers 0.20. */
        private fun pair(merge: JsonElement): Pair<String, String> {
            val (left, right) = if (merge is JsonArray) merge.map { it.jsonPrimitive.content } else merge.jsonPrimitive.content.split(' ')
            return left to right
        }
    }
}

private enum class Kind { LETTER, NUMBER, SPACE, OTHER }

private fun kind(code: Int): Kind =
    when {
        code == ' '.code -> Kind.SPACE
        Character.isLetter(code) -> Kind.LETTER
        Character.getType(code).toByte() in NUMBERS -> Kind.NUMBER
        else -> Kind.OTHER
    }

private val NUMBERS = byteArrayOf(Character.DECIMAL_DIGIT_NUMBER, Character.LETTER_NUMBER, Character.OTHER_NUMBER)

/** The character that the vocabulary has for a byte (GPT-2's table): itself where it is printed in Latin-1, else one past 255. */
private fun spelt(byte: Int): String = SPELT[byte].toString()

private val SPELT =
    CharArray(256).also { table ->
        var next = 256
        for (byte in 0..255) {
            val printed = byte in '!'.code..'~'.code || byte in '¡'.code..'¬'.code || byte in '®'.code..'ÿ'.code
            table[byte] = (if (printed) byte else next++).toChar()
        }
    }

/** Which pairs of tokens become one, and in which order: a hash table of [keys] without objects in it. */
private class Merges(pairs: List<Pair<String, String>>, vocabulary: Map<String, Int>) {
    /** What the pair of each rank becomes. */
    val merged = IntArray(pairs.size) { vocabulary.getValue(pairs[it].first + pairs[it].second) }
    private val mask = Integer.highestOneBit(2 * pairs.size + 1) * 2 - 1
    private val keys = LongArray(mask + 1) { -1L }
    private val ranks = IntArray(mask + 1) { NONE }

    init {
        pairs.forEachIndexed { rank, (left, right) ->
            val slot = slot(key(vocabulary.getValue(left), vocabulary.getValue(right)))
            keys[slot] = key(vocabulary.getValue(left), vocabulary.getValue(right))
            ranks[slot] = rank
        }
    }

    /** Of the pair, or [NONE] where it stays two. */
    fun rank(left: Int, right: Int): Int = ranks[slot(key(left, right))]

    private fun key(left: Int, right: Int) = left.toLong() shl 32 or right.toLong()

    private fun slot(key: Long): Int {
        var slot = (key * -0x61C8864680B583EBL ushr 40).toInt() and mask
        while (keys[slot] != -1L && keys[slot] != key) slot = slot + 1 and mask
        return slot
    }

    companion object {
        const val NONE = Int.MAX_VALUE
    }
}
