package org.pecore.core

/**
 * Image -> model input, as `pecore/image.py` does it: transparency on white, resized to the square with Pillow's
 * antialiased filters, then to the input's range and layout (docs/preprocessing.md).
 *
 * Keeps its buffers from call to call, and makes new ones only where an image of another size comes: not for several
 * threads at once.
 */
class Preprocessor(private val input: InputSpec) {
    private val size = input.size
    private val tensor = FloatArray(input.length)
    private val normalised = FloatArray(256) { normalise(it, input.range) }
    private val resized = IntArray(size * size)
    private lateinit var columns: Axis // weights along x
    private lateinit var rows: Axis // and along y
    private var between = IntArray(0)

    /**
     * The model's input for an image, in an array that the next call overwrites.
     *
     * @param pixels ARGB, not premultiplied, row by row from the top (`Bitmap.getPixels`), upright; may be longer than needed.
     */
    fun run(pixels: IntArray, width: Int, height: Int): FloatArray {
        resize(pixels, width, height)
        val plane = size * size
        for (i in 0 until plane) {
            val rgb = resized[i]
            val red = normalised[rgb shr 16 and 0xFF]
            val green = normalised[rgb shr 8 and 0xFF]
            val blue = normalised[rgb and 0xFF]
            if (input.layout == Layout.NCHW) {
                tensor[i] = red
                tensor[plane + i] = green
                tensor[2 * plane + i] = blue
            } else {
                tensor[3 * i] = red
                tensor[3 * i + 1] = green
                tensor[3 * i + 2] = blue
            }
        }
        return tensor
    }

    /** `size * size` opaque pixels in an array that the next call overwrites. */
    internal fun resize(pixels: IntArray, width: Int, height: Int): IntArray {
        require(width > 0 && height > 0 && pixels.size.toLong() >= width.toLong() * height) {
            "${pixels.size} pixels are no image of $width x $height"
        }
        if (!::columns.isInitialized || columns.from != width || rows.from != height) {
            val (across, down) = input.resize.target(width, height, size)
            columns = Axis(width, across, size, input.resize.filter)
            rows = Axis(height, down, size, input.resize.filter)
        }
        val columnsFirst = height > rows.to && height - rows.to > 2 * (width - columns.to)
        val needed = size * if (columnsFirst) width else height
        if (between.size != needed) between = IntArray(needed)
        if (columnsFirst) {
            resizeColumns(pixels, width, between)
            resizeRows(between, width, size, resized)
        } else {
            resizeRows(pixels, width, height, between)
            resizeColumns(between, size, resized)
        }
        return resized
    }

    /** Along x: [height] rows of [width] pixels to as many rows of `size`. */
    private fun resizeRows(from: IntArray, width: Int, height: Int, to: IntArray) {
        for (y in 0 until height) {
            for (x in 0 until size) {
                to[y * size + x] = weighted(from, y * width + columns.first[x], 1, columns, x)
            }
        }
    }

    /** Along y: rows of [width] pixels to `size` rows of as many. */
    private fun resizeColumns(from: IntArray, width: Int, to: IntArray) {
        for (y in 0 until size) {
            for (x in 0 until width) {
                to[y * width + x] = weighted(from, rows.first[y] * width + x, width, rows, y)
            }
        }
    }
}

/** The pixel that [axis] makes for [place] of those in [from], which begin at [start] and are [step] apart. */
private fun weighted(from: IntArray, start: Int, step: Int, axis: Axis, place: Int): Int {
    var red = HALF
    var green = HALF
    var blue = HALF
    var i = start
    val begin = place * axis.taps
    for (k in begin until begin + axis.count[place]) {
        val weight = axis.weights[k]
        val argb = from[i]
        val rgb = if (argb ushr 24 == 0xFF) argb else onWhite(argb)
        red += weight * (rgb shr 16 and 0xFF)
        green += weight * (rgb shr 8 and 0xFF)
        blue += weight * (rgb and 0xFF)
        i += step
    }
    return OPAQUE or (byte(red) shl 16) or (byte(green) shl 8) or byte(blue)
}

private const val OPAQUE = 0xFF shl 24
private const val HALF = 1 shl (PRECISION_BITS - 1)

/** A cubic over- and undershoots. */
private fun byte(sum: Int): Int = (sum shr PRECISION_BITS).coerceIn(0, 0xFF)

/** A pixel over white, rounded as Pillow's `alpha_composite` does (libImaging/AlphaComposite.c). */
internal fun onWhite(argb: Int): Int {
    val alpha = argb ushr 24
    return OPAQUE or
        (onWhite(argb shr 16 and 0xFF, alpha) shl 16) or
        (onWhite(argb shr 8 and 0xFF, alpha) shl 8) or
        onWhite(argb and 0xFF, alpha)
}

private fun onWhite(value: Int, alpha: Int): Int {
    val sum = (value * alpha + 0xFF * (0xFF - alpha) + 0x80) shl 7 // 7 bits of precision, as there
    return ((sum shr 8) + sum shr 8) shr 7
}

/** float32 in this order, as docs/preprocessing.md, 3 has it. */
private fun normalise(value: Int, range: ValueRange): Float =
    when (range) {
        ValueRange.ZERO_TO_255 -> value.toFloat()
        ValueRange.ZERO_TO_ONE -> value / 255f
        ValueRange.MINUS_ONE_TO_ONE -> (value / 255f - 0.5f) / 0.5f
    }
