import Foundation

/// Who speaks in a message.
public enum Role: String, Hashable, Sendable, Codable {
    /// Instructions of the app.
    case system
    /// The person.
    case user
    /// The model.
    case assistant
}

/// One turn of a chat.
public struct Message: Hashable, Sendable, Codable {
    /// Who speaks.
    public var role: Role
    /// What is said, without any template markup.
    public var content: String

    public init(role: Role, content: String) {
        self.role = role
        self.content = content
    }

    /// Instructions of the app.
    public static func system(_ content: String) -> Message { Message(role: .system, content: content) }
    /// Something the person says.
    public static func user(_ content: String) -> Message { Message(role: .user, content: content) }
    /// Something the model said.
    public static func assistant(_ content: String) -> Message { Message(role: .assistant, content: content) }
}

/// How a model is loaded and run. `nil` takes the library's default.
public struct EngineOptions: Hashable, Sendable {
    /// Tokens that a conversation can have, its reply included; by default what the model was trained for, at most 4096.
    public var nCtx: Int?
    /// Tokens of a prompt that are computed at once.
    public var nBatch: Int?
    /// Compute threads; by default one for each processor, at most 8.
    public var nThreads: Int?
    /// Layers on a GPU; by default all that fit. iOS ends a process that computes on the GPU in the background.
    public var nGpuLayers: Int?
    /// Whether the model's file is mapped instead of read.
    public var useMmap: Bool?
    /// Whether weights are rearranged for faster products, which keeps a second copy of them in memory.
    public var repack: Bool?
    /// Whether attention is computed by the fused kernel.
    public var flashAttention: FlashAttention?
    /// Element type of the key-value cache.
    public var kvType: KVType?

    public init(
        nCtx: Int? = nil, nBatch: Int? = nil, nThreads: Int? = nil, nGpuLayers: Int? = nil, useMmap: Bool? = nil, repack: Bool? = nil,
        flashAttention: FlashAttention? = nil, kvType: KVType? = nil
    ) {
        self.nCtx = nCtx
        self.nBatch = nBatch
        self.nThreads = nThreads
        self.nGpuLayers = nGpuLayers
        self.useMmap = useMmap
        self.repack = repack
        self.flashAttention = flashAttention
        self.kvType = kvType
    }

    /// Whether attention is computed by the fused kernel.
    public enum FlashAttention: Hashable, Sendable {
        /// Where the device has the kernel.
        case auto
        /// Never, for comparing numbers with another implementation.
        case off
    }

    /// Element type of the key-value cache.
    public enum KVType: Hashable, Sendable {
        /// Half precision.
        case f16
        /// Single precision, for comparing numbers with another implementation.
        case f32
    }
}

/// Length, sampling and stop conditions of a reply. `nil` takes the library's default.
public struct GenerationOptions: Hashable, Sendable {
    /// Divides the logits; 0 takes the likeliest token.
    public var temperature: Double?
    /// Tokens to generate at most, 1 or more.
    public var maximumResponseTokens: Int?
    /// Draw from the k likeliest tokens; 0: from all.
    public var topK: Int?
    /// Draw from the smallest set of tokens with this much probability, in (0, 1].
    public var topP: Double?
    /// Leave out tokens less likely than this share of the likeliest, in [0, 1).
    public var minP: Double?
    /// Divides the logits of recent tokens; 1 is off.
    public var repetitionPenalty: Double?
    /// How many recent tokens the penalty looks at.
    public var repetitionWindow: Int?
    /// Seed of the draw: the same gives the same reply; by default another one each time.
    public var seed: UInt64?
    /// Strings that end the reply; they are not part of its text.
    public var stop: [String]
    /// What to do when the conversation is longer than the context.
    public var overflow: Overflow?
    /// Replies to draw side by side, 1 to 64, of which the best is recorded and comes in one piece. The i-th has the seed plus i.
    public var bestOf: Int?
    /// Who says which is the best; by default the active adapter.
    public var judge: Judge?

    /// `sampling` is FoundationModels' form of `topK`, `topP` and `seed`, over which these win, or of a temperature of 0, which wins.
    public init(
        sampling: SamplingMode? = nil, temperature: Double? = nil, maximumResponseTokens: Int? = nil, topK: Int? = nil,
        topP: Double? = nil, minP: Double? = nil, repetitionPenalty: Double? = nil, repetitionWindow: Int? = nil, seed: UInt64? = nil,
        stop: [String] = [], overflow: Overflow? = nil, bestOf: Int? = nil, judge: Judge? = nil
    ) {
        self.temperature = sampling == .greedy ? 0 : temperature
        self.maximumResponseTokens = maximumResponseTokens
        self.topK = topK ?? sampling?.topK
        self.topP = topP ?? sampling?.topP
        self.minP = minP
        self.repetitionPenalty = repetitionPenalty
        self.repetitionWindow = repetitionWindow
        self.seed = seed ?? sampling?.seed
        self.stop = stop
        self.overflow = overflow
        self.bestOf = bestOf
        self.judge = judge
    }

    /// How tokens are drawn.
    public struct SamplingMode: Hashable, Sendable {
        fileprivate var topK: Int?
        fileprivate var topP: Double?
        fileprivate var seed: UInt64?

        /// The likeliest token.
        public static let greedy = SamplingMode()

        /// From the `top` likeliest tokens.
        public static func random(top: Int, seed: UInt64? = nil) -> SamplingMode {
            SamplingMode(topK: top, seed: seed)
        }

        /// From the smallest set of tokens with this much probability, in (0, 1].
        public static func random(probabilityThreshold: Double, seed: UInt64? = nil) -> SamplingMode {
            SamplingMode(topP: probabilityThreshold, seed: seed)
        }
    }

    /// What to do when a conversation and its reply do not fit the context.
    public enum Overflow: Hashable, Sendable {
        /// Throw `ThumbprintError.promptTooLong`, with both numbers.
        case error
        /// Drop the oldest turns, keeping system messages and the last turn.
        case truncateOldestTurns
    }
}

/// Who answers a request.
public enum By: Hashable, Sendable {
    /// The base model with the active adapter, if any.
    case active
    /// The base model alone.
    case base
    /// The base model with this adapter at full scale, whatever its state: to look at a candidate, not to serve it.
    case adapter(AdapterID)
}

/// A reply to be generated.
public struct Request: Hashable, Sendable {
    /// The conversation so far, the message to be answered last.
    public var messages: [Message]
    /// Length, sampling, stop strings.
    public var options: GenerationOptions
    /// The reply whose place it takes: the person pressed retry.
    public var replaces: ReplyID?
    /// Who answers.
    public var by: By

    public init(_ messages: [Message], options: GenerationOptions = .init(), replaces: ReplyID? = nil, by: By = .active) {
        self.messages = messages
        self.options = options
        self.replaces = replaces
        self.by = by
    }

    /// One thing that the person says.
    public init(_ prompt: String, options: GenerationOptions = .init(), replaces: ReplyID? = nil, by: By = .active) {
        self.init([.user(prompt)], options: options, replaces: replaces, by: by)
    }
}

/// What a job may use. `nil` takes the library's default.
public struct Budget: Hashable, Sendable {
    /// Most resident memory of training, MiB, the mapped model included; by default as much as is fastest.
    public var memoryMiB: Int?
    /// The job pauses after this many seconds of work. It never shortens what is learned.
    public var seconds: Int?
    /// Threads; by default as many as there are processors.
    public var nThreads: Int?
    /// Seeds the adapter, the order of examples and what is sampled.
    public var seed: UInt64?
    /// Longest example that is learned from, tokens of prompt and replies together. Longer ones are left out and counted.
    public var maxExampleTokens: Int?
    /// Whether a new candidate may take the place of one whose trial is undecided.
    public var replaceTrial: Bool?
    /// Whether to train on the first GPU of a build with a GPU feature; a job fails where there is none.
    public var gpu: Bool?
    /// Whether to train on the GPU, and to fail rather than compute on the CPU what the GPU has no kernel for.
    public var requireGPU: Bool?
    /// Rounds, 3 at most, in which the new adapter answers the feedback's prompts again, its own reward labels the answers, and training
    /// goes on with them; each is braked. By default there are none: what a model thinks of its own words is no feedback.
    public var onlineRounds: Int?

    public init(
        memoryMiB: Int? = nil, seconds: Int? = nil, nThreads: Int? = nil, seed: UInt64? = nil, maxExampleTokens: Int? = nil,
        replaceTrial: Bool? = nil, gpu: Bool? = nil, requireGPU: Bool? = nil, onlineRounds: Int? = nil
    ) {
        self.memoryMiB = memoryMiB
        self.seconds = seconds
        self.nThreads = nThreads
        self.seed = seed
        self.maxExampleTokens = maxExampleTokens
        self.replaceTrial = replaceTrial
        self.gpu = gpu
        self.requireGPU = requireGPU
        self.onlineRounds = onlineRounds
    }
}

/// A way of learning other than the product's.
public struct Recipe: Hashable, Sendable {
    /// Multiple-choice questions of which a candidate must not get many fewer right than the base.
    public var choices: GuardFile?
    /// Harmless prompts of which a candidate must not refuse many more than the base.
    public var refusals: GuardFile?
    /// For comparing with the product: settings that replace its own, as JSON with the names of the Rust crate's `Recipe`:
    /// `{"learn_from": "thumbs", "train": {"unpaired": {"loss_type": "kto"}}}`.
    public var settingsJSON: String?

    public init(choices: GuardFile? = nil, refusals: GuardFile? = nil, settingsJSON: String? = nil) {
        self.choices = choices
        self.refusals = refusals
        self.settingsJSON = settingsJSON
    }

    /// A file that the app brings, as a guard of the gate.
    public struct GuardFile: Hashable, Sendable {
        /// The file. It is read before anything is learned, and again when a candidate is judged.
        public var file: URL
        /// By how much the share may worsen, in [0, 1]: 0.02 is two points.
        public var tolerated: Double

        public init(_ file: URL, tolerated: Double) {
            self.file = file
            self.tolerated = tolerated
        }
    }
}

/// What the lines of a file of feedback hold.
public enum FeedbackFormat: Hashable, Sendable {
    /// TRL's preference form: `prompt`, `chosen`, `rejected`.
    case preference
    /// TRL's unpaired form: `prompt`, `completion`, `label`.
    case unpaired
    /// Rankings: `prompt`, `ranked`, the best answer first.
    case ranking
    /// ShareGPT's conversations.
    case shareGpt
    /// Transcripts as in HH-RLHF.
    case hhRlhf
    /// Rated completions as in UltraFeedback.
    case ultraFeedback
    /// Ranked answers as in Nectar.
    case nectar
    /// Trees as in OASST.
    case oasst
}

/// What an import passes over; by default nothing.
public struct ImportFilters: Hashable, Sendable {
    /// Rows whose answer has fewer characters. Here and below, of several answers the liked or best one.
    public var minChars: Int?
    /// Rows whose prompt and longest answer have more characters.
    public var maxChars: Int?
    /// Rows whose answer begins as refusals do (English phrases).
    public var refusals: Bool
    /// Rows whose answer has a phrase that assistants put into any answer (English phrases).
    public var boilerplate: Bool
    /// Rows whose answer matches one of these regular expressions, in the syntax of the Rust crate regex-lite.
    public var patterns: [String]
    /// Rows that differ from an earlier one in case, spaces and punctuation at most.
    public var duplicates: Bool
    /// Rows that have this share, in (0, 1], of runs of four letters in common with an earlier one; estimated, within 0.04.
    public var nearDuplicates: Double?

    public init(
        minChars: Int? = nil, maxChars: Int? = nil, refusals: Bool = false, boilerplate: Bool = false, patterns: [String] = [],
        duplicates: Bool = false, nearDuplicates: Double? = nil
    ) {
        self.minChars = minChars
        self.maxChars = maxChars
        self.refusals = refusals
        self.boilerplate = boilerplate
        self.patterns = patterns
        self.duplicates = duplicates
        self.nearDuplicates = nearDuplicates
    }
}

/// What an adapter is written as.
public enum AdapterFormat: Hashable, Sendable {
    /// One file, a stock GGUF LoRA that llama.cpp loads.
    case gguf
    /// A folder as PEFT's `save_pretrained` writes it, which transformers loads.
    case peft
}

/// How much of an adapter goes into a sum.
public struct AdapterPart: Hashable, Sendable {
    /// The adapter, as it is served: at its scale.
    public var adapter: AdapterID
    /// Finite; below 0 takes it away.
    public var weight: Float

    public init(_ adapter: AdapterID, weight: Float = 1) {
        self.adapter = adapter
        self.weight = weight
    }
}

/// What is to be forgotten.
public enum Target: Hashable, Sendable {
    case feedback(FeedbackID)
    case reply(ReplyID)
    case session(SessionID)
    case everything
}
