// Needs AndroidX, which only Gradle has: this folder is not compiled by `make test-kotlin`.

package dev.thumbprint.android

import android.content.Context
import android.content.pm.ServiceInfo
import android.os.Build
import android.util.Log
import androidx.work.CoroutineWorker
import androidx.work.ForegroundInfo
import androidx.work.WorkerParameters
import androidx.work.workDataOf
import dev.thumbprint.Progress
import dev.thumbprint.ThumbprintException
import kotlinx.coroutines.CancellationException

/** Learns for a chunk, and asks for the next one; see [BackgroundPersonalization]. */
public class PersonalizeWorker(
    context: Context,
    parameters: WorkerParameters,
) : CoroutineWorker(context, parameters) {
    private val options = BackgroundOptions.of(inputData.keyValueMap)
    private val personalization = Personalization(applicationContext, options)
    private var inForeground = false

    override suspend fun doWork(): Result {
        try {
            inForeground = options.notice != null && goIntoForeground()
            var result = personalization.chunk(::tell)
            // What the person watches goes on in one piece; the system allows it six hours a day.
            while (inForeground && result == ChunkResult.Rests(RestReason.OUT_OF_TIME)) {
                result = personalization.chunk(::tell)
            }
            Log.i(AndroidLog.TAG, "learning in the background: $result")
            if (result is ChunkResult.Rests && result.reason != RestReason.PAUSED) {
                BackgroundPersonalization.enqueueNext(applicationContext, options, result.reason)
            }
        } catch (stopped: CancellationException) {
            // The system starts this worker again once its constraints are met.
            val reason = if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.S) stopReason else "unknown before Android 12"
            Log.i(AndroidLog.TAG, "learning in the background was stopped, reason $reason")
            throw stopped
        } catch (error: ThumbprintException) {
            Log.w(AndroidLog.TAG, "learning in the background: ${error.code}: ${error.reason}")
            return Result.failure(workDataOf("code" to error.code))
        } catch (error: KeyLostException) {
            Log.e(AndroidLog.TAG, "learning in the background", error)
            return Result.failure(workDataOf("code" to "key_lost"))
        }
        return Result.success()
    }

    override suspend fun getForegroundInfo(): ForegroundInfo = foregroundInfo()

    private suspend fun tell(progress: Progress) {
        setProgress(workDataOf("phase" to progress.phase.name, "step" to progress.step, "total" to progress.total))
        if (inForeground) personalization.showProgress(NOTIFICATION_ID, progress)
    }

    /** Whether the system lets it. Started from the background it does not: then it goes on in chunks. */
    private suspend fun goIntoForeground(): Boolean =
        try {
            setForeground(foregroundInfo())
            true
        } catch (error: CancellationException) {
            throw error
        } catch (error: RuntimeException) {
            // ForegroundServiceStartNotAllowedException, or a manifest without the service's type.
            Log.w(AndroidLog.TAG, "not in the foreground: $error")
            false
        }

    private fun foregroundInfo(): ForegroundInfo {
        val notification = personalization.notification(null)
        return if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.Q) {
            ForegroundInfo(NOTIFICATION_ID, notification, ServiceInfo.FOREGROUND_SERVICE_TYPE_DATA_SYNC)
        } else {
            ForegroundInfo(NOTIFICATION_ID, notification)
        }
    }

    private companion object {
        const val NOTIFICATION_ID = 0x7470
    }
}
