package dev.thumbprint

/** Names a reply: one answer to one prompt, generated here or handed in by the app. Positive, handed out once. */
@JvmInline
public value class ReplyId(
    /** As it is stored. */
    public val value: Long,
) {
    override fun toString(): String = value.toString()
}

/** Names one event of feedback. A larger one is later. */
@JvmInline
public value class FeedbackId(
    /** As it is stored. */
    public val value: Long,
) : Comparable<FeedbackId> {
    override fun compareTo(other: FeedbackId): Int = value.compareTo(other.value)

    override fun toString(): String = value.toString()
}

/** Names a stored chat. */
@JvmInline
public value class ConversationId(
    /** As it is stored. */
    public val value: Long,
) {
    override fun toString(): String = value.toString()
}

/** Names one turn of a stored chat. */
@JvmInline
public value class MessageId(
    /** As it is stored. */
    public val value: Long,
) {
    override fun toString(): String = value.toString()
}

/** Names one version of the adapter. */
@JvmInline
public value class AdapterId(
    /** As it is stored. */
    public val value: Long,
) {
    override fun toString(): String = value.toString()
}

/** Names one blind side-by-side of two replies. */
@JvmInline
public value class MatchId(
    /** As it is stored. */
    public val value: Long,
) {
    override fun toString(): String = value.toString()
}

/** Names one run of the personalization job. */
@JvmInline
public value class RunId(
    /** As it is stored. */
    public val value: Long,
) {
    override fun toString(): String = value.toString()
}
