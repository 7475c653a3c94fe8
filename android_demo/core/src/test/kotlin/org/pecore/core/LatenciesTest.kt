package org.pecore.core

import org.junit.jupiter.api.Test
import kotlin.test.assertEquals
import kotlin.test.assertNull
import kotlin.test.assertTrue

private const val MS = 1_000_000L

class LatenciesTest {
    private val latencies = Latencies(window = 4)

    @Test
    fun `last and median of the window`() {
        assertTrue(latencies.last.isNaN() && latencies.median.isNaN())
        for (millis in listOf(500L, 10, 30, 20)) latencies.add(0, millis * MS)
        assertEquals(20.0 to 25.0, latencies.last to latencies.median)
        latencies.add(0, 40 * MS) // the 500 leave
        assertEquals(40.0 to 25.0, latencies.last to latencies.median)
        assertEquals(5 to 4, latencies.runs to latencies.recent)
        latencies.reset()
        latencies.add(0, 7 * MS)
        assertEquals(7.0 to 1, latencies.median to latencies.runs)
    }

    @Test
    fun `frames per second are those that ended, also between slow ones`() {
        assertNull(latencies.perSecond(0))
        for (end in listOf(100L, 200, 300, 400, 500)) latencies.add((end - 10) * MS, end * MS)
        assertEquals(10.0, latencies.perSecond(500 * MS))
    }

    @Test
    fun `after a pause there is no rate`() {
        for (end in listOf(100L, 200)) latencies.add((end - 10) * MS, end * MS)
        assertNull(latencies.perSecond(5_000 * MS))
        latencies.add(4_990 * MS, 5_000 * MS)
        assertNull(latencies.perSecond(5_000 * MS))
    }

    @Test
    fun `nothing is made per frame`() {
        assertTrue(
            allocated {
                latencies.add(0, MS)
                latencies.median
            } < 100,
        )
    }
}
