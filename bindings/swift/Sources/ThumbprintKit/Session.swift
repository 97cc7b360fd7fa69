internal import ThumbprintFFI

/// A stored chat. Say one thing at a time: what is said while a reply is still being written has no certain place in it.
///
/// The names are those of FoundationModels' `LanguageModelSession`, so that code written for one reads the same for the other.
public final class Session: Sendable, Identifiable {
    private let inner: ThumbprintFFI.Conversation
    private let owner: Thumbprint

    /// Its id, to open it again.
    public let id: SessionID

    init(_ inner: ThumbprintFFI.Conversation, of owner: Thumbprint) {
        self.inner = inner
        self.owner = owner
        id = SessionID(rawValue: inner.id())
    }

    // MARK: Talking

    /// Says something and waits for the whole reply. A cancelled task cancels the reply.
    @discardableResult
    public func respond(to prompt: String, options: GenerationOptions = .init()) async throws -> Response {
        try await streamResponse(to: prompt, options: options).collect()
    }

    /// Says something and starts the reply to it. Errors come through the stream; leaving its loop cancels the reply.
    ///
    /// What was said before and never answered is left out of the chat from now on.
    public func streamResponse(to prompt: String, options: GenerationOptions = .init()) -> ResponseStream {
        ResponseStream(Generation { [inner] in try inner.send(text: prompt, options: options.boundary()) })
    }

    /// Takes the last reply back and answers again. The old reply stays in the log, with a `Feedback.retry` on it.
    public func regenerateResponse(options: GenerationOptions = .init()) -> ResponseStream {
        ResponseStream(Generation { [inner] in try inner.regenerate(options: options.boundary()) })
    }

    /// Computes what has been said so far, and the beginning of what the person is about to say, ahead of time. Returns how many tokens
    /// are now kept.
    @discardableResult
    public func prewarm(promptPrefix: String) async throws -> Int {
        let turns = try await transcript().map(\.message)
        return try await owner.prewarm(turns + [.user(promptPrefix)])
    }

    /// Says something, and two contestants answer side by side. Waits for both. A cancelled task stops the model; what was said is kept even
    /// then.
    ///
    /// The left reply is the last turn until `Thumbprint.vote` is for the right one.
    public func sideBySide(_ prompt: String, contest: Contest) async throws -> Match {
        try await cancellable { [inner] canceller in
            Match(try inner.sideBySide(text: prompt, contest: try contest.boundary(), canceller: canceller))
        }
    }

    // MARK: Feedback

    /// Records what the person said of the last reply, as FoundationModels' feedback has it: how they felt, what was wrong, and what they
    /// would rather have read, which takes the reply's place in the chat.
    ///
    /// Returns the event that stands for the reply now; `nil` where nothing was said.
    @discardableResult
    public func logFeedback(
        sentiment: Feedback.Sentiment?, issues: [Feedback.Issue] = [], desiredOutput: String? = nil
    ) async throws -> FeedbackID? {
        try await quick { [inner] in
            guard let last = try inner.messages().last(where: { $0.reply != nil })?.reply else {
                throw ThumbprintError.noReplyYet
            }
            let handle = self.owner.inner
            var id: FeedbackID?
            for event in Feedback.events(sentiment: sentiment, issues: issues, desiredOutput: desiredOutput) {
                if case .edit(let text) = event {
                    id = FeedbackID(rawValue: try inner.edit(text: text))
                } else {
                    id = FeedbackID(rawValue: try handle.record(reply: last, feedback: event.boundary))
                }
            }
            return id
        }
    }

    /// Records what the person wants instead of the last reply, and goes on from that.
    @discardableResult
    public func edit(_ text: String) async throws -> FeedbackID {
        try await quick { [inner] in FeedbackID(rawValue: try inner.edit(text: text)) }
    }

    // MARK: The chat itself

    /// Its turns, the first one first.
    public func transcript() async throws -> [StoredMessage] {
        try await quick { [inner] in try inner.messages().map(StoredMessage.init) }
    }

    /// Adds a turn that is not answered: instructions at the beginning, say.
    @discardableResult
    public func append(_ message: Message) async throws -> MessageID {
        try await quick { [inner] in MessageID(rawValue: try inner.append(message: message.boundary)) }
    }

    /// Its title and when it was used.
    public func info() async throws -> SessionInfo {
        try await quick { [inner] in SessionInfo(try inner.info()) }
    }

    /// A new chat that shares the turns up to and including `upto`.
    public func branch(upto: MessageID, title: String? = nil) async throws -> Session {
        try await quick { [inner, owner] in
            Session(try inner.branch(upto: upto.rawValue, title: title), of: owner)
        }
    }

    /// Gives it a title, or takes it away.
    public func rename(_ title: String?) async throws {
        try await quick { [inner] in try inner.rename(title: title) }
    }

    /// Deletes it. Turns that feedback rests on stay until they are forgotten.
    public func delete() async throws {
        try await quick { [inner] in try inner.delete() }
    }
}

/// A complete reply of a session.
public struct Response: Hashable, Sendable {
    /// Its text.
    public var content: String { reply.text }
    /// The same with its id and numbers.
    public let reply: Reply
}

/// A reply of a session that is being generated: snapshots of its text, each longer than the one before.
public struct ResponseStream: AsyncSequence, Sendable {
    /// The reply as far as it is.
    public struct Snapshot: Hashable, Sendable {
        /// All of the text so far.
        public let content: String
        /// The complete reply, in the last snapshot.
        public let reply: Reply?
    }

    public typealias Element = Snapshot

    /// The same as single pieces.
    public let generation: Generation

    init(_ generation: Generation) {
        self.generation = generation
    }

    /// Waits for the whole reply. A cancelled task cancels it.
    public func collect() async throws -> Response {
        Response(reply: try await generation.reply())
    }

    /// Stops it within one token. The last snapshot still comes. From any thread.
    public func cancel() {
        generation.cancel()
    }

    public func makeAsyncIterator() -> AsyncIterator {
        AsyncIterator(events: generation.makeAsyncIterator())
    }

    public struct AsyncIterator: AsyncIteratorProtocol {
        fileprivate var events: Generation.AsyncIterator
        private var content = ""

        fileprivate init(events: Generation.AsyncIterator) {
            self.events = events
        }

        public mutating func next() async throws -> Snapshot? {
            switch try await events.next() {
            case .token(let text):
                content += text
                return Snapshot(content: content, reply: nil)
            case .done(let reply):
                return Snapshot(content: reply.text, reply: reply)
            case nil:
                return nil
            }
        }
    }
}
