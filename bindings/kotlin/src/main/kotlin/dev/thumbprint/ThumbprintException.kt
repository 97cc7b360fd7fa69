package dev.thumbprint

/**
 * Why a call failed. The class says what can be done about it; [code] names the cause and stays the same from version to version;
 * [reason], which is also the message, says to people what was wrong, where, and what to do. None holds text that a person wrote.
 */
public sealed class ThumbprintException(
    /** Stable name of the cause: "unknown_reply", "disk_full". */
    public val code: String,
    /** What was wrong, where, and what to do. */
    public val reason: String,
) : Exception(reason) {
    /** The object was closed before. */
    public class Closed internal constructor(code: String, reason: String) : ThumbprintException(code, reason)

    /** The model was unloaded meanwhile. A coroutine that is cancelled ends by its own exception instead. */
    public class Cancelled internal constructor(code: String, reason: String) : ThumbprintException(code, reason)

    /** A listener failed; what it listened to was given up. What this package's own lambdas throw comes out unchanged instead. */
    public class Listener internal constructor(code: String, reason: String) : ThumbprintException(code, reason)

    /** Another process has the data folder. */
    public class FolderInUse internal constructor(
        code: String,
        reason: String,
        /** The other process, where it is known. */
        public val pid: Long?,
    ) : ThumbprintException(code, reason)

    /** The data folder or its database: a full disk, no permission, damage, a newer version, another key. */
    public class Storage internal constructor(code: String, reason: String) : ThumbprintException(code, reason)

    /** What an id named is not there, or not any more. */
    public class NotFound internal constructor(code: String, reason: String) : ThumbprintException(code, reason)

    /** What was asked for makes no sense: an empty prompt, an option out of range. */
    public class InvalidInput internal constructor(code: String, reason: String) : ThumbprintException(code, reason)

    /** The prompt leaves no room for a reply. */
    public class PromptTooLong internal constructor(
        code: String,
        reason: String,
        /** Tokens of the prompt. */
        public val promptTokens: Long,
        /** Tokens that the context holds. */
        public val nCtx: Int,
    ) : ThumbprintException(code, reason)

    /** Something else has to be done first: a model named, an adapter activated. */
    public class InvalidState internal constructor(code: String, reason: String) : ThumbprintException(code, reason)

    /** The model's file cannot be used, or not for this. */
    public class Model internal constructor(code: String, reason: String) : ThumbprintException(code, reason)

    /** An adapter's file cannot be used. */
    public class Adapter internal constructor(code: String, reason: String) : ThumbprintException(code, reason)

    /** A file could not be read or written. */
    public class File internal constructor(code: String, reason: String) : ThumbprintException(code, reason)

    /** A line of a file of feedback cannot be used; nothing of the file was. */
    public class Import internal constructor(
        code: String,
        reason: String,
        /** From 1; 0 where the file itself is at fault. */
        public val line: Long,
    ) : ThumbprintException(code, reason)

    /** No way of training fits the memory that was allowed. */
    public class OverBudget internal constructor(
        code: String,
        reason: String,
        /** MiB that would be enough. */
        public val neededMib: Long,
        /** MiB that were allowed. */
        public val budgetMib: Long,
    ) : ThumbprintException(code, reason)

    /** A run of training failed; what was in use before still is. */
    public class Training internal constructor(code: String, reason: String) : ThumbprintException(code, reason)

    /** A bug in this library. */
    public class Internal internal constructor(code: String, reason: String) : ThumbprintException(code, reason)
}
