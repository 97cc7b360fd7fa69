// Needs AndroidX, which only Gradle has: this folder is not compiled by `make test-kotlin`.

package dev.thumbprint.android

import android.content.Context
import androidx.work.Constraints
import androidx.work.Data
import androidx.work.ExistingPeriodicWorkPolicy
import androidx.work.ExistingWorkPolicy
import androidx.work.OneTimeWorkRequestBuilder
import androidx.work.PeriodicWorkRequestBuilder
import androidx.work.WorkInfo
import androidx.work.WorkManager
import kotlinx.coroutines.flow.Flow
import java.time.Duration

/**
 * Learning in the background, by WorkManager: once a day while the device charges and neither battery nor storage is low, in chunks of
 * at most eight minutes, each of which goes on where the last one rested.
 */
public object BackgroundPersonalization {
    private const val DAILY = "thumbprint-daily"
    private const val CHUNKS = "thumbprint-chunks"

    /** Asks for it every day from now on. Called again, the new options hold. */
    public fun schedule(context: Context, options: BackgroundOptions) {
        val quiet = options.copy(notice = null)
        val request =
            PeriodicWorkRequestBuilder<PersonalizeWorker>(Duration.ofDays(1))
                .setConstraints(constraints(quiet))
                .setInputData(input(quiet))
                .build()
        WorkManager.getInstance(context).enqueueUniquePeriodicWork(DAILY, ExistingPeriodicWorkPolicy.UPDATE, request)
    }

    /**
     * Learns now, because the person asked for it, in the foreground with [BackgroundOptions.notice], whether or not the device charges.
     * To be called while the app is visible.
     */
    public fun personalizeNow(context: Context, options: BackgroundOptions) {
        requireNotNull(options.notice) { "what is learned in the foreground has a notification: BackgroundOptions.notice" }
        val request =
            OneTimeWorkRequestBuilder<PersonalizeWorker>()
                .setConstraints(Constraints.Builder().setRequiresStorageNotLow(true).build())
                .setInputData(input(options))
                .build()
        WorkManager.getInstance(context).enqueueUniqueWork(CHUNKS, ExistingWorkPolicy.REPLACE, request)
    }

    /** Stops, and asks for it no more. What was learned so far is kept; a job rests until it is gone on with or given up. */
    public fun cancel(context: Context) {
        val works = WorkManager.getInstance(context)
        works.cancelUniqueWork(DAILY)
        works.cancelUniqueWork(CHUNKS)
    }

    /** What is asked for and what runs, with `phase`, `step` and `total` as progress. */
    public fun works(context: Context): Flow<List<WorkInfo>> = WorkManager.getInstance(context).getWorkInfosForUniqueWorkFlow(CHUNKS)

    /**
     * Not by `Result.retry`: its backoff and a device that must be idle do not go together, and it grows where nothing has failed.
     */
    internal fun enqueueNext(context: Context, options: BackgroundOptions, reason: RestReason) {
        val delay = if (reason == RestReason.OUT_OF_TIME) Duration.ZERO else Duration.ofMinutes(15)
        val quiet = options.copy(notice = null)
        val request =
            OneTimeWorkRequestBuilder<PersonalizeWorker>()
                .setConstraints(constraints(quiet))
                .setInitialDelay(delay)
                .setInputData(input(quiet))
                .build()
        WorkManager.getInstance(context).enqueueUniqueWork(CHUNKS, ExistingWorkPolicy.APPEND_OR_REPLACE, request)
    }

    private fun constraints(options: BackgroundOptions): Constraints =
        Constraints
            .Builder()
            .setRequiresCharging(true)
            .setRequiresBatteryNotLow(true)
            .setRequiresStorageNotLow(true)
            .setRequiresDeviceIdle(options.requiresDeviceIdle)
            .build()

    private fun input(options: BackgroundOptions): Data = Data.Builder().putAll(options.toMap()).build()
}
