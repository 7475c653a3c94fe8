package org.pecore.demo.photos

import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.content.pm.PackageManager
import android.os.BatteryManager
import android.os.Build
import android.os.Handler
import android.os.Looper
import android.os.PowerManager
import org.pecore.core.PhoneCondition
import org.pecore.core.PhotoAccess
import org.pecore.core.photoAccess
import org.pecore.demo.Phone
import java.io.File

class AndroidPhone(private val context: Context) : Phone {
    override val library = MediaLibrary(context.contentResolver)
    private val handler = Handler(Looper.getMainLooper())

    override fun access(): PhotoAccess =
        photoAccess(Build.VERSION.SDK_INT) { context.checkSelfPermission(it) == PackageManager.PERMISSION_GRANTED }

    override fun condition(): PhoneCondition {
        val battery = context.registerReceiver(null, IntentFilter(Intent.ACTION_BATTERY_CHANGED))

        fun value(name: String, otherwise: Int) = battery?.getIntExtra(name, otherwise) ?: otherwise
        val power = context.getSystemService(PowerManager::class.java)
        return PhoneCondition(
            charging = value(BatteryManager.EXTRA_PLUGGED, 0) != 0,
            battery = 100 * value(BatteryManager.EXTRA_LEVEL, 100) / value(BatteryManager.EXTRA_SCALE, 100),
            celsius = value(BatteryManager.EXTRA_TEMPERATURE, 0) / 10.0,
            thermal = if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.Q) power.currentThermalStatus else null,
            freeBytes = context.filesDir.usableSpace,
        )
    }

    /** Not where other apps or a computer can read: an embedding says something of its photograph. */
    override fun folder(): File = context.filesDir

    override fun later(millis: Long, what: () -> Unit) {
        handler.postDelayed(what, millis)
    }
}
