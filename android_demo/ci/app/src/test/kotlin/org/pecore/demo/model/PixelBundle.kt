package org.pecore.demo.model

import org.pecore.core.Bundle
import java.io.ByteArrayOutputStream
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.security.MessageDigest
import java.util.zip.ZipEntry
import java.util.zip.ZipOutputStream

/** A bundle of one pixel, two numbers and two samples, with two files that only the fake LiteRT takes for models. */
object PixelBundle {
    val inputs = listOf(floatArrayOf(0f, 0.25f, 0.5f), floatArrayOf(0.75f, 1f, -1f))
    val embeddings = listOf(floatArrayOf(1f, 0f), floatArrayOf(0.6f, -0.8f))

    fun write(folder: File): Bundle {
        val files =
            mapOf(
                "pixel_fp16.tflite" to ByteArray(20) { 16 },
                "pixel_int8.tflite" to ByteArray(10) { 8 },
                "reference.npz" to npz("image" to inputs, "embedding" to embeddings),
            )
        files.forEach { (name, data) -> File(folder, name).writeBytes(data) }

        fun entry(name: String) = files.getValue(name).let { """"bytes": ${it.size}, "sha256": "${sha256(it)}"""" }
        val limits = """{"cpu": {"cosine": 0.99999}, "gpu fp16": {"correlation": 0.9999, "norm_error": 0.002}, "gpu fp32": {}}"""
        File(folder, "manifest.json").writeText(
            """
            {"format": 1, "name": "pixel", "variant": {"size": "T16"},
             "weights": {"kind": "synthetic", "source": "synthetic", "synthetic": true, "seed": 0, "fingerprint": "f1"},
             "files": {
              "pixel_fp16.tflite": {"precision": "fp16", ${entry("pixel_fp16.tflite")}},
              "pixel_int8.tflite": {"precision": "int8", ${entry("pixel_int8.tflite")}}},
             "input": {"name": "image", "dtype": "float32", "shape": [1, 3, 1, 1], "layout": "nchw", "range": "-1..1"},
             "output": {"name": "embedding", "dtype": "float32", "shape": [1, 2]},
             "preprocessing": {"resize": "squash"},
             "self_test": {"reference": {"name": "reference.npz", ${entry("reference.npz")}},
              "thresholds": {"pixel_fp16.tflite": $limits, "pixel_int8.tflite": $limits}},
             "gates": []}
            """.trimIndent(),
        )
        return Bundle.open(folder)
    }

    private fun npz(vararg arrays: Pair<String, List<FloatArray>>): ByteArray {
        val bytes = ByteArrayOutputStream()
        ZipOutputStream(bytes).use { zip ->
            for ((name, samples) in arrays) {
                zip.putNextEntry(ZipEntry("$name.npy"))
                zip.write(npy(samples))
            }
        }
        return bytes.toByteArray()
    }

    private fun npy(samples: List<FloatArray>): ByteArray {
        val header = "{'descr': '<f4', 'fortran_order': False, 'shape': (${samples.size}, 1, ${samples[0].size}), }\n"
        val buffer = ByteBuffer.allocate(10 + header.length + 4 * samples.sumOf { it.size }).order(ByteOrder.LITTLE_ENDIAN)
        buffer.put("\u0093NUMPY\u0001\u0000".toByteArray(Charsets.ISO_8859_1)).putShort(header.length.toShort()).put(header.toByteArray())
        samples.forEach { it.forEach(buffer::putFloat) }
        return buffer.array()
    }

    private fun sha256(data: ByteArray) = MessageDigest.getInstance("SHA-256").digest(data).joinToString("") { "%02x".format(it) }
}
