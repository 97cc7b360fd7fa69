internal import ThumbprintFFI

/// A running or resting job: an asynchronous sequence of its progress, which ends once it is over or rests.
///
/// Leaving the loop leaves the job alone. A loop that is slower than the job gets the newest progress each time.
public final class PersonalizeJob: AsyncSequence, Sendable {
    public typealias Element = JobProgress

    private let inner: ThumbprintFFI.PersonalizeJob
    private let owner: Thumbprint

    init(_ inner: ThumbprintFFI.PersonalizeJob, of owner: Thumbprint) {
        self.inner = inner
        self.owner = owner
    }

    /// How far it is.
    public var progress: JobProgress { JobProgress(inner.progress()) }

    /// Whether it is over for good.
    public var isFinished: Bool { inner.isFinished() }

    /// Waits until it is over or rests. A cancelled task stops waiting; the job goes on.
    public func outcome() async throws -> Outcome {
        try await blocking({ [inner] in Outcome(try inner.waitForOutcome()) }, cancelled: {})
    }

    /// Rests within one layer, and gives its memory back. What was learned so far is kept, also if the process ends. Returns at once.
    public func pause() {
        inner.pause()
    }

    /// Goes on after a pause.
    public func resume() async throws {
        try await patient { [inner] in try inner.resume() }
    }

    /// Gives up and cleans up.
    public func cancel() async throws {
        try await patient { [inner] in try inner.cancel() }
    }

    public func makeAsyncIterator() -> AsyncIterator {
        AsyncIterator(job: self)
    }

    public struct AsyncIterator: AsyncIteratorProtocol {
        fileprivate let job: PersonalizeJob
        private var last: ThumbprintFFI.Progress?

        fileprivate init(job: PersonalizeJob) {
            self.job = job
        }

        /// `nil`, too, when the task is cancelled.
        public mutating func next() async -> JobProgress? {
            let next = try? await blocking({ [inner = job.inner, last] in inner.nextProgress(last: last) }, cancelled: {})
            last = next ?? nil
            return last.map(JobProgress.init)
        }
    }
}
