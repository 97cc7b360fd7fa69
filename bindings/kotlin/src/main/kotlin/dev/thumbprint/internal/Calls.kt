package dev.thumbprint.internal

import dev.thumbprint.ThumbprintException
import dev.thumbprint.ffi.Canceller
import dev.thumbprint.ffi.EvaluationListener
import dev.thumbprint.ffi.InternalException
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.launch
import kotlinx.coroutines.suspendCancellableCoroutine
import kotlinx.coroutines.withContext
import java.util.concurrent.atomic.AtomicBoolean
import kotlin.coroutines.resumeWithException
import dev.thumbprint.ffi.ThumbprintException as FfiException

/** Threads for calls that wait for the model: none of the app's, and many, since each call holds one. */
private val waiting = Dispatchers.IO.limitedParallelism(64)

/** Threads for calls that end what others wait for, such as unloading: they do not stand in line behind them. */
private val commanding = Dispatchers.IO.limitedParallelism(8)

/** Threads for calls that take milliseconds: a thumb does not wait behind replies. */
private val storing = Dispatchers.IO.limitedParallelism(4)

/** Outlives the callers that have given up on what runs in it. */
internal val background = CoroutineScope(SupervisorJob() + waiting)

/** A call that takes milliseconds. One that has begun is waited for. */
internal suspend fun <T> quick(call: () -> T): T = withContext(storing) { translated(call) }

/** A call that waits until the engine or a job has done what it is told. One that has begun is waited for. */
internal suspend fun <T> patient(call: () -> T): T = withContext(commanding) { translated(call) }

/**
 * A call that may take long. Whoever is cancelled while it runs does not wait for it: it goes on in the background, and its result
 * goes to [abandoned]. One that has not begun never does.
 */
internal suspend fun <T> long(abandoned: (T) -> Unit = {}, call: () -> T): T =
    suspendCancellableCoroutine { caller ->
        background.launch {
            if (!caller.isActive) return@launch
            val result = runCatching { translated(call) }
            result.fold(
                { caller.resume(it) { _, value, _ -> abandoned(value) } },
                { caller.resumeWithException(it) },
            )
        }
    }

/** The same for a call that ends once it is told to: it is, when its caller is cancelled. */
internal suspend fun <T> cancellable(call: (Canceller) -> T): T {
    val canceller = Canceller()
    return try {
        long { call(canceller) }
    } catch (left: CancellationException) {
        canceller.cancel()
        throw left
    }
}

/**
 * The same for one that tells how far it is: [onProgress] hears of it in the coroutine of the caller. It ends when that is cancelled or
 * throws.
 */
internal suspend fun <T> listening(onProgress: suspend (Long, Long) -> Unit, call: (EvaluationListener) -> T): T {
    val told = Channel<Pair<Long, Long>>(Channel.UNLIMITED)
    val result = CompletableDeferred<T>()
    val givenUp = AtomicBoolean()
    val listener =
        object : EvaluationListener {
            override fun onProgress(done: ULong, total: ULong): Boolean {
                told.trySend(done.toLong() to total.toLong())
                return !givenUp.get()
            }
        }
    background.launch {
        if (!givenUp.get()) {
            runCatching { translated { call(listener) } }.fold(result::complete, result::completeExceptionally)
        }
        told.close()
    }
    try {
        for ((done, total) in told) onProgress(done, total)
        return result.await()
    } catch (left: Throwable) {
        givenUp.set(true)
        throw left
    }
}

/** Throws errors of the boundary in their public form. */
internal inline fun <T> translated(call: () -> T): T =
    try {
        call()
    } catch (error: FfiException) {
        throw error.public()
    } catch (error: InternalException) {
        throw error.public()
    }

internal fun InternalException.public(): ThumbprintException =
    ThumbprintException.Internal("internal", message ?: "the library panicked")

internal fun FfiException.public(): ThumbprintException =
    when (this) {
        is FfiException.Closed -> ThumbprintException.Closed(code, reason)
        is FfiException.Cancelled -> ThumbprintException.Cancelled(code, reason)
        is FfiException.Listener -> ThumbprintException.Listener(code, reason)
        is FfiException.FolderInUse -> ThumbprintException.FolderInUse(code, reason, pid?.toLong())
        is FfiException.Storage -> ThumbprintException.Storage(code, reason)
        is FfiException.NotFound -> ThumbprintException.NotFound(code, reason)
        is FfiException.InvalidInput -> ThumbprintException.InvalidInput(code, reason)
        is FfiException.PromptTooLong ->
            ThumbprintException.PromptTooLong(code, reason, promptTokens.toLong(), nCtx.toInt())
        is FfiException.InvalidState -> ThumbprintException.InvalidState(code, reason)
        is FfiException.Model -> ThumbprintException.Model(code, reason)
        is FfiException.Adapter -> ThumbprintException.Adapter(code, reason)
        is FfiException.File -> ThumbprintException.File(code, reason)
        is FfiException.Import -> ThumbprintException.Import(code, reason, line.toLong())
        is FfiException.OverBudget ->
            ThumbprintException.OverBudget(code, reason, neededMib.toLong(), budgetMib.toLong())
        is FfiException.Training -> ThumbprintException.Training(code, reason)
        is FfiException.Internal -> ThumbprintException.Internal(code, reason)
    }
