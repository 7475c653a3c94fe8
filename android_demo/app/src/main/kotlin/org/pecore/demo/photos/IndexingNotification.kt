package org.pecore.demo.photos

import android.app.Notification
import android.app.NotificationChannel
import android.app.NotificationManager
import android.app.PendingIntent
import android.content.Context
import android.content.Intent
import android.graphics.drawable.Icon
import org.pecore.demo.Indexing
import org.pecore.demo.MainActivity

/** What a notification says about the indexing: how far it is, or why it waits, and a button. */
class IndexingNotification(private val context: Context) {
    private val manager = context.getSystemService(NotificationManager::class.java)
    private var shown: String? = null

    init {
        manager.createNotificationChannel(NotificationChannel(CHANNEL, "Indexing photographs", NotificationManager.IMPORTANCE_LOW))
    }

    fun make(indexing: Indexing): Notification {
        val builder =
            Notification
                .Builder(context, CHANNEL)
                .setSmallIcon(android.R.drawable.ic_menu_search)
                .setContentTitle("Indexing photographs")
                .setContentText(text(indexing))
                .setOnlyAlertOnce(true)
                .setOngoing(true)
                .setContentIntent(PendingIntent.getActivity(context, 0, Intent(context, MainActivity::class.java), FLAGS))
        if (indexing is Indexing.Running) builder.setProgress(indexing.total, indexing.done, false)
        val pause =
            PendingIntent.getService(
                context,
                1,
                Intent(context, IndexingService::class.java).setAction(IndexingService.PAUSE),
                FLAGS,
            )
        val icon = Icon.createWithResource(context, android.R.drawable.ic_media_pause)
        return builder.addAction(Notification.Action.Builder(icon, "Pause", pause).build()).build()
    }

    /** Android drops what comes too often: once for every percent. */
    fun update(indexing: Indexing) {
        val text = text(indexing)
        if (text != shown) manager.notify(ID, make(indexing))
        shown = text
    }

    private fun text(indexing: Indexing): String =
        when (indexing) {
            is Indexing.Running -> "${100L * indexing.done / maxOf(indexing.total, 1)} % of ${indexing.total} photographs"
            is Indexing.Waiting -> indexing.pause.sentence
            is Indexing.Failed -> indexing.sentence
            is Indexing.Idle -> "Looking at the photographs"
        }

    companion object {
        const val ID = 1
        private const val CHANNEL = "indexing"
        private const val FLAGS = PendingIntent.FLAG_IMMUTABLE or PendingIntent.FLAG_UPDATE_CURRENT
    }
}
