package dev.thumbprint

import java.time.Instant

/** Where an adapter stands. */
public enum class AdapterState {
    /** Trained, taken from a file or made of others, and not judged. */
    CANDIDATE,

    /** Failed the checks after training; kept for the record, never used. */
    REJECTED,

    /** Passed the checks: may be in use, unconfirmed. */
    TRIAL,

    /** Confirmed by blind votes. */
    PROMOTED,

    /** Withdrawn by votes, by a newer adapter or by the person. */
    ROLLED_BACK,

    /** Had seen something that was forgotten since; its file is gone. */
    FORGOTTEN,
}

/** An adapter with everything that was decided about it. */
public data class AdapterDetails(
    /** Its id. */
    val id: AdapterId,
    /** Where it stands. */
    val state: AdapterState,
    /** The state in a sentence for people. */
    val explanation: String,
    /** Whether replies are generated with it now. */
    val active: Boolean,
    /** The scale it is served at. */
    val scale: Float,
    /** SHA-256 of the base model that it was made for, in hex. */
    val baseHash: String,
    /** The run that made it. */
    val run: RunId?,
    /** Its file, relative to the data folder. */
    val file: String,
    /** SHA-256 of the file, in hex. */
    val fileHash: String,
    /** Seed of the run. */
    val seed: Long,
    /** When it was made. */
    val createdAt: Instant,
    /** The resolved configuration, as JSON. */
    val configJson: String,
    /** The rest of the manifest, as JSON; `null` (the JSON value) once forgotten. */
    val manifestJson: String,
    /** Decisions about it, the first one first. */
    val decisions: List<AdapterDecision>,
    /** Where the votes stand, if it was ever on trial. */
    val verdict: Verdict?,
)

/** What an adapter is written as. */
public enum class AdapterFormat {
    /** One file, a stock GGUF LoRA that llama.cpp loads. */
    GGUF,

    /** A folder as PEFT's `save_pretrained` writes it, which transformers loads. */
    PEFT,
}

/** How much of an adapter goes into a sum. */
public data class AdapterPart(
    /** The adapter, as it is served: at its scale. */
    val adapter: AdapterId,
    /** Finite; below 0 takes it away. */
    val weight: Float,
)

/** What a merge came to. */
public data class Merged(
    /** Matrices that the adapter changed. */
    val changed: Long,
    /** Matrices that were not brought to the type that was asked for, since they are not quantized by anyone: routers of experts. */
    val left: List<String>,
)

/** One decision about an adapter. */
public data class AdapterDecision(
    /** When it was made. */
    val at: Instant,
    /** What kind: "offline: trial", "votes: promoted", "by hand: rolled_back". */
    val kind: String,
    /** The same for people, where there is a sentence. */
    val explanation: String?,
    /** The numbers that made it, as JSON. */
    val numbersJson: String,
)

/** What the votes say. */
public enum class Decision {
    /** Nothing changes. */
    STAY,

    /** The adapter on trial is confirmed. */
    PROMOTE,

    /** Back to what was active before. */
    ROLL_BACK,
}

/** A decision over votes, with its numbers. */
public data class Verdict(
    /** The decision. */
    val decision: Decision,
    /** Votes for the adapter. */
    val wins: Long,
    /** Votes for the base. */
    val losses: Long,
    /** Votes for neither. */
    val ties: Long,
    /** Evidence for the adapter; 1 at the start. */
    val evidence: Double,
    /** Evidence against it; 1 at the start. */
    val evidenceAgainst: Double,
    /** [evidence] at which it is promoted. */
    val promoteAt: Double,
    /** [evidenceAgainst] at which it is rolled back. */
    val rollBackAt: Double,
    /** Whether a newer candidate may take its place now. */
    val replaceable: Boolean,
    /** All of it in plain sentences. */
    val explanation: String,
)

/** How a blind vote went, from the adapter's side. */
public enum class VoteOutcome {
    /** The adapter's reply was picked. */
    WIN,

    /** The base's reply was picked. */
    LOSS,

    /** Neither. */
    TIE,
}

/** A blind vote between a reply under an adapter and one without. */
public data class Vote(
    /** The adapter on trial. */
    val adapter: AdapterId,
    /** How it went. */
    val outcome: VoteOutcome,
    /** Whether the adapter's reply was shown first; draw sides at random. */
    val candidateFirst: Boolean,
    /** The adapter's reply, if replies were recorded. */
    val candidateReply: ReplyId? = null,
    /** The base's reply, if replies were recorded. */
    val baselineReply: ReplyId? = null,
)
