package dev.thumbprint

import java.io.File

/** How a model is loaded and run. `null` takes the library's default. */
public data class EngineOptions(
    /** Tokens that a conversation can have, its reply included; by default what the model was trained for, at most 4096. */
    val nCtx: Int? = null,
    /** Tokens of a prompt that are computed at once. */
    val nBatch: Int? = null,
    /** Compute threads; by default one for each processor, at most 8. */
    val nThreads: Int? = null,
    /** Layers on a GPU; by default all that fit. */
    val nGpuLayers: Int? = null,
    /** Whether the model's file is mapped instead of read. */
    val useMmap: Boolean? = null,
    /** Whether weights are rearranged for faster products, which keeps a second copy of them in memory. */
    val repack: Boolean? = null,
    /** Whether attention is computed by the fused kernel. */
    val flashAttention: FlashAttention? = null,
    /** Element type of the key-value cache. */
    val kvType: KvType? = null,
)

/** Whether attention is computed by the fused kernel. */
public enum class FlashAttention {
    /** Where the device has the kernel. */
    AUTO,

    /** Never, for comparing numbers with another implementation. */
    OFF,
}

/** Element type of the key-value cache. */
public enum class KvType {
    /** Half precision. */
    F16,

    /** Single precision, for comparing numbers with another implementation. */
    F32,
}

/** Length, sampling and stop conditions of a reply. `null` takes the library's default. */
public data class GenerateOptions(
    /** Tokens to generate at most, 1 or more. */
    val maxTokens: Int? = null,
    /** Divides the logits, 0 or more; 0 takes the likeliest token. */
    val temperature: Float? = null,
    /** Draw from the k likeliest tokens; 0: from all. */
    val topK: Int? = null,
    /** Draw from the smallest set of tokens with this much probability, in (0, 1]. */
    val topP: Float? = null,
    /** Leave out tokens less likely than this share of the likeliest, in [0, 1). */
    val minP: Float? = null,
    /** Divides the logits of recent tokens; 1 is off. */
    val repetitionPenalty: Float? = null,
    /** How many recent tokens the penalty looks at. */
    val repetitionWindow: Int? = null,
    /** Seed of the draw: the same gives the same reply; by default another one each time. All 64 bits count. */
    val seed: Long? = null,
    /** Strings that end the reply; they are not part of its text. */
    val stop: List<String> = emptyList(),
    /** What to do when the conversation is longer than the context. */
    val overflow: Overflow? = null,
    /** Replies to draw side by side, 1 to 64, of which the best is recorded and comes in one piece. The i-th has the seed plus i. */
    val bestOf: Int? = null,
    /** Who says which is the best; by default the active adapter. */
    val judge: Judge? = null,
)

/** What to do when a conversation and its reply do not fit the context. */
public enum class Overflow {
    /** Throw [ThumbprintException.PromptTooLong], with both numbers. */
    ERROR,

    /** Drop the oldest turns, keeping system messages and the last turn. */
    TRUNCATE_OLDEST_TURNS,
}

/** What a job may use. `null` takes the library's default. */
public data class Budget(
    /** Most resident memory of training, MiB, the mapped model included; by default as much as is fastest. */
    val memoryMib: Long? = null,
    /** The job pauses after this many seconds of work. It never shortens what is learned. */
    val seconds: Long? = null,
    /** Threads; by default as many as there are processors. */
    val nThreads: Int? = null,
    /** Seeds the adapter, the order of examples and what is sampled. All 64 bits count. */
    val seed: Long? = null,
    /** Longest example that is learned from, tokens of prompt and replies together. Longer ones are left out and counted. */
    val maxExampleTokens: Int? = null,
    /** Whether a new candidate may take the place of one whose trial is undecided. */
    val replaceTrial: Boolean? = null,
    /** Whether to train on the first GPU of a build with a GPU feature; a job fails where there is none. */
    val gpu: Boolean? = null,
    /** Whether to train on the GPU, and to fail rather than compute on the CPU what the GPU has no kernel for. */
    val requireGpu: Boolean? = null,
    /**
     * Rounds, 3 at most, in which the new adapter answers the feedback's prompts again, its own reward labels the answers, and training
     * goes on with them; each is braked. By default there are none: what a model thinks of its own words is no feedback.
     */
    val onlineRounds: Int? = null,
)

/** A way of learning other than the product's. */
public data class Recipe(
    /** Multiple-choice questions of which a candidate must not get many fewer right than the base. */
    val choices: GuardFile? = null,
    /** Harmless prompts of which a candidate must not refuse many more than the base. */
    val refusals: GuardFile? = null,
    /**
     * For comparing with the product: settings that replace its own, as JSON with the names of the Rust crate's `Recipe`:
     * `{"learn_from": "thumbs", "train": {"unpaired": {"loss_type": "kto"}}}`.
     */
    val settingsJson: String? = null,
)

/** A file that the app brings, as a guard of the gate. */
public data class GuardFile(
    /** The file. It is read before anything is learned, and again when a candidate is judged. */
    val path: File,
    /** By how much the share may worsen, in [0, 1]: 0.02 is two points. */
    val tolerated: Double,
)

/** What the lines of a file of feedback hold. */
public enum class FeedbackFormat {
    /** TRL's preference form: `prompt`, `chosen`, `rejected`. */
    PREFERENCE,

    /** TRL's unpaired form: `prompt`, `completion`, `label`. */
    UNPAIRED,

    /** Rankings: `prompt`, `ranked`, the best answer first. */
    RANKING,

    /** ShareGPT's conversations. */
    SHARE_GPT,

    /** Transcripts as in HH-RLHF. */
    HH_RLHF,

    /** Rated completions as in UltraFeedback. */
    ULTRA_FEEDBACK,

    /** Ranked answers as in Nectar. */
    NECTAR,

    /** Trees as in OASST. */
    OASST,
}

/** What an import passes over. By default nothing. */
public data class ImportFilters(
    /** Rows whose answer has fewer characters. Here and below, of several answers the liked or best one. */
    val minChars: Int? = null,
    /** Rows whose prompt and longest answer have more characters. */
    val maxChars: Int? = null,
    /** Rows whose answer begins as refusals do (English phrases). */
    val refusals: Boolean = false,
    /** Rows whose answer has a phrase that assistants put into any answer (English phrases). */
    val boilerplate: Boolean = false,
    /** Rows whose answer matches one of these regular expressions, in the syntax of the Rust crate regex-lite. */
    val patterns: List<String> = emptyList(),
    /** Rows that differ from an earlier one in case, spaces and punctuation at most. */
    val duplicates: Boolean = false,
    /** Rows that have this share, in (0, 1], of runs of four letters in common with an earlier one; estimated, within 0.04. */
    val nearDuplicates: Double? = null,
)

/** What to forget. (`Target` alone is Kotlin's own.) */
public sealed interface ForgetTarget {
    /** An event and the reply that it was given on. */
    public data class Feedback(
        /** The event. */
        val id: FeedbackId,
    ) : ForgetTarget

    /** A reply and all feedback on it. */
    public data class Reply(
        /** The reply. */
        val id: ReplyId,
    ) : ForgetTarget

    /** A conversation, with every branch of it. */
    public data class Conversation(
        /** The conversation. */
        val id: ConversationId,
    ) : ForgetTarget

    /** All that anybody ever said here. Models and settings stay. */
    public data object Everything : ForgetTarget
}
