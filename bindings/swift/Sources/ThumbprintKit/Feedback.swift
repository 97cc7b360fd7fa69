/// What a person said about a reply, or did with it.
public enum Feedback: Hashable, Sendable {
    /// 👍
    case up
    /// 👎, with reasons if the person gave some: "too long", "wrong", or a wish in their own words.
    case down(reasons: [String] = [])
    /// The person rewrote the reply: the text that they want instead.
    case edit(String)
    /// The reply was picked over another reply to the same prompt.
    case prefer(over: ReplyID)
    /// The reply is the best of several to the same prompt: the others, one at least, the best of them first.
    case rank(over: [ReplyID])
    /// The person asked for another reply.
    case retry
}

extension Feedback {
    /// How a person felt about a reply.
    public enum Sentiment: Hashable, Sendable, CaseIterable {
        case positive
        case negative
        case neutral
    }

    /// What was wrong with a reply.
    public struct Issue: Hashable, Sendable {
        /// What kind of issue it is.
        public var category: Category
        /// More, in the person's words.
        public var explanation: String?

        public init(category: Category, explanation: String? = nil) {
            self.category = category
            self.explanation = explanation
        }

        /// What kind of issue it is. The raw value is the reason that is recorded.
        public enum Category: String, Hashable, Sendable, CaseIterable {
            case unhelpful
            case tooVerbose = "too verbose"
            case didNotFollowInstructions = "did not follow instructions"
            case incorrect
            case stereotypeOrBias = "stereotype or bias"
            case suggestiveOrSexual = "suggestive or sexual"
            case vulgarOrOffensive = "vulgar or offensive"
            case triggeredGuardrailUnexpectedly = "triggered guardrail unexpectedly"
        }

        var reason: String {
            explanation.map { "\(category.rawValue): \($0)" } ?? category.rawValue
        }
    }

    /// The events that a form of sentiment, issues and desired output comes to. The last one stands for the reply.
    static func events(sentiment: Sentiment?, issues: [Issue], desiredOutput: String?) -> [Feedback] {
        var events: [Feedback] = []
        if sentiment == .negative || (sentiment != .positive && !issues.isEmpty) {
            events.append(.down(reasons: issues.map(\.reason)))
        }
        if let desiredOutput {
            events.append(.edit(desiredOutput))
        } else if sentiment == .positive {
            events.append(.up)
        }
        return events
    }
}

/// One event of feedback that is in effect.
public struct FeedbackInEffect: Hashable, Sendable {
    /// Its id, to withdraw or forget it.
    public let id: FeedbackID
    /// What was said.
    public let feedback: Feedback
}
