package dev.thumbprint.android

/** How hot the device is; the names and the order are those of `PowerManager`. */
public enum class Thermal {
    /** Cool. */
    NONE,

    /** Warm, not slowed down. */
    LIGHT,

    /** Slowed down a little. */
    MODERATE,

    /** Slowed down so that people notice. */
    SEVERE,

    /** Everything has been done to cool it. */
    CRITICAL,

    /** Parts are switched off. */
    EMERGENCY,

    /** It is about to switch itself off. */
    SHUTDOWN,
    ;

    /** From the number that the system tells. */
    public companion object {
        /** One above the last, which a later system may have, counts as the last. */
        public fun of(status: Int): Thermal = entries[status.coerceIn(0, entries.lastIndex)]
    }
}

/** What the device says while a job runs. */
public data class DeviceState(
    /** How hot it is. */
    val thermal: Thermal,
    /** Bytes of memory that are to be had before the system ends processes. */
    val availableBytes: Long,
    /** Whether the system is short of memory. */
    val lowMemory: Boolean,
)

/** Why a job rests before it is over. */
public enum class RestReason {
    /** Its chunk of time is over. */
    OUT_OF_TIME,

    /** The device is too hot. */
    HOT,

    /** Memory is short. */
    LOW_MEMORY,

    /** The app paused it, or its own budget of seconds is used up. */
    PAUSED,
}

private const val LONGEST_CHUNK_SECONDS = 8L * 60

/** When a job is to rest. Throws [IllegalArgumentException] for numbers out of range. */
public data class Limits(
    /** Longest chunk, seconds by the clock, 1 to 480: the system ends a worker after ten minutes, and resting takes a moment. */
    val seconds: Long = LONGEST_CHUNK_SECONDS,
    /** It rests from this on. */
    val restAt: Thermal = Thermal.SEVERE,
    /** Bytes that are left to others. */
    val spareBytes: Long = 256L shl 20,
    /** Seconds between looks at the device. No call tells a background app that memory is short: it has to look. */
    val pollSeconds: Long = 5,
) {
    init {
        require(seconds in 1..LONGEST_CHUNK_SECONDS) {
            "a chunk of $seconds seconds: from 1 to $LONGEST_CHUNK_SECONDS, since the system ends a worker after ten minutes"
        }
        require(pollSeconds >= 1) { "$pollSeconds seconds between looks at the device: at least 1" }
    }

    /** Why a job that runs has to rest now, if it has to. */
    public fun reasonToRest(state: DeviceState): RestReason? =
        when {
            state.thermal >= restAt -> RestReason.HOT
            state.lowMemory || state.availableBytes < spareBytes -> RestReason.LOW_MEMORY
            else -> null
        }
}
