package dev.thumbprint

/** How important a [LogRecord] is. */
public enum class LogLevel {
    /** Something failed. */
    ERROR,

    /** Something is not as it should be. */
    WARN,

    /** Something happened. */
    INFO,

    /** For people who look into it. */
    DEBUG,
}

/** One line of the log. It never holds what a person wrote. */
public data class LogRecord(
    /** How important it is. */
    val level: LogLevel,
    /** The part of the library that logs. */
    val target: String,
    /** What is to be said, and its numbers. */
    val text: String,
)

/** Is handed what the library logs; see [Thumbprint.setLogSink]. */
public fun interface LogSink {
    /** Called on a thread of its own, one record after the other. What it throws is ignored. */
    public fun log(record: LogRecord)
}
