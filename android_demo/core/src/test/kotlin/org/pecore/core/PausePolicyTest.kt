package org.pecore.core

import org.junit.jupiter.api.Test
import kotlin.test.assertEquals

class PausePolicyTest {
    private val fine = PhoneCondition(charging = true, battery = 80, celsius = 30.0, thermal = 0, freeBytes = 1L shl 32)

    @Test
    fun `what stops it, and when it goes on again`() {
        val unplugged = fine.copy(charging = false)
        val cases =
            listOf(
                Triple(fine, false to null, null),
                Triple(unplugged, false to null, Pause.UNPLUGGED),
                Triple(unplugged, true to null, null),
                Triple(unplugged.copy(battery = 19), true to null, Pause.BATTERY),
                Triple(unplugged.copy(battery = 29), true to Pause.BATTERY, Pause.BATTERY),
                Triple(unplugged.copy(battery = 30), true to Pause.BATTERY, null),
                Triple(fine.copy(battery = 5), true to Pause.BATTERY, null),
                Triple(fine.copy(celsius = 43.0), true to null, Pause.HOT),
                Triple(fine.copy(celsius = 42.0), true to null, null),
                Triple(fine.copy(celsius = 42.0), true to Pause.HOT, Pause.HOT),
                Triple(fine.copy(celsius = 38.0), true to Pause.HOT, null),
                Triple(fine.copy(thermal = 3), false to null, Pause.HOT),
                Triple(fine.copy(thermal = 2), false to null, null),
                Triple(fine.copy(thermal = 2), false to Pause.HOT, Pause.HOT),
                Triple(fine.copy(thermal = null), false to Pause.HOT, null),
                Triple(fine.copy(freeBytes = 1000), false to null, Pause.STORAGE),
                Triple(unplugged.copy(minutes = 330), true to null, Pause.TIME),
                Triple(fine.copy(minutes = 330), true to null, Pause.TIME),
                Triple(fine.copy(minutes = 330), false to null, null),
                Triple(fine, true to Pause.ASKED, Pause.ASKED),
            )
        for ((now, asked, expected) in cases) {
            assertEquals(expected, pause(now, byRequest = asked.first, before = asked.second), "$now, $asked")
        }
    }
}
