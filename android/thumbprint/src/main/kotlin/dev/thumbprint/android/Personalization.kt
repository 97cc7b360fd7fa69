package dev.thumbprint.android

import android.app.Notification
import android.app.NotificationChannel
import android.app.NotificationManager
import android.content.Context
import android.util.Log
import dev.thumbprint.Budget
import dev.thumbprint.EngineOptions
import dev.thumbprint.Progress
import dev.thumbprint.Recipe
import dev.thumbprint.Thumbprint
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.NonCancellable
import kotlinx.coroutines.withContext

/** A chunk of learning in the background: what a worker does, whoever schedules it. */
public class Personalization(
    private val context: Context,
    private val options: BackgroundOptions,
) {
    private val monitor = DeviceMonitor(context)
    private val notifications = context.getSystemService(NotificationManager::class.java)

    /**
     * Learns until the job is over, eight minutes have gone by, or the device is hot or short of memory. An app that has the folder
     * open in this process shares the instance, and is answered first. A caller that is cancelled leaves the job resting.
     *
     * Throws what [Thumbprint.open] and the job throw.
     */
    public suspend fun chunk(onProgress: suspend (Progress) -> Unit = {}): ChunkResult {
        val needed = Thumbprint.estimateMemory(options.model, options.nCtx ?: DEFAULT_CONTEXT)
        val available = monitor.state().availableBytes
        if (!fits(needed, available, options.limits)) return ChunkResult.Rests(RestReason.LOW_MEMORY)
        val end = monitor.lastEnd(options.dataDir)
        end?.let { Log.w(AndroidLog.TAG, "the last process ended while it learned: ${it.reason}") }
        val memory = options.memoryMib ?: memoryBudget(needed, available, options.limits, end?.forMemory == true)
        val tp = Thumbprint.open(options.dataDir, options.model, EngineOptions(nCtx = options.nCtx), key())
        val mark = Mark(options.dataDir)
        try {
            mark.set()
            return runChunk(tp, Budget(memoryMib = memory), Recipe(), options.limits, monitor::state, onProgress)
        } finally {
            // Not while this process is being ended: then the mark stays.
            mark.clear()
            withContext(NonCancellable + Dispatchers.IO) { tp.close() }
        }
    }

    /** The notification of a job that the person has started. Throws [IllegalArgumentException] where the options have none. */
    public fun notification(progress: Progress?): Notification {
        val notice = requireNotNull(options.notice) { "BackgroundOptions.notice is missing" }
        val channel = NotificationChannel(notice.channelId, notice.title, NotificationManager.IMPORTANCE_LOW)
        notifications.createNotificationChannel(channel)
        val (total, step) = progress?.let { it.total.toInt() to it.step.toInt() } ?: (0 to 0)
        return Notification
            .Builder(context, notice.channelId)
            .setContentTitle(notice.title)
            .setSmallIcon(notice.icon)
            .setOngoing(true)
            .setOnlyAlertOnce(true)
            .setProgress(total, step, total == 0)
            .build()
    }

    /** Shows how far it is in a notification that is there already. Where the person allows none, nothing happens. */
    public fun showProgress(id: Int, progress: Progress) {
        notifications.notify(id, notification(progress))
    }

    private suspend fun key(): ByteArray? = options.keyAlias?.let { KeystoreKey(context, it).get() }

    private companion object {
        /** Tokens of a context where nothing else is said: the most that the library takes by itself. */
        const val DEFAULT_CONTEXT = 4096
    }
}
