package org.pecore.core

import kotlinx.serialization.json.Json
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonPrimitive
import org.junit.jupiter.api.Test
import java.io.File
import kotlin.test.assertEquals

class TmpTokTest {
    @Test
    fun all() {
        val t0 = System.nanoTime()
        val tok = Tokenizer.parse(File("/tmp/phone/tokenizer.json").readText(), "t")
        println("load ${(System.nanoTime() - t0) / 1e6} ms")
        val rows = Json.parseToJsonElement(File("/tmp/phone/tokens.json").readText()).jsonArray
        var bad = 0
        val ids = IntArray(32)
        for (row in rows) {
            val want = row.list("ids").map { it.jsonPrimitive.int }
            val n = tok.encode(row.text("text"), ids)
            if (want != ids.toList() || n != row.int("count")) {
                if (bad++ < 8) println("text ${row.text("text").map { "%04x".format(it.code) }} [${row.text("text")}]\n want $want ${row.int("count")}\n got ${ids.toList()} $n\n clean ${clean(row.text("text"))}")
            }
        }
        println("bad $bad of ${rows.size}")
        assertEquals(0, bad)
        println("alloc " + allocated { tok.encodeClean("a photo of a cat on a mat, antidisestablishmentarianism", ids) })
    }
}
