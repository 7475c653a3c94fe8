package org.pecore.core

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.Base64

/** A whole bundle of one pixel and two numbers, whose manifest can be spoilt. Its models are no models. */
class TinyBundle(private val folder: File) {
    val rows = rows(floatArrayOf(1f, 0f, 0.6f, 0.8f, 0f, 1f))
    val names = "cat\ndog\nété\n".toByteArray()
    private val files =
        mutableMapOf(
            "tiny_int8.tflite" to ByteArray(100) { 8 },
            "tiny_fp16.tflite" to ByteArray(200) { 16 },
            "text_embeddings.bin" to rows,
            "labels.txt" to names,
            "reference.npz" to Base64.getDecoder().decode(NUMPY_NPZ),
        )

    /** With a text tower, and the vectors' tokenizer. */
    fun withText() = put("tiny_text_int8.tflite", ByteArray(150) { 9 }).put("tokenizer.json", Vectors.bytes("text/tokenizer.json"))

    /** Another content, which the manifest means. */
    fun put(name: String, data: ByteArray) = apply { files[name] = data }

    /** Writes it, with an edited manifest, and without or with other files than the manifest means. */
    fun write(edit: (String) -> String = { it }, spoil: (File) -> Unit = {}): File {
        files.forEach { (name, data) -> File(folder, name).writeBytes(data) }
        File(folder, "manifest.json").writeText(edit(manifest()))
        spoil(folder)
        return folder
    }

    private fun entry(name: String): String = files.getValue(name).let { """"bytes": ${it.size}, "sha256": "${sha256(it)}"""" }

    private fun text() =
        if ("tokenizer.json" !in files) {
            ""
        } else {
            """
            ,"text": {"files": {
              "tiny_text_int8.tflite": {"precision": "int8", ${entry("tiny_text_int8.tflite")}},
              "tokenizer.json": {${entry("tokenizer.json")}}},
             "input": {"name": "tokens", "dtype": "int32", "shape": [1, 32]},
             "output": {"name": "text_embedding", "dtype": "float32", "shape": [1, 2]},
             "context_length": 32, "logit_scale": 50.0,
             "weights": {"kind": "open_clip", "source": "tiny.pt", "synthetic": false, "seed": null, "fingerprint": "ab12"}}
            """
        }

    private fun manifest() =
        """
        {"format": 1, "name": "tiny", "variant": {"size": "T16"},
         "weights": {"kind": "timm", "source": "tiny.safetensors", "synthetic": false, "seed": null, "fingerprint": "ab12"},
         "files": {
          "tiny_int8.tflite": {"precision": "int8", ${entry("tiny_int8.tflite")}},
          "tiny_fp16.tflite": {"precision": "fp16", ${entry("tiny_fp16.tflite")}}},
         "input": {"name": "image", "dtype": "float32", "shape": [1, 3, 1, 1], "layout": "nchw", "range": "-1..1"},
         "output": {"name": "embedding", "dtype": "float32", "shape": [1, 2]},
         "preprocessing": {"resize": "squash"},
         "self_test": {"reference": {"name": "reference.npz", ${entry("reference.npz")}},
          "thresholds": {"tiny_fp16.tflite": {"cpu": {"cosine": 0.99999}, "gpu fp16": {"correlation": 0.9999, "norm_error": 0.002}}}},
         "gates": [{"gate": "cpu", "subject": "tiny_fp16.tflite", "backend": "LiteRT CPU", "outcome": "passed", "detail": "fine"}],
         "labels": {"files": {"text_embeddings.bin": {${entry("text_embeddings.bin")}}, "labels.txt": {${entry("labels.txt")}}},
          "n": 3, "dim": 2, "logit_scale": 100.0, "warnings": ["a warning"],
          "weights": {"kind": "open_clip", "source": "tiny.pt", "synthetic": false, "seed": null, "fingerprint": "ab12"}}${text()}}
        """.trimIndent()

    companion object {
        fun rows(numbers: FloatArray, n: Int = 3, dim: Int = 2): ByteArray {
            val buffer =
                ByteBuffer
                    .allocate(8 + 4 * numbers.size)
                    .order(ByteOrder.LITTLE_ENDIAN)
                    .putInt(n)
                    .putInt(dim)
            numbers.forEach(buffer::putFloat)
            return buffer.array()
        }

        /** NumPy's: `savez_compressed(file, image=arange(6, dtype="<f4").reshape(2, 1, 3) / 4, embedding=[[1, 0], [0.6, -0.8]])`. */
        const val NUMPY_NPZ =
            "UEsDBC0AAAAIAAAAIQAoa1jG//////////8JABQAaW1hZ2UubnB5AQAQAJgAAAAAAAAAWQAAAAAAAACb7BfqGxDJyFDGUK2eklqcXKRupaBu" +
                "k2airqOgnpZfVFKUmBefX5SSChJ3S8wpTgWKF2ckFqQC+RpGOgqGOgrGmjoKtQrkAS4GMGiwAxL2DAwOQNwAxAvsAVBLAwQtAAAACAAA" +
                "ACEAjmN+af//////////DQAUAGVtYmVkZGluZy5ucHkBABAAkAAAAAAAAABVAAAAAAAAAJvsF+obEMnIUMZQrZ6SWpxcpG6loG6TZqKu" +
                "o6Cell9UUpSYF59flJIKEndLzClOBYoXZyQWpAL5GkY6CkaaOgq1CmQDLgaGBnsGIJg1U9L+7Bmf/QBQSwECLQMtAAAACAAAACEAKGtY" +
                "xlkAAACYAAAACQAAAAAAAAAAAAAAgAEAAAAAaW1hZ2UubnB5UEsBAi0DLQAAAAgAAAAhAI5jfmlVAAAAkAAAAA0AAAAAAAAAAAAAAIAB" +
                "lAAAAGVtYmVkZGluZy5ucHlQSwUGAAAAAAIAAgByAAAAKAEAAAAA"
    }
}
