package dev.thumbprint.android

import dev.thumbprint.Budget
import dev.thumbprint.MemoryEstimate
import dev.thumbprint.Outcome
import dev.thumbprint.PersonalizeJob
import dev.thumbprint.Progress
import dev.thumbprint.Recipe
import dev.thumbprint.Thumbprint
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.NonCancellable
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.delay
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext
import kotlinx.coroutines.withTimeoutOrNull
import java.util.concurrent.atomic.AtomicReference
import kotlin.time.Duration.Companion.seconds

/** What a chunk of a job came to. */
public sealed interface ChunkResult {
    /** The job is over. */
    public data class Finished(
        /** How. */
        val outcome: Outcome,
    ) : ChunkResult

    /** It rests; another chunk goes on from there. */
    public data class Rests(
        /** Why. */
        val reason: RestReason,
    ) : ChunkResult
}

/**
 * Lets the job of [tp], which learns as [recipe] says, run until it is over, its time is up or [observe] says that the device needs
 * rest, whichever comes first. A caller that is cancelled leaves it resting, not given up. Throws what [PersonalizeJob.await] throws.
 */
public suspend fun runChunk(
    tp: Thumbprint,
    budget: Budget,
    recipe: Recipe,
    limits: Limits,
    observe: suspend () -> DeviceState,
    onProgress: suspend (Progress) -> Unit = {},
): ChunkResult {
    limits.reasonToRest(observe())?.let { return ChunkResult.Rests(it) }
    val job = tp.personalize(budget, recipe)
    val reason = AtomicReference<RestReason>()
    val outcome =
        restingIfLeft(job) {
            val watch = launch { watch(job, limits, reason, observe) }
            val tell = launch { job.updates.collect { onProgress(it) } }
            val outcome = job.await()
            watch.cancel()
            tell.cancel()
            outcome
        }
    return when (outcome) {
        Outcome.Paused -> ChunkResult.Rests(reason.get() ?: RestReason.PAUSED)
        else -> ChunkResult.Finished(outcome)
    }
}

/**
 * MiB that a job may use where [availableBytes] are to be had: `null` for as much as is fastest. After a process that ended for lack of
 * memory while it learned, only as much as is needed. Nothing is learned on a model that cannot be trained: `null`, and the job says so.
 */
public fun memoryBudget(needed: MemoryEstimate, availableBytes: Long, limits: Limits, endedForMemory: Boolean): Long? {
    val training = needed.training ?: return null
    val room = room(needed, availableBytes, limits)
    return when {
        endedForMemory -> mib(training.least)
        room >= training.fullSpeed -> null
        else -> maxOf(room shr 20, mib(training.least))
    }
}

/** Whether the least that a job takes is to be had. */
public fun fits(needed: MemoryEstimate, availableBytes: Long, limits: Limits): Boolean =
    room(needed, availableBytes, limits) >= (needed.training?.least ?: 0)

/** What training may take beside the engine, which answers prompts for it; its weights are mapped, and the system may drop them. */
private fun room(needed: MemoryEstimate, availableBytes: Long, limits: Limits): Long =
    availableBytes - limits.spareBytes - needed.inference.cache - needed.inference.compute

private fun mib(bytes: Long): Long = (bytes + (1L shl 20) - 1) shr 20

private suspend fun watch(
    job: PersonalizeJob,
    limits: Limits,
    reason: AtomicReference<RestReason>,
    observe: suspend () -> DeviceState,
) {
    val seen =
        withTimeoutOrNull(limits.seconds.seconds) {
            var seen: RestReason? = null
            while (seen == null) {
                delay(limits.pollSeconds.seconds)
                seen = limits.reasonToRest(observe())
            }
            seen
        }
    reason.set(seen ?: RestReason.OUT_OF_TIME)
    job.pause()
}

private suspend fun <T> restingIfLeft(job: PersonalizeJob, run: suspend CoroutineScope.() -> T): T =
    try {
        coroutineScope(run)
    } catch (left: Throwable) {
        job.pause()
        // It rests within a layer: until then it holds the folder that the caller is about to close.
        withContext(NonCancellable) { runCatching { job.await() } }
        throw left
    }
