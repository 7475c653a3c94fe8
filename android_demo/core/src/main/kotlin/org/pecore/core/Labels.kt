package org.pecore.core

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.charset.CharacterCodingException
import kotlin.math.abs
import kotlin.math.sqrt

/**
 * Labels and their embeddings: [names] in the order of the [rows] (`names.size` x [dim], L2-normalised).
 *
 * Probabilities are softmax([logitScale] * cosines). [size] and [weights] are of the text tower that made them.
 */
class Labels internal constructor(
    val names: List<String>,
    val dim: Int,
    val logitScale: Double,
    val size: String,
    val weights: Weights,
    val warnings: List<String>,
    internal val rows: FloatArray,
) {
    /**
     * Refuses a vision tower whose embeddings have nothing in common with these labels'.
     *
     * @throws BundleException naming both.
     */
    fun checkPartner(bundle: Bundle) = checkPartner(bundle.name, bundle.size, bundle.embeddingDim, bundle.weights)

    internal fun checkPartner(name: String, size: String, dim: Int, vision: Weights) {
        val reason =
            when {
                this.size != size -> "made for ${this.size}, and $name is $size"
                this.dim != dim -> "rows of ${this.dim} numbers, and $name gives $dim"
                !belong(weights, vision) -> "from ${weights.source}, and $name is from ${vision.source}"
                else -> return
            }
        throw BundleException("these labels can't be used with $name, they are $reason: make them again with `pecore labels`")
    }

    companion object {
        /**
         * The labels in a folder that `pecore labels` wrote, with or without a vision tower beside them.
         *
         * @throws BundleException there are none, or a file is not what it should be.
         */
        fun open(folder: File): Labels {
            val manifest = readManifest(folder)
            val section =
                manifest.sectionOrNull("labels")
                    ?: throw BundleException("${folder.name} holds no labels: make some with `pecore labels`")
            return read(folder, section, manifest.section("variant").text("size"))
        }

        internal fun read(folder: File, section: Section, size: String): Labels {
            val files = section.section("files")
            val rowsFile = listedFile(folder, ROWS_FILE, files.section(ROWS_FILE))
            val names = parseNames(listedFile(folder, NAMES_FILE, files.section(NAMES_FILE)).read())
            val (n, dim) = section.int("n") to section.int("dim")
            val rows = parseRows(rowsFile.read(), n, dim)
            if (names.size != n) throw BundleException("$NAMES_FILE has ${names.size} labels for $n embeddings: $REMAKE")
            val scale = section.number("logit_scale")
            if (!scale.isFinite() || scale <= 0) throw BundleException("the labels' logit_scale is $scale: $REMAKE")
            return Labels(names, dim, scale, size, readWeights(section.section("weights")), section.texts("warnings"), rows)
        }

        internal fun parseNames(data: ByteArray): List<String> {
            val text =
                try {
                    Charsets.UTF_8
                        .newDecoder()
                        .decode(ByteBuffer.wrap(data))
                        .toString()
                } catch (error: CharacterCodingException) {
                    throw BundleException("$NAMES_FILE is not UTF-8: $REMAKE", error)
                }
            return text.removeSuffix("\n").split('\n')
        }

        /** The rows, which have to be [n] of [dim] numbers, finite, of norm 1. */
        internal fun parseRows(data: ByteArray, n: Int, dim: Int): FloatArray {
            val buffer = ByteBuffer.wrap(data).order(ByteOrder.LITTLE_ENDIAN)
            val header = if (data.size >= HEADER_BYTES) buffer.int to buffer.int else 0 to 0
            if (n < 1 || dim < 1 || header != n to dim || data.size.toLong() != HEADER_BYTES + 4L * n * dim) {
                throw BundleException(
                    "$ROWS_FILE has ${data.size} bytes and says ${header.first} rows of ${header.second}, " +
                        "the manifest $n of $dim: $REMAKE",
                )
            }
            val rows = FloatArray(n * dim).also { buffer.asFloatBuffer().get(it) }
            for (row in 0 until n) {
                var squares = 0.0
                for (i in row * dim until (row + 1) * dim) squares += rows[i].toDouble() * rows[i]
                // not(<=), so that NaN and infinity are caught as well
                if (!(abs(sqrt(squares) - 1) <= NORM_ERROR)) {
                    throw BundleException("row ${row + 1} of $ROWS_FILE has norm ${sqrt(squares)} instead of 1: $REMAKE")
                }
            }
            return rows
        }

        private const val ROWS_FILE = "text_embeddings.bin"
        private const val NAMES_FILE = "labels.txt"
        private const val HEADER_BYTES = 8
        private const val NORM_ERROR = 1e-4 // float32 rows are within 1e-6 of norm 1
        private const val REMAKE = "make the labels again with `pecore labels`"
    }
}
