package dev.thumbprint.android

import android.util.Log
import dev.thumbprint.LogLevel
import dev.thumbprint.Thumbprint

/** What the library logs, in Android's log, under the tag `thumbprint`. No text of the person's is in it. */
public object AndroidLog {
    internal const val TAG = "thumbprint"

    /** From now on, for the whole process. */
    public fun install() {
        Thumbprint.setLogSink { Log.println(priority(it.level), TAG, "${it.target}: ${it.text}") }
    }

    private fun priority(level: LogLevel): Int =
        when (level) {
            LogLevel.ERROR -> Log.ERROR
            LogLevel.WARN -> Log.WARN
            LogLevel.INFO -> Log.INFO
            LogLevel.DEBUG -> Log.DEBUG
        }
}
