import Foundation
internal import ThumbprintFFI

// MARK: What replies are worth

extension Thumbprint {
    /// What a stored reply is worth to the person.
    public func score(_ reply: ReplyID, by judge: Judge = .active) async throws -> Score {
        try await blocking({ [inner] in Score(try inner.score(reply: reply.rawValue, judge: judge.boundary)) }, cancelled: {})
    }

    /// What any reply to a conversation is worth, as one that the model ended itself.
    public func score(_ text: String, to messages: [Message], by judge: Judge = .active) async throws -> Score {
        try await blocking(
            { [inner] in
                Score(try inner.scoreText(messages: messages.map(\.boundary), text: text, judge: judge.boundary))
            }, cancelled: {})
    }

    /// Fits a head on the feedback in effect, in the place of the one before: a forward pass over every reply that was judged.
    ///
    /// It goes as soon as one of the events that it was fitted on is forgotten. `l2` is the ridge, above 0; by default it is chosen. A
    /// cancelled task ends it.
    @discardableResult
    public func fitHead(l2: Double? = nil) async throws -> Head {
        try await cancellable { [inner] canceller in Head(try inner.fitHead(l2: l2, canceller: canceller)) }
    }

    /// The head of the model at hand, if one was fitted. Never loads a model.
    public func head() async throws -> Head? {
        try await quick { [inner] in try inner.head().map(Head.init) }
    }

    /// Drops the head of the model at hand; whether there was one. Never loads a model.
    @discardableResult
    public func dropHead() async throws -> Bool {
        try await quick { [inner] in try inner.dropHead() }
    }
}

// MARK: Blind side-by-sides

extension Thumbprint {
    /// Two contestants answer, and what they say is recorded as a match, on sides drawn at random. Waits for both. A cancelled task stops the
    /// model, and then nothing is recorded.
    public func sideBySide(_ messages: [Message], contest: Contest) async throws -> Match {
        try await cancellable { [inner] canceller in
            let messages = messages.map(\.boundary)
            return Match(try inner.sideBySide(messages: messages, contest: try contest.boundary(), canceller: canceller))
        }
    }

    /// A match that was recorded.
    public func sideBySide(of id: MatchID) async throws -> Match {
        try await quick { [inner] in Match(try inner.sideBySideOf(id: id.rawValue)) }
    }

    /// Matches of the model at hand that nobody has voted on, the first one first. Never loads a model.
    public func openMatches() async throws -> [Match] {
        try await quick { [inner] in try inner.openMatches().map(Match.init) }
    }

    /// Votes on a match, once, and tells who was on which side. Never loads a model.
    ///
    /// In a session the better reply becomes the last turn, of equals the left one. Between the base and an adapter on trial or promoted, the
    /// vote counts as those that are recorded do.
    @discardableResult
    public func vote(_ choice: Choice, on match: MatchID) async throws -> Voted {
        try await patient { [inner] in Voted(try inner.vote(id: match.rawValue, choice: choice.boundary)) }
    }

    /// Whether the next prompt should be answered twice for a blind vote, and by whom: with a probability of `share`, by default 0.1, while
    /// the adapter in use is on trial. Never loads a model.
    public func contestDue(share: Double? = nil) async throws -> Contest? {
        try await quick { [inner] in try inner.contestDue(share: share).map(Contest.init) }
    }

    /// What the votes on matches of the model at hand come to. Never loads a model.
    public func arenaResults() async throws -> ArenaResults {
        try await patient { [inner] in ArenaResults(try inner.arenaResults()) }
    }
}

// MARK: Files of questions

extension Thumbprint {
    /// Asks the multiple-choice questions of a file by log-likelihood, of an adapter or, without one, of the base. Without a format, the
    /// fields of the first row decide.
    ///
    /// `onProgress` is called with the number of rows that are done and of all of them, on a thread of the library's. If it returns false, the
    /// call ends with `ThumbprintError.cancelled`; what it throws ends it, too, and is thrown here. So does a cancelled task.
    public func evaluateChoices(
        in file: URL, adapter: AdapterID? = nil, format: ChoiceFormat? = nil, onProgress: (@Sendable (Int, Int) throws -> Bool)? = nil
    ) async throws -> ChoiceReport {
        try await listening(onProgress) { [inner] listener in
            let report = try inner.evaluateChoices(
                path: file.path, adapter: adapter?.rawValue, format: format?.boundary, listener: listener)
            return ChoiceReport(report)
        }
    }

    /// Asks the harmless prompts of a file, each in a chat of its own, the likeliest token each time, and counts refusals. Nothing is
    /// recorded. The rest is as with `evaluateChoices`.
    public func evaluateRefusals(
        in file: URL, adapter: AdapterID? = nil, onProgress: (@Sendable (Int, Int) throws -> Bool)? = nil
    ) async throws -> RefusalReport {
        try await listening(onProgress) { [inner] listener in
            RefusalReport(try inner.evaluateRefusals(path: file.path, adapter: adapter?.rawValue, listener: listener))
        }
    }

    /// Asks a judge which of two replies is better, for every row of a file. The rest is as with `evaluateChoices`.
    public func evaluateReward(
        in file: URL, by judge: Judge = .active, onProgress: (@Sendable (Int, Int) throws -> Bool)? = nil
    ) async throws -> RewardReport {
        try await listening(onProgress) { [inner] listener in
            RewardReport(try inner.evaluateReward(path: file.path, judge: judge.boundary, listener: listener))
        }
    }
}

/// A call that ends once it is told to: it is, when its task is cancelled.
func cancellable<Value: Sendable>(_ call: @escaping @Sendable (ThumbprintFFI.Canceller) throws -> Value) async throws -> Value {
    let canceller = ThumbprintFFI.Canceller()
    return try await blocking({ try call(canceller) }, cancelled: { canceller.cancel() })
}

/// The same for one that tells how far it is.
private func listening<Value: Sendable>(
    _ onProgress: (@Sendable (Int, Int) throws -> Bool)?, _ call: @escaping @Sendable (Evaluating) throws -> Value
) async throws -> Value {
    let listener = Evaluating(onProgress)
    return try await blocking(
        {
            do {
                return try call(listener)
            } catch {
                throw listener.thrown ?? error
            }
        }, cancelled: { listener.giveUp() })
}

/// Keeps what the app's closure throws, which cannot pass through the library.
private final class Evaluating: ThumbprintFFI.EvaluationListener {
    private let onProgress: (@Sendable (Int, Int) throws -> Bool)?
    private let state = Locked(State())

    private struct State {
        var givenUp = false
        var thrown: (any Error)?
    }

    init(_ onProgress: (@Sendable (Int, Int) throws -> Bool)?) {
        self.onProgress = onProgress
    }

    func giveUp() {
        state.with { $0.givenUp = true }
    }

    var thrown: (any Error)? { state.with { $0.thrown } }

    func onProgress(done: UInt64, total: UInt64) throws -> Bool {
        do {
            let isGivenUp = state.with { $0.givenUp }
            return try !isGivenUp && (onProgress?(Int(clamping: done), Int(clamping: total)) ?? true)
        } catch {
            state.with { $0.thrown = error }
            return false
        }
    }
}
