/// Who tells how good a reply is.
public enum Judge: Hashable, Sendable {
    /// The active adapter: its own reward over the base.
    case active
    /// The same of another adapter, at the scale that it is served at.
    case adapter(AdapterID)
    /// The head that was fitted on the person's feedback; see `Thumbprint.fitHead`.
    case head
}

/// How a reply was chosen among several.
public struct BestOf: Hashable, Sendable {
    /// Who chose.
    public let judge: Judge
    /// Which one it is, from 0; its seed is the request's plus this.
    public let chosen: Int
    /// The score of each, higher is better. Empty if the generation was cancelled before they were scored: then the first that is complete
    /// was taken.
    public let scores: [Double]
}

/// What a reply is worth.
public struct Score: Hashable, Sendable {
    /// Higher is better. Of an adapter: `beta` times the sum of its log-probabilities over the base's, nats; 0 for an adapter that changes
    /// nothing. Of a head: log-odds of a 👍.
    public let reward: Double
    /// The reward of each token, of which `reward` is the sum. Of a head: nothing.
    public let perToken: [Double]
    /// The reply's tokens, the end token included if it was finished.
    public let tokens: [Int]
    /// Natural log-probability of the reply under the adapter, nats.
    public let logp: Double?
    /// The same under the base.
    public let referenceLogp: Double?
    /// The adapter's beta.
    public let beta: Double?
}

/// From one number to another.
public struct Interval: Hashable, Sendable {
    /// The lower end.
    public let low: Double
    /// The upper end.
    public let high: Double
}

/// A reward head that was fitted. Its weights stay inside, where the hidden states are.
public struct Head: Hashable, Sendable {
    /// SHA-256 of the base whose states it reads.
    public let baseSHA256: String
    /// Hash of the chat template that prompts were rendered with.
    public let templateHash: String
    /// Log-odds of a 👍 at the mean.
    public let bias: Double
    /// The ridge.
    public let l2: Double
    /// Pairs that it was fitted on.
    public let pairs: Int
    /// Single judgements that it was fitted on.
    public let singles: Int
    /// How well it does on prompts that it has not seen; `nil` with feedback on too few prompts.
    public let crossValidated: CrossValidated?
}

/// How well heads that had not seen a prompt's judgements agreed with them.
public struct CrossValidated: Hashable, Sendable {
    /// Judgements agreed with: the better one higher, a 👍 over even odds, a 👎 under them.
    public let right: Int
    /// Judgements asked.
    public let of: Int
    /// `right / of`.
    public let accuracy: Double
    /// Its 95 % Wilson interval.
    public let interval: Interval
}

// MARK: Blind side-by-sides

/// Who is compared in a blind side-by-side, and how they answer. `nil` is the base model alone.
public struct Contest: Hashable, Sendable {
    /// One of the two, at the scale that it is served at.
    public var a: AdapterID?
    /// The other one.
    public var b: AdapterID?
    /// How both answer, seed included: from the same model the same reply would come twice.
    public var options: GenerationOptions
    /// Draws the sides; by default another one each time.
    public var seed: UInt64?

    public init(_ a: AdapterID?, _ b: AdapterID?, options: GenerationOptions = .init(), seed: UInt64? = nil) {
        self.a = a
        self.b = b
        self.options = options
        self.seed = seed
    }
}

/// Two replies side by side. It does not tell who wrote which.
public struct Match: Hashable, Sendable, Identifiable {
    /// What the vote refers to.
    public let id: MatchID
    /// What was answered.
    public let prompt: [Message]
    /// The reply on the left.
    public let left: Side
    /// The reply on the right.
    public let right: Side
    /// The vote, once there is one.
    public let choice: Choice?

    /// One side of a match.
    public struct Side: Hashable, Sendable {
        /// What feedback refers to: a vote is none, and teaches nothing by itself.
        public let reply: ReplyID
        /// The reply's text.
        public let text: String
        /// Why it ended.
        public let stopReason: StopReason?
    }
}

/// A vote on a side-by-side.
public enum Choice: Hashable, Sendable {
    /// The reply on the left is better.
    case left
    /// The reply on the right is better.
    case right
    /// Both are as good.
    case tie
    /// Neither is any good. Counts as a tie, and is counted apart.
    case bothBad
}

/// What a vote came to. `nil` is the base.
public struct Voted: Hashable, Sendable {
    /// Who was on the left.
    public let left: AdapterID?
    /// Who was on the right.
    public let right: AdapterID?
    /// Where the trial stands, if the match was between the base and an adapter on trial or promoted: then the vote counts there, too.
    public let verdict: Verdict?
}

/// What all votes on side-by-sides come to.
public struct ArenaResults: Hashable, Sendable {
    /// Votes.
    public let votes: Int
    /// Every two that met, adapters before the base.
    public let pairs: [PairResult]
    /// With three contestants or more, the strongest first; else empty.
    public let strengths: [Strength]
    /// Whether every contestant met every other one, or others who did: only then can strengths be compared.
    public let connected: Bool
}

/// How two contestants compare. `nil` is the base.
public struct PairResult: Hashable, Sendable {
    /// One of them.
    public let a: AdapterID?
    /// The other one.
    public let b: AdapterID?
    /// Votes, all kinds together.
    public let votes: Int
    /// Votes for `a`.
    public let wins: Int
    /// Votes for `b`.
    public let losses: Int
    /// Votes for both.
    public let ties: Int
    /// Votes for neither.
    public let bothBad: Int
    /// Share of votes for `a`, with ties and votes for neither half.
    public let winRate: Double
    /// Its 95 % Wilson interval.
    public let interval: Interval
    /// The win rate of `a` at equal length. Read it beside `winRate`, never instead of it.
    public let lengthControlledWinRate: Double?
    /// By how many tokens replies of `a` are longer on average.
    public let meanLengthDifference: Double
}

/// How strong a contestant is.
public struct Strength: Hashable, Sendable {
    /// Who; `nil` is the base.
    public let contestant: AdapterID?
    /// Votes that it took part in.
    public let votes: Int
    /// Log-odds of beating a contestant of strength 0; the strengths of all sum up to 0.
    public let strength: Double
    /// 95 % of resamples lie in here.
    public let interval: Interval
}

// MARK: Files of questions

/// How the rows of a file of multiple-choice questions are to be understood.
public enum ChoiceFormat: Hashable, Sendable {
    /// AI2's Reasoning Challenge.
    case arc
    /// HellaSwag.
    case hellaSwag
    /// Massive Multitask Language Understanding.
    case mmlu
}

/// A share of questions, with how sure it is.
public struct Accuracy: Hashable, Sendable {
    /// Questions answered right; where ties are possible they count half.
    public let right: Double
    /// Questions asked.
    public let n: Int
    /// `right / n`; 0 of none.
    public let share: Double
    /// Its 95 % Wilson interval; from 0 to 1 of none.
    public let interval: Interval
}

/// What a model knows of a file of multiple-choice questions.
public struct ChoiceReport: Hashable, Sendable {
    /// Share of questions whose likeliest choice is right.
    public let acc: Accuracy
    /// Share of questions whose likeliest choice for its length is right.
    public let accNorm: Accuracy
    /// `accNorm` by subject, where the file names any.
    public let subjects: [String: Accuracy]
    /// The answer to each question, in their order.
    public let answers: [Answer]

    /// What a model answered. Choices are counted from 0.
    public struct Answer: Hashable, Sendable {
        /// The likeliest choice.
        public let pick: Int
        /// The likeliest for its length.
        public let pickNorm: Int
        /// The right one.
        public let gold: Int
    }
}

/// How often a model refuses harmless prompts.
public struct RefusalReport: Hashable, Sendable {
    /// Share of harmless prompts that it refused.
    public let refused: Accuracy
    /// The same by type, where the file has types.
    public let types: [String: Accuracy]
    /// Whether each prompt was refused, in their order.
    public let refusals: [Bool]
    /// Rows that should be refused, and were not asked.
    public let leftOut: Int
}

/// How often a judge scored the better reply higher, ties counted half.
public struct RewardReport: Hashable, Sendable {
    /// Over all comparisons.
    public let all: Accuracy
    /// By category, where the file has any.
    public let subsets: [String: Accuracy]
    /// By RewardBench's sections, where the categories are its own.
    public let sections: [String: Accuracy]
    /// Comparisons whose prompt has feedback in the log: to a judge that learned from it they are not held out.
    public let seen: Int
}
