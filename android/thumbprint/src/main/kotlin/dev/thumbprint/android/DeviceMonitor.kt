package dev.thumbprint.android

import android.app.ActivityManager
import android.app.ApplicationExitInfo
import android.content.Context
import android.os.Build
import android.os.PowerManager
import java.io.File

/** Looks at the device. Since Android 14 an app in the background is told nothing of memory (`onTrimMemory`): it has to look. */
public class DeviceMonitor(
    private val context: Context,
) {
    private val power = context.getSystemService(PowerManager::class.java)
    private val activities = context.getSystemService(ActivityManager::class.java)

    /** How hot the device is, and what memory is to be had. Before Android 10 it is never hot. */
    public fun state(): DeviceState {
        val memory = ActivityManager.MemoryInfo().also(activities::getMemoryInfo)
        val thermal = if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.Q) power.currentThermalStatus else 0
        return DeviceState(Thermal.of(thermal), memory.availMem - memory.threshold, memory.lowMemory)
    }

    /**
     * How the last process that learned in [dataDir] ended, if it ended in the middle of it: whether for lack of memory, as far as the
     * system tells (since Android 11; the kernel's own killing shows as a signal).
     */
    public fun lastEnd(dataDir: File): LastEnd? {
        val began = Mark(dataDir).since() ?: return null
        if (Build.VERSION.SDK_INT < Build.VERSION_CODES.R) return LastEnd("unknown before Android 11", forMemory = true)
        val exit =
            activities.getHistoricalProcessExitReasons(context.packageName, 0, 8).firstOrNull { it.timestamp >= began }
                ?: return null
        val killed = exit.reason == ApplicationExitInfo.REASON_SIGNALED && exit.status == SIGKILL
        return LastEnd("reason ${exit.reason}", killed || exit.reason == ApplicationExitInfo.REASON_LOW_MEMORY)
    }

    private companion object {
        const val SIGKILL = 9
    }
}

/** How a process ended that was learning. */
public data class LastEnd(
    /** What the system said: a number of `ApplicationExitInfo`. */
    val reason: String,
    /** Whether it was for lack of memory, or may have been. */
    val forMemory: Boolean,
)

/** A file that is there while a process learns. */
internal class Mark(
    dataDir: File,
) {
    private val file = File(dataDir, "learning")

    /** When it was made, milliseconds since 1970; `null` where it is not there. */
    fun since(): Long? = file.lastModified().takeIf { it > 0 }

    fun set() {
        file.delete()
        file.createNewFile()
    }

    fun clear() {
        file.delete()
    }
}
