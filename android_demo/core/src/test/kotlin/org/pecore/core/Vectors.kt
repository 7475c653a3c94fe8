package org.pecore.core

import com.sun.management.ThreadMXBean
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import java.io.File
import java.lang.management.ManagementFactory
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.security.MessageDigest

/** tests/vectors of the repository, which the Python side wrote (scripts/write_vectors.py). */
object Vectors {
    private val folder: File =
        System.getProperty("pecore.vectors")?.let(::File)
            ?: generateSequence(File("").absoluteFile) { it.parentFile }
                .map { File(it, "tests/vectors") }
                .first { File(it, "vectors.json").isFile }

    val index: JsonObject = json("vectors.json")

    fun file(name: String) = File(folder, name)

    fun json(name: String): JsonObject = Json.parseToJsonElement(file(name).readText()).jsonObject

    fun bytes(name: String): ByteArray = file(name).readBytes()

    fun floats(name: String): FloatArray {
        val buffer = ByteBuffer.wrap(bytes(name)).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
        return FloatArray(buffer.remaining()).also(buffer::get)
    }

    /** Opaque ARGB pixels of a `.rgb` file. */
    fun pixels(name: String): IntArray {
        val rgb = bytes(name)
        return IntArray(rgb.size / 3) { i -> argb(rgb[3 * i].toInt(), rgb[3 * i + 1].toInt(), rgb[3 * i + 2].toInt()) }
    }
}

fun argb(red: Int, green: Int, blue: Int, alpha: Int = 0xFF): Int =
    (alpha shl 24) or (red and 0xFF shl 16) or (green and 0xFF shl 8) or (blue and 0xFF)

fun JsonElement.at(key: String): JsonElement = jsonObject.getValue(key)

fun JsonElement.list(key: String): List<JsonElement> = at(key).jsonArray

fun JsonElement.text(key: String): String = at(key).jsonPrimitive.content

fun JsonElement.int(key: String): Int = text(key).toInt()

fun JsonElement.double(key: String): Double = text(key).toDouble()

fun sha256(data: ByteArray): String = MessageDigest.getInstance("SHA-256").digest(data).joinToString("") { "%02x".format(it) }

/** Bytes that [work] makes on the heap, once it is warm. */
fun allocated(work: () -> Unit): Long {
    repeat(3) { work() }
    val bean = ManagementFactory.getThreadMXBean() as ThreadMXBean
    val thread = Thread.currentThread().id
    val before = bean.getThreadAllocatedBytes(thread)
    work()
    return bean.getThreadAllocatedBytes(thread) - before
}
