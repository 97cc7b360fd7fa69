package dev.thumbprint

/** How much was said. An edit, a pick or a ranking is one event, and counts as one of each class. */
public data class Tally(
    /** Thumbs, edits, picks and rankings. */
    val events: Long,
    /** 👍, edits, picks and rankings. */
    val liked: Long,
    /** 👎, edits, picks and rankings. */
    val disliked: Long,
)

/** Whether there is enough to learn from. */
public data class Readiness(
    /** Whether all that is needed is there. */
    val isReady: Boolean,
    /** What was said. */
    val have: Tally,
    /** What is needed. */
    val need: Tally,
    /** Examples that it makes. */
    val examples: Long,
)

/** What a job is doing. */
public enum class Phase {
    /** Reads the log and makes examples of it. */
    CURATE,

    /** The base answers neutral prompts, to be kept as it is there. */
    REPLAY,

    /** The base scores the examples. */
    REFERENCE,

    /** Trains on one half, to rank the other. */
    FOLD,

    /** Trains on everything. */
    TRAIN,

    /** Answers prompts of the feedback again, and trains on what its own reward prefers (see [Budget.onlineRounds]). */
    ONLINE,

    /** Measures whether the candidate harms. */
    GATE,

    /** Over. */
    DONE,
}

/** How far a job is. */
public data class Progress(
    /** What it is doing. */
    val phase: Phase,
    /** Part of the phase that is done, 0 to [total]. */
    val step: Long,
    /** Parts of the phase. */
    val total: Long,
    /** Loss of the last training step, nats. */
    val loss: Double?,
    /** Mean difference of rewards between chosen and rejected in the last training step. */
    val margin: Double?,
    /** Seconds until the end, estimated; `null` before there is anything to go by. */
    val etaSeconds: Double?,
)

/** How a job ended, or why it rests. */
public sealed interface Outcome {
    /** A new adapter is in use, unconfirmed until blind votes decide. */
    public data class Trial(
        /** The adapter. */
        val adapter: AdapterId,
        /** What the gate measured. */
        val report: OfflineReport,
    ) : Outcome

    /** A new adapter failed the gate; what was in use before still is. */
    public data class Rejected(
        /** The adapter. */
        val adapter: AdapterId,
        /** What the gate measured. */
        val report: OfflineReport,
    ) : Outcome

    /** The adapter in use is still on trial and must not change before its votes are in (see [Budget.replaceTrial]). */
    public data class TrialRunning(
        /** The adapter on trial. */
        val adapter: AdapterId,
    ) : Outcome

    /** The log does not say enough yet: there is too little of it, or, where [readiness] is met, it tells replies apart no better than chance does. */
    public data class NothingToLearn(
        /** What there is and what is needed. */
        val readiness: Readiness,
    ) : Outcome

    /** The job rests: asked for, or out of time. [Thumbprint.personalize] or [PersonalizeJob.resume] goes on. */
    public data object Paused : Outcome

    /** Given up. */
    public data object Cancelled : Outcome
}

/** What the gate decided about a candidate, and every number it rests on. */
public data class OfflineReport(
    /** Factor on the adapter's strength in its trial; `null` where it was rejected. */
    val scale: Double?,
    /** Why it was rejected, one sentence for each check that failed. */
    val reasons: List<String>,
    /** Feedback events that it was trained on. */
    val thumbs: Long,
    /** Whether it ranks unseen feedback right. */
    val heldOut: GuardResult,
    /** Guards at each scale measured, largest first. */
    val scales: List<ScaleReport>,
    /** The decision in plain sentences. */
    val explanation: String,
)

/** The guards at one scale. */
public data class ScaleReport(
    /** Factor on the adapter's strength. */
    val scale: Double,
    /** Whether a trial may use it. */
    val allowed: Boolean,
    /** One result a guard. */
    val guards: List<GuardResult>,
)

/** One check with its numbers. */
public data class GuardResult(
    /** What was checked: "neutral_perplexity", "kl_neutral". */
    val name: String,
    /** What was measured; not a number where it could not be. */
    val value: Double,
    /** Lowest allowed value. */
    val atLeast: Double?,
    /** Highest allowed value. */
    val atMost: Double?,
    /** Whether the value lay there. */
    val passed: Boolean,
    /** The same for people. */
    val sentence: String,
)

/** What was forgotten. */
public data class Forgotten(
    /** Events erased, withdrawals included. */
    val feedback: List<FeedbackId>,
    /** Replies erased, later ones that quoted the item included. */
    val replies: List<ReplyId>,
    /** Turns of conversations erased. */
    val messages: Long,
    /** Votes erased, and side-by-sides. */
    val votes: Long,
    /** SHA-256 of base models whose reward head was fitted on an erased event: it is gone. */
    val heads: List<String>,
    /** Adapters that had seen an erased event: never to be served again. */
    val adapters: List<AdapterId>,
    /** Runs that had seen one: never to be continued. */
    val runs: List<RunId>,
    /** Base models whose active adapter was among them, with what they are served with from now on. */
    val served: List<Served>,
)

/** What a base model is served with. */
public data class Served(
    /** SHA-256 of the base model, in hex. */
    val baseHash: String,
    /** The adapter; `null` for the base alone. */
    val adapter: AdapterId?,
)

/** What an export came to. */
public data class Exported(
    /** Lines written. */
    val lines: Long,
    /** Events in effect that the format has no form for. */
    val leftOut: Long,
)

/** What an import came to. */
public data class Imported(
    /** Lines read. */
    val rows: Long,
    /** Events of feedback recorded. */
    val recorded: Long,
    /** Events that were in the log already. */
    val known: Long,
    /** What was passed over, and how often: "tie", "too_long". */
    val passed: Map<String, Long>,
)
