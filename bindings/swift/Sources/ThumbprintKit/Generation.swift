internal import ThumbprintFFI

/// A reply that is being generated: an asynchronous sequence of its pieces, with the whole reply at the end.
///
/// Leaving the loop cancels it, and so does letting go of it, `cancel()`, or cancelling the task that waits for `reply()`. It is to be iterated
/// over by one task at a time.
public final class Generation: AsyncSequence, Sendable {
    /// What a running generation says.
    public enum Event: Hashable, Sendable {
        /// More of the text: whole characters, never empty.
        case token(String)
        /// The reply is complete and recorded. The last event.
        case done(Reply)
    }

    public typealias Element = Event

    private let run: Run
    private let events: AsyncThrowingStream<Event, any Error>

    init(_ start: @escaping @Sendable () throws -> ThumbprintFFI.Generation) {
        let run = Run()
        let (events, continuation) = AsyncThrowingStream.makeStream(of: Event.self)
        continuation.onTermination = { termination in
            if case .cancelled = termination {
                run.cancel()
            }
        }
        Workers.waiting.start { run.pump(start, into: continuation) }
        self.run = run
        self.events = events
    }

    /// Waits for the complete reply. May be called again, and while its events are read.
    ///
    /// Throws `CancellationError` at once when the task is cancelled, which cancels the generation.
    public func reply() async throws -> Reply {
        // Letting go of it would cancel it.
        defer { withExtendedLifetime(self) {} }
        return try await run.reply.value(cancelled: { [run] in run.cancel() })
    }

    /// Stops it within one token, or within one piece of the prompt. `done` still comes, with what there is. From any thread.
    public func cancel() {
        run.cancel()
    }

    public func makeAsyncIterator() -> AsyncIterator {
        AsyncIterator(events: events.makeAsyncIterator(), leaving: Leaving(run: run))
    }

    public struct AsyncIterator: AsyncIteratorProtocol {
        fileprivate var events: AsyncThrowingStream<Event, any Error>.Iterator
        fileprivate let leaving: Leaving

        public mutating func next() async throws -> Event? {
            defer { withExtendedLifetime(leaving) {} }
            return try await events.next()
        }
    }
}

/// Cancels a generation when its iterator goes away: the loop was left. Does nothing to one that is complete.
private final class Leaving: Sendable {
    private let run: Run

    init(run: Run) {
        self.run = run
    }

    deinit {
        run.cancel()
    }
}

/// What a generation's worker and its owner share.
private final class Run: Sendable {
    private struct State {
        var inner: ThumbprintFFI.Generation?
        var isCancelled = false
    }

    private let state = Locked(State())
    let reply = Once<Reply>()

    func cancel() {
        let inner = state.with { state in
            state.isCancelled = true
            return state.inner
        }
        inner?.cancel()
    }

    /// Reads all events, whether somebody waits for them or not: the reply is recorded at the end.
    func pump(
        _ start: () throws -> ThumbprintFFI.Generation, into events: AsyncThrowingStream<Generation.Event, any Error>.Continuation
    ) {
        defer { state.with { $0.inner = nil } }
        do {
            let inner = try start()
            let isCancelled = state.with { state in
                state.inner = inner
                return state.isCancelled
            }
            if isCancelled {
                inner.cancel()
            }
            while let event = try inner.next() {
                switch event {
                case .token(let text):
                    events.yield(.token(text))
                case .done(let done):
                    let complete = Reply(done)
                    reply.resolve(.success(complete))
                    events.yield(.done(complete))
                }
            }
            reply.resolve(.failure(ThumbprintError.endedWithoutReply))
            events.finish()
        } catch {
            let error = ThumbprintError.of(error)
            reply.resolve(.failure(error))
            events.finish(throwing: error)
        }
    }
}
