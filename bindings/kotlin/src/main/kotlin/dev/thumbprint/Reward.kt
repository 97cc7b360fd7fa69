package dev.thumbprint

/** Who tells how good a reply is. */
public sealed interface Judge {
    /** The active adapter: its own reward over the base. */
    public data object Active : Judge

    /** The same of another adapter, at the scale that it is served at. */
    public data class Adapter(
        /** The adapter. */
        val id: AdapterId,
    ) : Judge

    /** The head that was fitted on the person's feedback, see [Thumbprint.fitHead]. */
    public data object Head : Judge
}

/** How a reply was chosen among several. */
public data class BestOf(
    /** Who chose. */
    val judge: Judge,
    /** Which one it is, from 0; its seed is the request's plus this. */
    val chosen: Int,
    /**
     * The score of each, higher is better. Empty if the generation was cancelled before they were scored: then the first that is complete
     * was taken.
     */
    val scores: List<Double>,
)

/** What a reply is worth. */
public data class Score(
    /**
     * Higher is better. Of an adapter: [beta] times the sum of its log-probabilities over the base's, nats; 0 for an adapter that changes
     * nothing. Of a head: log-odds of a 👍.
     */
    val reward: Double,
    /** The reward of each token, of which [reward] is the sum. Of a head: nothing. */
    val perToken: List<Double>,
    /** The reply's tokens, the end token included if it was finished. */
    val tokens: List<Int>,
    /** Natural log-probability of the reply under the adapter, nats. */
    val logp: Double?,
    /** The same under the base. */
    val referenceLogp: Double?,
    /** The adapter's beta. */
    val beta: Double?,
)

/** From one number to another. */
public data class Interval(
    /** The lower end. */
    val low: Double,
    /** The upper end. */
    val high: Double,
)

/** A reward head that was fitted. Its weights stay inside, where the hidden states are. */
public data class Head(
    /** SHA-256 of the base whose states it reads, in hex. */
    val baseSha256: String,
    /** Hash of the chat template that prompts were rendered with. */
    val templateHash: String,
    /** Log-odds of a 👍 at the mean. */
    val bias: Double,
    /** The ridge. */
    val l2: Double,
    /** Pairs that it was fitted on. */
    val pairs: Long,
    /** Single judgements that it was fitted on. */
    val singles: Long,
    /** How well it does on prompts that it has not seen; `null` with feedback on too few prompts. */
    val crossValidated: CrossValidated?,
)

/** How well heads that had not seen a prompt's judgements agreed with them. */
public data class CrossValidated(
    /** Judgements agreed with: the better one higher, a 👍 over even odds, a 👎 under them. */
    val right: Long,
    /** Judgements asked. */
    val of: Long,
    /** [right] / [of]. */
    val accuracy: Double,
    /** Its 95 % Wilson interval. */
    val interval: Interval,
)
