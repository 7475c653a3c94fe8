package org.pecore.demo.photos

import android.app.Service
import android.content.Intent
import android.content.pm.ServiceInfo
import android.os.Build
import android.os.IBinder
import android.os.PowerManager
import org.pecore.demo.DemoApp
import java.util.concurrent.TimeUnit

/** Keeps the app alive while it indexes because a person asked for it; decides nothing. */
class IndexingService : Service() {
    private val app get() = application as DemoApp
    private val notification by lazy { IndexingNotification(this) }

    /** The screen may go dark meanwhile, and the processor with it. */
    private val awake by lazy {
        getSystemService(PowerManager::class.java).newWakeLock(PowerManager.PARTIAL_WAKE_LOCK, "pecore:indexing").apply {
            setReferenceCounted(false)
        }
    }

    override fun onBind(intent: Intent?): IBinder? = null

    override fun onStartCommand(intent: Intent?, flags: Int, startId: Int): Int {
        if (intent?.action == PAUSE) {
            app.search.pauseIndexing()
            return START_NOT_STICKY
        }
        val first = notification.make(app.state.search.indexing)
        if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.Q) {
            startForeground(IndexingNotification.ID, first, ServiceInfo.FOREGROUND_SERVICE_TYPE_DATA_SYNC)
        } else {
            startForeground(IndexingNotification.ID, first)
        }
        awake.acquire(TimeUnit.HOURS.toMillis(MOST_HOURS))
        app.onIndexing = notification::update
        app.search.index(byRequest = true) { stopSelf() }
        return START_NOT_STICKY
    }

    override fun onDestroy() {
        app.onIndexing = {}
        awake.release()
        super.onDestroy()
    }

    companion object {
        const val PAUSE = "org.pecore.demo.PAUSE"
        private const val MOST_HOURS = 6L
    }
}
