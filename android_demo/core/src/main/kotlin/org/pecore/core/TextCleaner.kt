package org.pecore.core

import java.text.Normalizer
import java.util.Locale

/**
 * A text as CLIP's tokenizer cleans it, and `pecore/tokenizer.py` with it: repaired as ftfy 6.3 does, HTML's references
 * resolved twice, white space collapsed, lower case.
 *
 * Of ftfy's repairs all but one: text that was decoded in a wrong encoding (`cafÃ©`) stays as it is. No keyboard types it.
 */
internal fun clean(text: String): String = lowered(collapse(HtmlEntities.unescape(HtmlEntities.unescape(repair(text)))))

/** ftfy's `fix_text`, line by line: after a line with a `<` nothing is taken for an HTML reference. */
private fun repair(text: String): String {
    var html = true
    return text.split('\n').joinToString("\n") { line ->
        html = html && '<' !in line
        repairLine(line, html)
    }
}

private fun repairLine(line: String, html: Boolean): String {
    var now = line
    while (true) {
        val before = now
        if (html) now = HtmlEntities.unescapeUnambiguous(now)
        now = TERMINAL.replace(simplify(now), "")
        now = Normalizer.normalize(now.filterNot(::isControl), Normalizer.Form.NFC)
        if (now == before) return now
    }
}

private val TERMINAL = Regex("\u001B\\[[0-9;]*[a-zA-Z]")

/** Ligatures taken apart, full and half widths made usual, quotes straight, halves of surrogate pairs replaced. */
private fun simplify(text: String): String {
    if (text.all { it < '\u0080' }) return text
    val out = StringBuilder(text.length)
    text.forEachIndexed { i, raw ->
        val char = fromWindows1252(raw)
        val pair =
            if (char.isHighSurrogate()) text.getOrNull(i + 1)?.isLowSurrogate() else text.getOrNull(i - 1)?.isHighSurrogate()
        when {
            char.isSurrogate() -> out.append(if (pair == true) char else '\uFFFD')
            char in "\u02BC\u2018\u2019\u201A\u201B" -> out.append('\'')
            char in "\u201C\u201D\u201E\u201F" -> out.append('"')
            char == '\u3000' -> out.append(' ')
            char in '\uFF01'..'\uFFEF' -> out.append(Normalizer.normalize(char.toString(), Normalizer.Form.NFKC))
            else -> LIGATURES[char]?.let(out::append) ?: out.append(char)
        }
    }
    return out.toString()
}

/** Latin ligatures and digraphs that stand for their letters; æ and œ do not. */
private val LIGATURES =
    "Ĳ IJ ĳ ij ŉ ʼn Ǳ DZ ǲ Dz ǳ dz Ǆ DŽ ǅ Dž ǆ dž Ǉ LJ ǈ Lj ǉ lj Ǌ NJ ǋ Nj ǌ nj ﬀ ff ﬁ fi ﬂ fl ﬃ ffi ﬄ ffl ﬅ ſt ﬆ st"
        .split(' ')
        .chunked(2) { (one, letters) -> one.single() to letters }
        .toMap()

private fun isControl(char: Char) =
    char in '\u0000'..'\u0008' ||
        char == '\u000B' ||
        char in '\u000E'..'\u001F' ||
        char == '\u007F' ||
        char in '\u206A'..'\u206F' ||
        char == '\uFEFF' ||
        char in '\uFFF9'..'\uFFFC'

/** One space for every run of what Python's `str.split` takes for white space, none at the ends. */
private fun collapse(text: String): String {
    val out = StringBuilder(text.length)
    for (char in text) {
        if (!isSpace(char)) {
            out.append(char)
        } else if (out.isNotEmpty() && out.last() != ' ') {
            out.append(' ')
        }
    }
    return out.trimEnd(' ').toString()
}

private fun isSpace(char: Char) =
    char in '\u0009'..'\u000D' ||
        char in '\u001C'..' ' ||
        char == '\u0085' ||
        char == '\u00A0' ||
        char == '\u1680' ||
        char in '\u2000'..'\u200A' ||
        char in "\u2028\u2029\u202F\u205F\u3000"

/** Lower case with Unicode's rule for the sigma at a word's end: the JDK has another one, and phones differ. */
private fun lowered(text: String): String {
    if ('Σ' !in text) return text.lowercase(Locale.ROOT)
    val out = StringBuilder(text)
    for (i in text.indices.filter { text[it] == 'Σ' }) {
        var before = i
        while (before > 0 && isCaseIgnorable(text.codePointBefore(before))) before = text.offsetByCodePoints(before, -1)
        var after = i + 1
        while (after < text.length && isCaseIgnorable(text.codePointAt(after))) after = text.offsetByCodePoints(after, 1)
        val begins = before == 0 || !isCased(text.codePointBefore(before))
        val goesOn = after < text.length && isCased(text.codePointAt(after))
        out[i] = if (begins || goesOn) 'σ' else 'ς'
    }
    return out.toString().lowercase(Locale.ROOT)
}

private fun isCased(code: Int) = Character.isUpperCase(code) || Character.isLowerCase(code) || Character.isTitleCase(code)

private fun isCaseIgnorable(code: Int) =
    Character.getType(code).toByte() in IGNORABLE || (code < 0x10000 && code.toChar() in "'.:·\u0387\u055F\u05F4’‘\u2024\u2027")

private val IGNORABLE =
    byteArrayOf(
        Character.NON_SPACING_MARK,
        Character.ENCLOSING_MARK,
        Character.FORMAT,
        Character.MODIFIER_LETTER,
        Character.MODIFIER_SYMBOL,
    )
