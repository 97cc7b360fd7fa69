package dev.thumbprint

import dev.thumbprint.internal.background
import dev.thumbprint.internal.public
import dev.thumbprint.internal.translated
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.flow.mapNotNull
import kotlinx.coroutines.launch
import java.util.concurrent.atomic.AtomicBoolean

/**
 * A reply to be generated. It begins once [events] or [text] are collected, or [await] is called.
 *
 * A coroutine that is cancelled while it collects or waits stops the model within one token, or one piece of the prompt, and so does
 * an exception in the collector. What there is until then is recorded, as after [cancel]: a conversation keeps it, and [await]
 * returns it.
 */
public class Generation internal constructor(
    private val begin: () -> dev.thumbprint.ffi.Generation,
) {
    // No token waits for a slow collector, and none is dropped.
    private val arrived = Channel<Event>(Channel.UNLIMITED)
    private val reply = CompletableDeferred<Reply>()
    private val begun = AtomicBoolean()
    private val collected = AtomicBoolean()

    @Volatile
    private var running: dev.thumbprint.ffi.Generation? = null

    @Volatile
    private var cancelled = false

    /**
     * [Event.Token]s, with an [Event.Done] at the end. To be collected once, by one collector.
     *
     * Throws [ThumbprintException.InvalidInput] for an empty prompt or an option out of range, [ThumbprintException.PromptTooLong],
     * [ThumbprintException.Model] where the model cannot be loaded, and [ThumbprintException.Closed].
     */
    public val events: Flow<Event> =
        flow {
            check(collected.compareAndSet(false, true)) { "the events of a generation are collected once" }
            start()
            stoppingIfLeft {
                for (event in arrived) emit(event)
            }
        }

    /** The pieces of the reply's text alone, in place of [events]; [await] tells the rest. */
    public val text: Flow<String> = events.mapNotNull { (it as? Event.Token)?.text }

    /** Waits for the complete reply. May be called again, and beside a collector. Throws what [events] throws. */
    public suspend fun await(): Reply {
        start()
        return stoppingIfLeft { reply.await() }
    }

    /** Stops it within one token, or one piece of the prompt. [Event.Done] still comes, with what there is. From any thread. */
    public fun cancel() {
        cancelled = true
        running?.cancel()
    }

    private inline fun <T> stoppingIfLeft(wait: () -> T): T =
        try {
            wait()
        } catch (left: Throwable) {
            // Where the generation itself has failed, there is nothing to stop.
            cancel()
            throw left
        }

    private fun start() {
        if (begun.compareAndSet(false, true)) background.launch { pump() }
    }

    /** Takes events as they come, so that the reply is recorded whether or not somebody still waits for it. */
    private fun pump() {
        try {
            val generation = translated(begin)
            running = generation
            if (cancelled) generation.cancel()
            while (true) {
                val event = translated { generation.next() }?.public() ?: break
                if (event is Event.Done) reply.complete(event.reply)
                arrived.trySend(event)
            }
            arrived.close()
            reply.completeExceptionally(ThumbprintException.Internal("internal", "a generation ended without a reply"))
        } catch (error: Throwable) {
            reply.completeExceptionally(error)
            arrived.close(error)
        }
    }
}
