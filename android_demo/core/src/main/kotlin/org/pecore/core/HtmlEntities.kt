package org.pecore.core

import kotlinx.serialization.json.Json
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive

/**
 * HTML's character references, resolved as Python's `html.unescape` does it (the HTML5 standard's rules for text), and as
 * ftfy's `unescape_html` does it.
 */
internal object HtmlEntities {
    /** Names, most with their semicolon, and what they stand for: the file is the web page's. */
    private val named: Map<String, String> by lazy {
        val file = checkNotNull(HtmlEntities::class.java.getResourceAsStream("entities.json")) { "entities.json is not in the app" }
        val json = file.use { it.readBytes().toString(Charsets.UTF_8) }
        Json.parseToJsonElement(json).jsonObject.mapValues { it.value.jsonPrimitive.content }
    }

    /** Entities in capitals that HTML itself lacks: `EACUTE;` for É, but not `LT;`, which it has. */
    private val capitals: Map<String, String> by lazy {
        named
            .filter { (name, _) -> name.endsWith(";") && name == name.lowercase() }
            .map { (name, text) -> name.uppercase() to text.uppercase() }
            .filter { (name, _) -> unescape("&$name") == "&$name" }
            .toMap()
    }

    private val reference = Regex("""&(#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\u000C <&#;]{1,32};?)""")
    private val unambiguous = Regex("""&#?[0-9A-Za-z]{1,24};""")

    /** Every reference, also those without a semicolon that HTML allows. */
    fun unescape(text: String): String = if ('&' in text) reference.replace(text) { resolve(it.groupValues[1]) } else text

    /** Those alone that end in a semicolon, and names in capitals. */
    fun unescapeUnambiguous(text: String): String = if ('&' in text) unambiguous.replace(text) { resolveWhole(it.value) } else text

    private fun resolveWhole(reference: String): String =
        if (reference.startsWith("&#")) {
            unescape(reference).let { if (';' in it) reference else it }
        } else {
            reference.drop(1).let { named[it] ?: capitals[it] ?: reference }
        }

    private fun resolve(name: String): String {
        if (name.startsWith("#")) return numeric(name.trimEnd(';').drop(1))
        named[name]?.let { return it }
        for (length in name.length - 1 downTo 2) named[name.take(length)]?.let { return it + name.drop(length) }
        return "&$name"
    }

    private fun numeric(digits: String): String {
        val hex = digits[0] == 'x' || digits[0] == 'X'
        val value = if (hex) digits.drop(1).toBigInteger(16) else digits.toBigInteger()
        val code = if (value.bitLength() < 32) value.toInt() else Int.MAX_VALUE
        return when {
            code == 0 || code in 0xD800..0xDFFF || code > 0x10FFFF -> "\uFFFD"
            code in 0x80..0x9F -> fromWindows1252(code.toChar()).toString()
            code in DROPPED || code and 0xFFFE == 0xFFFE || code in 0xFDD0..0xFDEF -> ""
            else -> codePoint(code)
        }
    }

    private val DROPPED = ((1..8) + 0xB + (0xE..0x1F) + 0x7F).toSet()

    private fun codePoint(code: Int) = String(Character.toChars(code))
}

private const val WINDOWS_1252 = "€\u0081‚ƒ„…†‡ˆ‰Š‹Œ\u008DŽ\u008F\u0090‘’“”•–—˜™š›œ\u009DžŸ"

/** What Windows-1252 has where Latin-1 has the control characters 80 to 9F; other characters as they are. */
internal fun fromWindows1252(char: Char): Char = if (char in '\u0080'..'\u009F') WINDOWS_1252[char - '\u0080'] else char
