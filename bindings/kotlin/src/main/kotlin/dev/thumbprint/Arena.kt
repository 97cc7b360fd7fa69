package dev.thumbprint

/** Who is compared in a blind side-by-side, and how they answer. `null` is the base model alone. */
public data class Contest(
    /** One of the two, at the scale that it is served at. */
    val a: AdapterId?,
    /** The other one. */
    val b: AdapterId?,
    /** How both answer, seed included: from the same model the same reply would come twice. */
    val options: GenerateOptions = GenerateOptions(),
    /** Draws the sides; by default another one each time. All 64 bits count. */
    val seed: Long? = null,
)

/** Two replies side by side. It does not tell who wrote which. */
public data class Match(
    /** What the vote refers to. */
    val id: MatchId,
    /** What was answered. */
    val prompt: List<Message>,
    /** The reply on the left. */
    val left: Side,
    /** The reply on the right. */
    val right: Side,
    /** The vote, once there is one. */
    val choice: Choice?,
)

/** One side of a match. */
public data class Side(
    /** What feedback refers to: a vote is none, and teaches nothing by itself. */
    val reply: ReplyId,
    /** The reply's text. */
    val text: String,
    /** Why it ended. */
    val stopReason: StopReason?,
)

/** A vote on a side-by-side. */
public enum class Choice {
    /** The reply on the left is better. */
    LEFT,

    /** The reply on the right is better. */
    RIGHT,

    /** Both are as good. */
    TIE,

    /** Neither is any good. Counts as a tie, and is counted apart. */
    BOTH_BAD,
}

/** What a vote came to. `null` is the base. */
public data class Voted(
    /** Who was on the left. */
    val left: AdapterId?,
    /** Who was on the right. */
    val right: AdapterId?,
    /** Where the trial stands, if the match was between the base and an adapter on trial or promoted: then the vote counts there, too. */
    val verdict: Verdict?,
)

/** What all votes on side-by-sides come to. */
public data class ArenaResults(
    /** Votes. */
    val votes: Long,
    /** Every two that met, adapters before the base. */
    val pairs: List<PairResult>,
    /** With three contestants or more, the strongest first; else empty. */
    val strengths: List<Strength>,
    /** Whether every contestant met every other one, or others who did: only then can strengths be compared. */
    val connected: Boolean,
)

/** How two contestants compare. `null` is the base. */
public data class PairResult(
    /** One of them. */
    val a: AdapterId?,
    /** The other one. */
    val b: AdapterId?,
    /** Votes, all kinds together. */
    val votes: Long,
    /** Votes for [a]. */
    val wins: Long,
    /** Votes for [b]. */
    val losses: Long,
    /** Votes for both. */
    val ties: Long,
    /** Votes for neither. */
    val bothBad: Long,
    /** Share of votes for [a], with ties and votes for neither half. */
    val winRate: Double,
    /** Its 95 % Wilson interval. */
    val interval: Interval,
    /** The win rate of [a] at equal length. Read it beside [winRate], never instead of it. */
    val lengthControlledWinRate: Double?,
    /** By how many tokens replies of [a] are longer on average. */
    val meanLengthDifference: Double,
)

/** How strong a contestant is. */
public data class Strength(
    /** Who; `null` is the base. */
    val contestant: AdapterId?,
    /** Votes that it took part in. */
    val votes: Long,
    /** Log-odds of beating a contestant of strength 0; the strengths of all sum up to 0. */
    val strength: Double,
    /** 95 % of resamples lie in here. */
    val interval: Interval,
)
