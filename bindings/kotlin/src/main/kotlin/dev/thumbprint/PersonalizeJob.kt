package dev.thumbprint

import dev.thumbprint.internal.long
import dev.thumbprint.internal.patient
import dev.thumbprint.internal.public
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.collect
import kotlinx.coroutines.flow.flow

/** A running or resting job. It runs on threads of the library's own, whoever waits for it. */
public class PersonalizeJob internal constructor(
    private val inner: dev.thumbprint.ffi.PersonalizeJob,
    // Closing is up to whoever opened it, and must not happen while this is in use.
    @Suppress("unused") private val owner: Thumbprint,
) {
    /** How far it is now. */
    public val progress: Progress get() = inner.progress().public()

    /**
     * How far it is, and then whenever that changes; ends once the job is over or rests. A collector that is slow misses some. To stop
     * collecting leaves the job as it is.
     */
    public val updates: Flow<Progress> =
        flow {
            var last: dev.thumbprint.ffi.Progress? = null
            while (true) {
                val seen = last
                last = long { inner.nextProgress(seen) } ?: break
                emit(last.public())
            }
        }

    /**
     * Waits until it is over or rests. A coroutine that is cancelled meanwhile leaves the job as it is.
     *
     * Throws [ThumbprintException.OverBudget] where no plan fits the memory, [ThumbprintException.Model] where the model cannot be
     * trained, and [ThumbprintException.Training].
     */
    public suspend fun await(): Outcome {
        updates.collect {}
        return long { inner.waitForOutcome(null).public() }
    }

    /** Rests within one layer, and gives its memory back. What was learned so far is kept, also if the process ends. */
    public fun pause(): Unit = inner.pause()

    /** Goes on after a pause. */
    public suspend fun resume(): Unit = patient { inner.resume() }

    /** Gives up and cleans up. */
    public suspend fun cancel(): Unit = patient { inner.cancel() }

    /** Whether it is over for good. */
    public val isFinished: Boolean get() = inner.isFinished()
}
