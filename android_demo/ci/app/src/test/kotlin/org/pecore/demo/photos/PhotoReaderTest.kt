package org.pecore.demo.photos

import org.junit.jupiter.api.Test
import kotlin.test.assertEquals

class PhotoReaderTest {
    @Test
    fun `a stored row and column end up where EXIF says`() {
        // EXIF's own definition: which side of the upright picture the stored 0th row and 0th column are.
        val sides =
            mapOf(
                1 to ("top" to "left"),
                2 to ("top" to "right"),
                3 to ("bottom" to "right"),
                4 to ("bottom" to "left"),
                5 to ("left" to "top"),
                6 to ("right" to "top"),
                7 to ("right" to "bottom"),
                8 to ("left" to "bottom"),
                0 to ("top" to "left"),
            )
        sides.forEach { (tag, expected) ->
            val m = uprightMatrix(tag)
            // Stored "up" (towards the 0th row) is (0, -1), "left" is (-1, 0); where do they point in the upright picture?
            assertEquals(expected, side(-m[1], -m[4]) to side(-m[0], -m[3]), "orientation $tag")
        }
    }

    @Test
    fun `only photos beyond 4096 pixels are thinned`() {
        assertEquals(1, sampleSize(4096, 3072))
        assertEquals(2, sampleSize(4097, 10))
        assertEquals(4, sampleSize(12240, 16320))
    }

    private fun side(x: Float, y: Float) =
        when {
            x < 0 -> "left"
            x > 0 -> "right"
            y < 0 -> "top"
            else -> "bottom"
        }
}
