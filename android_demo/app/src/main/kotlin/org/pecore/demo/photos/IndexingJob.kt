package org.pecore.demo.photos

import android.app.job.JobInfo
import android.app.job.JobParameters
import android.app.job.JobScheduler
import android.app.job.JobService
import android.content.ComponentName
import android.content.Context
import org.pecore.demo.DemoApp
import java.util.concurrent.TimeUnit

/** Indexes in the stretches of time that Android gives to an app while the phone charges; decides nothing. */
class IndexingJob : JobService() {
    private val app get() = application as DemoApp

    override fun onStartJob(parameters: JobParameters): Boolean {
        app.search.index(byRequest = false) { more -> jobFinished(parameters, more) }
        return true
    }

    /** The time is up, or the phone was unplugged: again later, from where it came to. */
    override fun onStopJob(parameters: JobParameters): Boolean {
        app.search.interrupt()
        return true
    }

    companion object {
        private const val ID = 1

        /** Every few hours while charging, also after a restart of the phone; or not at all. */
        fun schedule(context: Context, on: Boolean) {
            val scheduler = context.getSystemService(JobScheduler::class.java)
            if (!on) return scheduler.cancel(ID)
            if (scheduler.getPendingJob(ID) != null) return
            val job = JobInfo.Builder(ID, ComponentName(context, IndexingJob::class.java))
            job.setRequiresCharging(true).setPeriodic(TimeUnit.HOURS.toMillis(HOURS)).setPersisted(true)
            scheduler.schedule(job.build())
        }

        private const val HOURS = 3L
    }
}
