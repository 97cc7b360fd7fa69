package dev.thumbprint

import dev.thumbprint.internal.boundary
import dev.thumbprint.internal.cancellable
import dev.thumbprint.internal.public
import dev.thumbprint.internal.quick

/** A stored chat. Of one whose folder was closed, every call throws [ThumbprintException.Closed]. */
public class Conversation internal constructor(
    private val inner: dev.thumbprint.ffi.Conversation,
    // Closing is up to whoever opened it, and must not happen while this is in use.
    private val owner: Thumbprint,
) {
    /** Its id, to open it again. */
    public val id: ConversationId = ConversationId(inner.id())

    /** Its title and when it was used. */
    public suspend fun info(): ConversationInfo = quick { inner.info().public() }

    /** Its turns, the first one first. */
    public suspend fun messages(): List<StoredMessage> = quick { inner.messages().map { it.public() } }

    /** Adds a turn that is not answered: instructions at the beginning, say. */
    public suspend fun append(message: Message): MessageId = quick { MessageId(inner.append(message.boundary())) }

    /**
     * Says something, and replies to it, once the generation is collected or waited for. What was said before and never answered is
     * left out of the chat from then on.
     */
    public fun send(text: String, options: GenerateOptions = GenerateOptions()): Generation =
        Generation { inner.send(text, options.boundary()) }

    /**
     * Takes the last reply back and answers again, once the generation is collected or waited for. The old reply stays in the log,
     * with a [Feedback.Retry] on it. Throws [ThumbprintException.InvalidState] where there is none.
     */
    public fun regenerate(options: GenerateOptions = GenerateOptions()): Generation =
        Generation { inner.regenerate(options.boundary()) }

    /**
     * Says something, and two contestants answer side by side. Waits for both. The left reply is the last turn until a
     * [vote][Thumbprint.vote] for the right one. A coroutine that is cancelled meanwhile stops the model; what was said is kept even then.
     */
    public suspend fun sideBySide(text: String, contest: Contest): Match =
        cancellable { inner.sideBySide(text, contest.boundary(), it).public() }

    /**
     * Records what the person wants instead of the last reply, and goes on from that. Throws [ThumbprintException.InvalidState] where
     * there is none.
     */
    public suspend fun edit(text: String): FeedbackId = quick { FeedbackId(inner.edit(text)) }

    /** A new conversation that shares the turns up to and including [upto]. */
    public suspend fun branch(upto: MessageId, title: String? = null): Conversation =
        quick { Conversation(inner.branch(upto.value, title), owner) }

    /** Gives it a title, or takes it away. */
    public suspend fun rename(title: String?): Unit = quick { inner.rename(title) }

    /** Deletes it. Turns that feedback rests on stay until they are forgotten. */
    public suspend fun delete(): Unit = quick { inner.delete() }
}
