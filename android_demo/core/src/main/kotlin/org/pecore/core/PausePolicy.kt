package org.pecore.core

/** Why the indexing waits; [sentence] is for people. */
enum class Pause(val sentence: String) {
    ASKED("Paused by you."),
    HOT("The phone is warm: it goes on when it has cooled down."),
    BATTERY("The battery is low: it goes on when the phone charges."),
    UNPLUGGED("It goes on when the phone charges."),
    STORAGE("The storage is full: free some, then go on."),
    TIME("It ran for as long as Android allows at a stretch: it goes on when the phone charges."),
}

/**
 * How the phone is. [battery] in percent, [celsius] of the battery, [thermal] Android's own word for it (0 none to 6 shutdown;
 * null before Android 10), [freeBytes] where the index is, [minutes] since the run began.
 */
data class PhoneCondition(
    val charging: Boolean,
    val battery: Int,
    val celsius: Double,
    val thermal: Int?,
    val freeBytes: Long,
    val minutes: Long = 0,
)

/**
 * Whether to wait, and why; null where the indexing may go on.
 *
 * @param byRequest a person asked for it now: on the battery as well. Otherwise only while charging.
 * @param before why it waits at present. What made it wait has to be well over before it goes on, or it would stop and go.
 */
fun pause(now: PhoneCondition, byRequest: Boolean, before: Pause? = null): Pause? {
    val warm = before == Pause.HOT
    val low = if (before == Pause.BATTERY) BATTERY_AGAIN else BATTERY_LOW
    return when {
        before == Pause.ASKED -> Pause.ASKED
        now.freeBytes < FREE_BYTES -> Pause.STORAGE
        now.celsius >= (if (warm) CELSIUS_AGAIN else CELSIUS_HOT) -> Pause.HOT
        now.thermal != null && now.thermal >= (if (warm) THERMAL_AGAIN else THERMAL_HOT) -> Pause.HOT
        byRequest && now.minutes >= MINUTES -> Pause.TIME
        now.charging -> null
        !byRequest -> Pause.UNPLUGGED
        now.battery < low -> Pause.BATTERY
        else -> null
    }
}

private const val FREE_BYTES = 100L shl 20
private const val CELSIUS_HOT = 43.0
private const val CELSIUS_AGAIN = 39.0
private const val THERMAL_HOT = 3 // PowerManager.THERMAL_STATUS_SEVERE
private const val THERMAL_AGAIN = 2
private const val BATTERY_LOW = 20
private const val BATTERY_AGAIN = 30
private const val MINUTES = 5 * 60 + 30L // Android 15 stops a foreground service of this kind after six hours a day
