package org.pecore.demo.camera

import java.nio.Buffer
import java.nio.ByteBuffer

/** The planes of a YUV_420_888 image; the chroma planes have half its width and height. Strides in bytes. */
class YuvPlanes(
    val luma: ByteBuffer,
    val lumaStride: Int,
    val u: ByteBuffer,
    val v: ByteBuffer,
    val chromaStride: Int,
    val chromaPixelStride: Int,
)

/**
 * Camera frames as upright ARGB. JFIF's full-range BT.601, which is what Camera2 documents for YUV_420_888 unless a
 * dataspace says otherwise, in 16-bit fixed point. Holds its row buffers, so frames of one size allocate nothing.
 */
class YuvConverter {
    private var lumaRow = ByteArray(0)
    private var uRow = ByteArray(0)
    private var vRow = ByteArray(0)

    /**
     * Fills [out], at least [width] * [height] long, with opaque pixels of the image turned clockwise by [rotation] degrees
     * (0, 90, 180, 270); after 90 and 270 its rows are [height] long.
     */
    fun convert(planes: YuvPlanes, width: Int, height: Int, rotation: Int, out: IntArray) {
        require(out.size >= width * height) { "$width x $height pixels do not fit into ${out.size}" }
        val chromaBytes = ((width + 1) / 2 - 1) * planes.chromaPixelStride + 1
        if (lumaRow.size < width) lumaRow = ByteArray(width)
        if (uRow.size < chromaBytes) uRow = ByteArray(chromaBytes)
        if (vRow.size < chromaBytes) vRow = ByteArray(chromaBytes)
        for (y in 0 until height) {
            read(planes.luma, y * planes.lumaStride, width, lumaRow)
            if (y % 2 == 0) {
                read(planes.u, y / 2 * planes.chromaStride, chromaBytes, uRow)
                read(planes.v, y / 2 * planes.chromaStride, chromaBytes, vRow)
            }
            val (start, step) =
                when (rotation) {
                    0 -> y * width to 1
                    90 -> height - 1 - y to height
                    180 -> (height - y) * width - 1 to -1
                    270 -> (width - 1) * height + y to -height
                    else -> throw IllegalArgumentException("rotation must be 0, 90, 180 or 270, not $rotation")
                }
            var at = start
            for (x in 0 until width) {
                val c = (x shr 1) * planes.chromaPixelStride
                out[at] = argb(lumaRow[x].toInt() and 255, (uRow[c].toInt() and 255) - 128, (vRow[c].toInt() and 255) - 128)
                at += step
            }
        }
    }

    private fun argb(y: Int, u: Int, v: Int): Int {
        val base = (y shl 16) + HALF
        val red = clamp(base + 91881 * v shr 16)
        val green = clamp(base - 22554 * u - 46802 * v shr 16)
        val blue = clamp(base + 116130 * u shr 16)
        return OPAQUE or (red shl 16) or (green shl 8) or blue
    }

    private fun clamp(value: Int) = minOf(maxOf(value, 0), 255)

    private fun read(plane: ByteBuffer, at: Int, count: Int, row: ByteArray) {
        plane.seek(at)
        plane.get(row, 0, count)
    }

    /** As a Buffer's: ByteBuffer's own override of it is not there before API 29. */
    private fun Buffer.seek(at: Int) {
        position(at)
    }

    private companion object {
        const val HALF = 1 shl 15
        const val OPAQUE = 0xFF shl 24
    }
}

/** Clockwise degrees that bring a back camera's frame upright: [sensor] as mounted, [display] as the screen is turned. */
fun uprightRotation(sensor: Int, display: Int): Int = (sensor - display + 360) % 360
