package org.pecore.core

import kotlinx.serialization.SerializationException
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.booleanOrNull
import kotlinx.serialization.json.doubleOrNull
import kotlinx.serialization.json.intOrNull
import kotlinx.serialization.json.longOrNull
import java.io.File
import java.io.IOException

/** An object in a manifest; its getters raise a [BundleException] that names the key which is missing or of another type. */
internal class Section(private val json: JsonObject, private val path: String = "") {
    val keys: Set<String> get() = json.keys

    fun text(key: String): String = primitive(key, "text") { if (it.isString) it.content else null }

    fun textOrNull(key: String): String? = if (isNull(key)) null else text(key)

    fun int(key: String): Int = primitive(key, "whole number") { if (it.isString) null else it.intOrNull }

    fun long(key: String): Long = primitive(key, "whole number") { if (it.isString) null else it.longOrNull }

    fun longOrNull(key: String): Long? = if (isNull(key)) null else long(key)

    fun number(key: String): Double = primitive(key, "number") { if (it.isString) null else it.doubleOrNull }

    fun flag(key: String): Boolean = primitive(key, "true or false") { if (it.isString) null else it.booleanOrNull }

    fun section(key: String): Section = Section(found(key) as? JsonObject ?: throw wrong(key, "object"), "$path$key.")

    fun sectionOrNull(key: String): Section? = if (isNull(key)) null else section(key)

    fun sections(key: String): List<Section> =
        list(key).mapIndexed { i, it -> Section(it as? JsonObject ?: throw wrong("$key[$i]", "object"), "$path$key[$i].") }

    fun ints(key: String): List<Int> =
        list(key).mapIndexed { i, it -> (it as? JsonPrimitive)?.intOrNull ?: throw wrong("$key[$i]", "whole number") }

    fun texts(key: String): List<String> =
        list(key).mapIndexed { i, it ->
            (it as? JsonPrimitive)?.takeIf { one -> one.isString }?.content ?: throw wrong("$key[$i]", "text")
        }

    private fun list(key: String): List<JsonElement> = found(key) as? JsonArray ?: throw wrong(key, "list")

    private fun isNull(key: String): Boolean = json[key].let { it == null || it is JsonNull }

    private fun found(key: String): JsonElement =
        json[key] ?: throw BundleException("$MANIFEST lacks $path$key: convert the model again with this version of pecore")

    private fun <T> primitive(key: String, type: String, read: (JsonPrimitive) -> T?): T =
        (found(key) as? JsonPrimitive)?.let(read) ?: throw wrong(key, type)

    private fun wrong(key: String, type: String) = BundleException("$path$key in $MANIFEST is no $type: $REINSTALL")
}

internal const val MANIFEST = "manifest.json"
private const val FORMAT = 1

/** The manifest in [folder], of a format that is known here. */
internal fun readManifest(folder: File): Section {
    val file = File(folder, MANIFEST)
    val text =
        try {
            file.readText()
        } catch (error: IOException) {
            throw BundleException("${folder.name} holds no $MANIFEST that can be read: $REINSTALL", error)
        }
    val manifest =
        try {
            Json.parseToJsonElement(text) as? JsonObject
        } catch (error: SerializationException) {
            throw BundleException("$MANIFEST of ${folder.name} is not JSON: $REINSTALL", error)
        } ?: throw BundleException("$MANIFEST of ${folder.name} is not a manifest: $REINSTALL")
    return Section(manifest).also {
        val format = it.int("format")
        if (format !=
            FORMAT
        ) {
            throw BundleException("$MANIFEST of ${folder.name} has format $format, this app knows $FORMAT: update the app")
        }
    }
}
