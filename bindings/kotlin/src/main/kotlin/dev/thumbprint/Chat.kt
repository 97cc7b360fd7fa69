package dev.thumbprint

import java.time.Instant

/** Who speaks in a message. */
public enum class Role {
    /** Instructions of the app. */
    SYSTEM,

    /** The person. */
    USER,

    /** The model. */
    ASSISTANT,
}

/** One turn of a chat. */
public data class Message(
    /** Who speaks. */
    val role: Role,
    /** What is said, without any template markup. */
    val content: String,
) {
    /** Names for the three kinds. */
    public companion object {
        /** Instructions of the app. */
        public fun system(content: String): Message = Message(Role.SYSTEM, content)

        /** Something the person says. */
        public fun user(content: String): Message = Message(Role.USER, content)

        /** Something the model said. */
        public fun assistant(content: String): Message = Message(Role.ASSISTANT, content)
    }
}

/** Who answers a request. */
public sealed interface By {
    /** The base model with the active adapter, if any. */
    public data object Active : By

    /** The base model alone. */
    public data object Base : By

    /** The base model with this adapter at full scale, whatever its state: to look at a candidate, not to serve it. */
    public data class Adapter(
        /** The adapter. */
        val id: AdapterId,
    ) : By
}

/** A reply to be generated. */
public data class Request(
    /** The conversation so far, the message to be answered last. */
    val messages: List<Message>,
    /** Length, sampling, stop strings. */
    val options: GenerateOptions = GenerateOptions(),
    /** The reply whose place it takes: the person pressed retry. */
    val replaces: ReplyId? = null,
    /** Who answers. */
    val by: By = By.Active,
) {
    /** A request of one thing that the person says. */
    public constructor(prompt: String, options: GenerateOptions = GenerateOptions()) :
        this(listOf(Message.user(prompt)), options)
}

/** What a running generation says. */
public sealed interface Event {
    /** More of the reply's text. */
    public data class Token(
        /** Whole characters, never empty. */
        val text: String,
    ) : Event

    /** The reply is complete and recorded. The last event. */
    public data class Done(
        /** The reply. */
        val reply: Reply,
    ) : Event
}

/** A complete reply, recorded. */
public data class Reply(
    /** What feedback refers to. */
    val id: ReplyId,
    /** Its text. */
    val text: String,
    /** Why it ended. */
    val stopReason: StopReason,
    /** Token counts and times. */
    val usage: Usage,
    /** Tokens per second after the first one; 0 if there was only one. */
    val tokensPerSecond: Float,
    /** How its tokens were chosen, the seed included. */
    val sampling: Sampling,
    /** The adapter that it was generated under; `null` for the base model. */
    val adapter: AdapterId?,
    /** Messages that did not fit the context and were left out. */
    val droppedMessages: Int,
    /** How it was chosen, if several were drawn. */
    val bestOf: BestOf?,
)

/** Why a generation ended. */
public enum class StopReason {
    /** The model ended its turn. */
    END_OF_TURN,

    /** One of the strings given by the app appeared. */
    STOP_STRING,

    /** The limit on tokens was reached. */
    MAX_TOKENS,

    /** The context was full. */
    CONTEXT_FULL,

    /** The app cancelled. */
    CANCELLED,
}

/** What one generation consumed. */
public data class Usage(
    /** Tokens of the prompt, reused ones included. */
    val promptTokens: Int,
    /** Tokens of the prompt that were computed before and not again. */
    val reusedTokens: Int,
    /** Tokens generated. */
    val completionTokens: Int,
    /** Milliseconds until the first token. */
    val firstTokenMs: Float,
    /** Milliseconds from the first token to the last. */
    val decodeMs: Float,
)

/** How tokens were drawn; see [GenerateOptions]. */
public data class Sampling(
    /** Divided the logits; 0 took the likeliest token. */
    val temperature: Float,
    /** Kept the k likeliest tokens; 0 kept all. */
    val topK: Int,
    /** Kept the smallest set of tokens with this much probability. */
    val topP: Float,
    /** Dropped tokens less likely than this share of the likeliest. */
    val minP: Float,
    /** Divided the logits of recent tokens; 1 is off. */
    val repetitionPenalty: Float,
    /** How many recent tokens the penalty looked at. */
    val repetitionWindow: Int,
    /** Seed of the draw: all 64 bits, so that it may be negative here. */
    val seed: Long,
)

/** A stored chat, without its turns. */
public data class ConversationInfo(
    /** Its id, to open it. */
    val id: ConversationId,
    /** Its title, if it was given one. */
    val title: String?,
    /** Its last turn; `null` before the first. */
    val head: MessageId?,
    /** When it was begun. */
    val createdAt: Instant,
    /** When its last turn was said. */
    val updatedAt: Instant,
)

/** One turn of a stored chat. */
public data class StoredMessage(
    /** Its id. */
    val id: MessageId,
    /** The turn before it. */
    val parent: MessageId?,
    /** Who speaks, and what is said. */
    val message: Message,
    /** The reply recorded for it, for turns of the assistant. */
    val reply: ReplyId?,
    /** When it was said. */
    val createdAt: Instant,
)

/** What a person said about a reply, or did with it. */
public sealed interface Feedback {
    /** 👍 */
    public data object Up : Feedback

    /** 👎 */
    public data class Down(
        /** Why, if the person said so: "too long", "wrong", or a wish in their own words. */
        val reasons: List<String> = emptyList(),
    ) : Feedback

    /** The person rewrote the reply. */
    public data class Edit(
        /** The text that they want instead. */
        val text: String,
    ) : Feedback

    /** The reply was picked over another reply to the same prompt. */
    public data class Prefer(
        /** The reply that was not picked. */
        val over: ReplyId,
    ) : Feedback

    /** An order among several replies to the same prompt, of which this one is the best. */
    public data class Rank(
        /** The other replies, one at least, the best of them first. */
        val over: List<ReplyId>,
    ) : Feedback

    /** The person asked for another reply; [Request.replaces] names this one there. */
    public data object Retry : Feedback
}

/** One event of feedback that is in effect. */
public data class FeedbackInEffect(
    /** Its id, to withdraw or forget it. */
    val id: FeedbackId,
    /** What was said. */
    val feedback: Feedback,
)
