package org.pecore.demo.camera

import android.util.Size
import org.junit.jupiter.api.Test
import java.nio.ByteBuffer
import kotlin.math.abs
import kotlin.math.roundToInt
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue

class YuvConverterTest {
    @Test
    fun `every grey and colour is what BT_601 says`() {
        for (y in 0..255 step 15) {
            for (u in 0..255 step 15) {
                for (v in 0..255 step 15) {
                    val pixel = convert(2, 2, intArrayOf(y, y, y, y), intArrayOf(u), intArrayOf(v))[0]
                    val expected =
                        listOf(
                            y + 1.402 * (v - 128),
                            y - 0.344136 * (u - 128) - 0.714136 * (v - 128),
                            y + 1.772 * (u - 128),
                        ).map { it.roundToInt().coerceIn(0, 255) }
                    val actual = listOf(16, 8, 0).map { pixel shr it and 255 }
                    assertTrue(expected.zip(actual).all { (a, b) -> abs(a - b) <= 1 }, "y $y u $u v $v: $actual, not $expected")
                    assertEquals(255, pixel ushr 24)
                }
            }
        }
    }

    @Test
    fun `red is red and blue is blue`() {
        assertEquals(0xFFFE0000.toInt(), convert(2, 2, IntArray(4) { 76 }, intArrayOf(85), intArrayOf(255))[0])
        assertEquals(0xFF0000FE.toInt(), convert(2, 2, IntArray(4) { 29 }, intArrayOf(255), intArrayOf(107))[0])
    }

    @Test
    fun `a frame is turned clockwise`() {
        val luma = intArrayOf(1, 2, 3, 4, 5, 6)
        // 1 2 3
        // 4 5 6
        assertContentEquals(intArrayOf(1, 2, 3, 4, 5, 6), greys(luma, 0))
        assertContentEquals(intArrayOf(4, 1, 5, 2, 6, 3), greys(luma, 90))
        assertContentEquals(intArrayOf(6, 5, 4, 3, 2, 1), greys(luma, 180))
        assertContentEquals(intArrayOf(3, 6, 2, 5, 1, 4), greys(luma, 270))
        assertFailsWith<IllegalArgumentException> { greys(luma, 45) }
    }

    @Test
    fun `padded rows and interleaved chroma, as phones give them`() {
        // NV12: u and v share one buffer, one byte apart; v's last row ends before its stride does.
        val chroma = bytes(200, 40, 60, 90, 0, 0, 10, 220, 128, 128)
        val planes =
            YuvPlanes(
                luma = bytes(50, 51, 52, 53, 0, 60, 61, 62, 63, 0, 70, 71, 72, 73, 0, 80, 81, 82, 83),
                lumaStride = 5,
                u = chroma.duplicate(),
                v = (chroma.duplicate().position(1) as ByteBuffer).slice(),
                chromaStride = 6,
                chromaPixelStride = 2,
            )
        val padded = IntArray(16).also { YuvConverter().convert(planes, 4, 4, 0, it) }
        val luma = IntArray(16) { 50 + it % 4 + 10 * (it / 4) }
        assertContentEquals(convert(4, 4, luma, intArrayOf(200, 60, 10, 128), intArrayOf(40, 90, 220, 128)), padded)
    }

    @Test
    fun `upright whatever way the phone is held`() {
        assertEquals(90, uprightRotation(sensor = 90, display = 0))
        assertEquals(0, uprightRotation(sensor = 90, display = 90))
        assertEquals(180, uprightRotation(sensor = 90, display = 270))
        assertEquals(270, uprightRotation(sensor = 270, display = 0))
    }

    @Test
    fun `the smallest frame of 480 lines is taken, 4 to 3 before others`() {
        val sizes = listOf(4000 to 3000, 320 to 240, 720 to 480, 640 to 480, 1280 to 720).map { (w, h) -> Size(w, h) }
        assertEquals(Size(640, 480), frameSize(sizes))
        assertEquals(Size(320, 240), frameSize(listOf(Size(176, 144), Size(320, 240))))
        assertEquals(null, frameSize(emptyList()))
    }

    private fun greys(luma: IntArray, rotation: Int): IntArray {
        val neutral = intArrayOf(128, 128)
        return convert(3, 2, luma, neutral, neutral, rotation).map { it and 255 }.toIntArray()
    }

    private fun convert(width: Int, height: Int, luma: IntArray, u: IntArray, v: IntArray, rotation: Int = 0): IntArray {
        val planes = YuvPlanes(bytes(*luma), width, bytes(*u), bytes(*v), (width + 1) / 2, 1)
        return IntArray(width * height).also { YuvConverter().convert(planes, width, height, rotation, it) }
    }

    private fun bytes(vararg values: Int): ByteBuffer = ByteBuffer.wrap(ByteArray(values.size) { values[it].toByte() })
}
