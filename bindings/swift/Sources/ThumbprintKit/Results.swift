import Foundation

/// Why a generation ended.
public enum StopReason: String, Hashable, Sendable {
    /// The model ended its turn.
    case endOfTurn
    /// One of the strings given by the app appeared.
    case stopString
    /// The limit on tokens was reached.
    case maxTokens
    /// The context was full.
    case contextFull
    /// The app cancelled.
    case cancelled
}

/// What one generation consumed.
public struct Usage: Hashable, Sendable {
    /// Tokens of the prompt, reused ones included.
    public let promptTokens: Int
    /// Tokens of the prompt that were computed before and not again.
    public let reusedTokens: Int
    /// Tokens generated.
    public let completionTokens: Int
    /// Milliseconds until the first token.
    public let firstTokenMs: Float
    /// Milliseconds from the first token to the last.
    public let decodeMs: Float
}

/// How tokens were drawn; see `GenerationOptions`.
public struct Sampling: Hashable, Sendable {
    public let temperature: Float
    public let topK: Int
    public let topP: Float
    public let minP: Float
    public let repetitionPenalty: Float
    public let repetitionWindow: Int
    public let seed: UInt64
}

/// A complete reply, recorded.
public struct Reply: Hashable, Sendable, Identifiable {
    /// What feedback refers to.
    public let id: ReplyID
    /// Its text.
    public let text: String
    /// Why it ended.
    public let stopReason: StopReason
    /// Token counts and times.
    public let usage: Usage
    /// Tokens per second after the first one; 0 if there was only one.
    public let tokensPerSecond: Float
    /// How its tokens were chosen, the seed included.
    public let sampling: Sampling
    /// The adapter that it was generated under; `nil` for the base model.
    public let adapter: AdapterID?
    /// Messages that did not fit the context and were left out.
    public let droppedMessages: Int
    /// How it was chosen, if several were drawn.
    public let bestOf: BestOf?
}

/// A stored chat, without its turns.
public struct SessionInfo: Hashable, Sendable, Identifiable {
    /// Its id, to open it.
    public let id: SessionID
    /// Its title, if it was given one.
    public let title: String?
    /// Its last turn; `nil` before the first.
    public let head: MessageID?
    /// When it was begun.
    public let createdAt: Date
    /// When its last turn was said.
    public let updatedAt: Date
}

/// One turn of a stored chat.
public struct StoredMessage: Hashable, Sendable, Identifiable {
    /// Its id.
    public let id: MessageID
    /// The turn before it.
    public let parent: MessageID?
    /// Who speaks, and what is said.
    public let message: Message
    /// The reply recorded for it, for turns of the assistant.
    public let reply: ReplyID?
    /// When it was said.
    public let createdAt: Date
}

/// How much was said. An edit, a pick or a ranking is one event, and counts as one of each class.
public struct Tally: Hashable, Sendable {
    /// Thumbs, edits, picks and rankings.
    public let events: Int
    /// 👍, edits, picks and rankings.
    public let liked: Int
    /// 👎, edits, picks and rankings.
    public let disliked: Int
}

/// Whether there is enough to learn from.
public struct Readiness: Hashable, Sendable {
    /// Whether all that is needed is there.
    public let isReady: Bool
    /// What was said.
    public let have: Tally
    /// What is needed.
    public let need: Tally
    /// Examples that it makes.
    public let examples: Int
}

/// What a job is doing.
public enum Phase: String, Hashable, Sendable {
    /// Reads the log and makes examples of it.
    case curate
    /// The base answers neutral prompts, to be kept as it is there.
    case replay
    /// The base scores the examples.
    case reference
    /// Trains on one half, to rank the other.
    case fold
    /// Trains on everything.
    case train
    /// Answers prompts of the feedback again, and trains on what its own reward prefers (see `Budget.onlineRounds`).
    case online
    /// Measures whether the candidate harms.
    case gate
    /// Over.
    case done
}

/// How far a job is.
public struct JobProgress: Hashable, Sendable {
    /// What it is doing.
    public let phase: Phase
    /// Part of the phase that is done.
    public let step: Int
    /// Parts of the phase.
    public let total: Int
    /// Loss of the last training step, in nats.
    public let loss: Double?
    /// Mean difference of rewards between chosen and rejected in the last training step.
    public let margin: Double?
    /// Seconds until the end, estimated; `nil` before there is anything to go by.
    public let etaSeconds: Double?

    /// For previews and tests of an app's.
    public init(
        phase: Phase, step: Int, total: Int, loss: Double? = nil, margin: Double? = nil, etaSeconds: Double? = nil
    ) {
        self.phase = phase
        self.step = step
        self.total = total
        self.loss = loss
        self.margin = margin
        self.etaSeconds = etaSeconds
    }
}

/// One check with its numbers.
public struct GuardResult: Hashable, Sendable {
    /// What was checked: "neutral_perplexity", "kl_neutral".
    public let name: String
    /// What was measured; not a number where it could not be.
    public let value: Double
    /// Lowest allowed value.
    public let atLeast: Double?
    /// Highest allowed value.
    public let atMost: Double?
    /// Whether the value lay there.
    public let passed: Bool
    /// The same for people.
    public let sentence: String
}

/// The guards at one scale.
public struct ScaleReport: Hashable, Sendable {
    /// Factor on the adapter's strength.
    public let scale: Double
    /// Whether a trial may use it.
    public let allowed: Bool
    /// One result a guard.
    public let guards: [GuardResult]
}

/// What the gate decided about a candidate, and every number it rests on.
public struct OfflineReport: Hashable, Sendable {
    /// Factor on the adapter's strength in its trial; `nil` where it was rejected.
    public let scale: Double?
    /// Why it was rejected, one sentence for each check that failed.
    public let reasons: [String]
    /// Feedback events that it was trained on.
    public let thumbs: Int
    /// Whether it ranks unseen feedback right.
    public let heldOut: GuardResult
    /// Guards at each scale measured, largest first.
    public let scales: [ScaleReport]
    /// The decision in plain sentences.
    public let explanation: String
}

/// How a job ended, or why it rests.
public enum Outcome: Hashable, Sendable {
    /// A new adapter is in use, unconfirmed until blind votes decide.
    case trial(adapter: AdapterID, report: OfflineReport)
    /// A new adapter failed the gate; what was in use before still is.
    case rejected(adapter: AdapterID, report: OfflineReport)
    /// The adapter in use is still on trial and must not change before its votes are in (see `Budget.replaceTrial`).
    case trialRunning(adapter: AdapterID)
    /// The log does not say enough yet, with what there is and what is needed. Where that is met, it tells replies apart no better than
    /// chance does.
    case nothingToLearn(Readiness)
    /// The job rests: asked for, or out of time. `personalize` or `resume` goes on.
    case paused
    /// The job was given up.
    case cancelled
}

/// Where an adapter stands.
public enum AdapterState: String, Hashable, Sendable {
    /// Trained, taken from a file or made of others, and not judged.
    case candidate
    /// Failed the checks after training; kept for the record, never used.
    case rejected
    /// Passed the checks: may be in use, unconfirmed.
    case trial
    /// Confirmed by blind votes.
    case promoted
    /// Withdrawn by votes, by a newer adapter or by the person.
    case rolledBack
    /// Had seen something that was forgotten since; its file is gone.
    case forgotten
}

/// How a blind vote went, from the adapter's side.
public enum VoteOutcome: Hashable, Sendable {
    /// The adapter's reply was picked.
    case win
    /// The base's reply was picked.
    case loss
    /// Neither.
    case tie
}

/// A blind vote between a reply under an adapter and one without.
public struct Vote: Hashable, Sendable {
    /// The adapter on trial.
    public var adapter: AdapterID
    /// How it went.
    public var outcome: VoteOutcome
    /// Whether the adapter's reply was shown first; draw sides at random.
    public var candidateFirst: Bool
    /// The adapter's reply, if replies were recorded.
    public var candidateReply: ReplyID?
    /// The base's reply, if replies were recorded.
    public var baselineReply: ReplyID?

    public init(
        adapter: AdapterID, outcome: VoteOutcome, candidateFirst: Bool, candidateReply: ReplyID? = nil, baselineReply: ReplyID? = nil
    ) {
        self.adapter = adapter
        self.outcome = outcome
        self.candidateFirst = candidateFirst
        self.candidateReply = candidateReply
        self.baselineReply = baselineReply
    }
}

/// What the votes say.
public enum Decision: Hashable, Sendable {
    /// Nothing changes.
    case stay
    /// The adapter on trial is confirmed.
    case promote
    /// Back to what was active before.
    case rollBack
}

/// A decision over votes, with its numbers.
public struct Verdict: Hashable, Sendable {
    /// The decision.
    public let decision: Decision
    /// Votes for the adapter.
    public let wins: Int
    /// Votes for the base.
    public let losses: Int
    /// Votes for neither.
    public let ties: Int
    /// Evidence for the adapter; 1 at the start.
    public let evidence: Double
    /// Evidence against it; 1 at the start.
    public let evidenceAgainst: Double
    /// `evidence` at which it is promoted.
    public let promoteAt: Double
    /// `evidenceAgainst` at which it is rolled back.
    public let rollBackAt: Double
    /// Whether a newer candidate may take its place now.
    public let replaceable: Bool
    /// All of it in plain sentences.
    public let explanation: String
}

/// One decision about an adapter.
public struct AdapterDecision: Hashable, Sendable {
    /// When it was made.
    public let at: Date
    /// What kind: "offline: trial", "votes: promoted", "by hand: rolled_back".
    public let kind: String
    /// The same for people, where there is a sentence.
    public let explanation: String?
    /// The numbers that made it, as JSON.
    public let numbersJSON: String
}

/// An adapter with everything that was decided about it.
public struct AdapterDetails: Hashable, Sendable, Identifiable {
    /// Its id.
    public let id: AdapterID
    /// Where it stands.
    public let state: AdapterState
    /// The state in a sentence for people.
    public let explanation: String
    /// Whether replies are generated with it now.
    public let active: Bool
    /// The scale it is served at.
    public let scale: Float
    /// SHA-256 of the base model that it was made for.
    public let baseHash: String
    /// The run that made it.
    public let run: RunID?
    /// Its file, relative to the data folder.
    public let file: String
    /// SHA-256 of the file.
    public let fileHash: String
    /// Seed of the run.
    public let seed: UInt64
    /// When it was made.
    public let createdAt: Date
    /// The resolved configuration, as JSON.
    public let configJSON: String
    /// The rest of the manifest, as JSON; `null` once forgotten.
    public let manifestJSON: String
    /// Decisions about it, the first one first.
    public let decisions: [AdapterDecision]
    /// Where the votes stand, if it was ever on trial.
    public let verdict: Verdict?
}

/// What a merge came to.
public struct Merged: Hashable, Sendable {
    /// Matrices that the adapter changed.
    public let changed: Int
    /// Matrices that were not brought to the type that was asked for, since they are not quantized by anyone: routers of experts.
    public let left: [String]
}

/// What was forgotten.
public struct Forgotten: Hashable, Sendable {
    /// Events erased, withdrawals included.
    public let feedback: [FeedbackID]
    /// Replies erased, later ones that quoted the item included.
    public let replies: [ReplyID]
    /// Turns of chats erased.
    public let messages: Int
    /// Votes erased, and side-by-sides.
    public let votes: Int
    /// SHA-256 of base models whose reward head was fitted on an erased event: it is gone.
    public let heads: [String]
    /// Adapters that had seen an erased event: never to be served again.
    public let adapters: [AdapterID]
    /// Runs that had seen one: never to be continued.
    public let runs: [RunID]
    /// Base models whose active adapter was among them, with what they are served with from now on.
    public let served: [Served]
}

/// What a base model is served with.
public struct Served: Hashable, Sendable {
    /// SHA-256 of the base model.
    public let baseHash: String
    /// The adapter; `nil` for the base alone.
    public let adapter: AdapterID?
}

/// What an export came to.
public struct Exported: Hashable, Sendable {
    /// Lines written.
    public let lines: Int
    /// Events in effect that the format has no form for.
    public let leftOut: Int
}

/// What an import came to.
public struct Imported: Hashable, Sendable {
    /// Lines read.
    public let rows: Int
    /// Events of feedback recorded.
    public let recorded: Int
    /// Events that were in the log already.
    public let known: Int
    /// What was passed over, and how often: "tie", "too_long".
    public let passed: [String: Int]
}

/// What opening a folder found.
public struct OpenReport: Hashable, Sendable {
    /// There was no database; an empty one was created.
    public let created: Bool
    /// The folder was open in this process already; this is the same instance.
    public let alreadyOpen: Bool
    /// The database was brought here from this older version.
    public let migratedFrom: Int?
    /// The database was damaged. It lies here now, untouched, and an empty one took its place.
    public let movedAside: URL?
}

/// Facts of the loaded model.
public struct ModelInfo: Hashable, Sendable {
    /// The model's file.
    public let modelPath: String
    /// Architecture, size and quantization in words.
    public let description: String
    /// `general.architecture`.
    public let architecture: String
    /// Tokens that a conversation can have, its reply included.
    public let nCtx: Int
    /// Tokens that the model was trained for.
    public let nCtxTrain: Int
    /// Tokens in the vocabulary.
    public let nVocab: Int
    /// Compute threads.
    public let nThreads: Int
    /// Layers on a GPU.
    public let nGpuLayers: Int?
    /// SHA-256 of the chat template.
    public let templateHash: String
    /// What was asked for or expected and is not so, to be shown: a CPU fallback, a missing chat template.
    public let warnings: [String]
}

/// What generation takes, in bytes.
public struct InferenceMemory: Hashable, Sendable {
    /// The mapped model.
    public let weights: UInt64
    /// Keys and values of a whole context.
    public let cache: UInt64
    /// What is computed with.
    public let compute: UInt64
    /// All of it.
    public var total: UInt64 { weights + cache + compute }
}

/// What training takes, in bytes.
public struct TrainingMemory: Hashable, Sendable {
    /// Without a budget.
    public let fullSpeed: UInt64
    /// The smallest budget that works.
    public let least: UInt64
}

/// Bytes of resident memory, on the CPU.
public struct MemoryEstimate: Hashable, Sendable {
    /// To generate.
    public let inference: InferenceMemory
    /// To learn beside that; `nil` where the model cannot be trained.
    public let training: TrainingMemory?
}

/// One device that computes.
public struct Device: Hashable, Sendable {
    /// The backend's name for it.
    public let name: String
    /// The vendor's description.
    public let description: String
    /// What kind of processor it is.
    public let kind: Kind
    /// Bytes free now; 0 where unknown.
    public let freeBytes: UInt64
    /// Bytes in all; 0 where unknown.
    public let totalBytes: UInt64

    /// What kind of processor a device is.
    public enum Kind: String, Hashable, Sendable {
        /// The host's CPU.
        case cpu
        /// A GPU with memory of its own.
        case gpu
        /// A GPU that shares the host's memory.
        case integratedGpu
        /// A CPU-side accelerator.
        case accelerator
    }
}

/// What computes here, and what can be learned on.
public struct Machine: Hashable, Sendable {
    /// Version of the library.
    public let version: String
    /// How ggml was built, in its own words.
    public let ggml: String
    /// What the linked backends can compute on.
    public let devices: [Device]
    /// Instruction sets that the CPU backend was compiled for and found.
    public let cpuFeatures: [String]
    /// Processors that this process may use.
    public let processors: Int
    /// Whether databases can be encrypted.
    public let encrypts: Bool
    /// `general.architecture` of models that can be trained.
    public let trainableArchitectures: [String]
    /// Types of matrices that can be trained on.
    public let trainableTypes: [String]
}

/// One line of the library's log. It never holds what a person wrote.
public struct LogRecord: Hashable, Sendable {
    /// How important it is.
    public let level: Level
    /// The part of the library that logs.
    public let target: String
    /// What is to be said, and its numbers.
    public let text: String

    /// How important a record is.
    public enum Level: String, Hashable, Sendable {
        /// Something failed.
        case error
        /// Something is not as it should be.
        case warn
        /// Something happened.
        case info
        /// For people who look into it.
        case debug
    }
}
