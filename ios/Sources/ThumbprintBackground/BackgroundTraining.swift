import Foundation
import ThumbprintKit

/// Time that the system gives an app in the background: what this package asks of a `BGTask`.
public protocol BackgroundTask: AnyObject, Sendable {
    /// Is called, on any thread, when the time is over. The task has to be completed within seconds after that.
    func onExpiration(_ handler: @escaping @Sendable () -> Void)
    /// Gives the rest of the time back.
    func complete(success: Bool)
}

/// How one turn of training in the background ended.
public enum BackgroundEnding: Sendable, Hashable {
    /// The job is over.
    case finished(Outcome)
    /// The job rests, since the time was over: to be gone on with.
    case paused
    /// The reason, for people.
    case failed(String)

    /// Whether another turn should be asked for.
    public var wantsMore: Bool { self == .paused }
}

/// Runs the personalization job for as long as the system allows, and leaves nothing locked behind.
public struct BackgroundTraining: Sendable {
    private let open: @Sendable () async throws -> Thumbprint
    private let budget: Budget
    private let isForeground: @Sendable () async -> Bool

    /// `open` gives the app's data folder, which may be open already. `isForeground` tells whether the app is in use, in which case the model
    /// stays loaded after a turn.
    public init(
        budget: Budget = Budget(), isForeground: @escaping @Sendable () async -> Bool = { false },
        open: @escaping @Sendable () async throws -> Thumbprint
    ) {
        self.budget = budget
        self.isForeground = isForeground
        self.open = open
    }

    /// Learns until the job is over or the task expires, which pauses the job: what was learned so far is kept. The task is completed
    /// exactly once, after the folder's locks are released.
    public func run(_ task: any BackgroundTask, onProgress: @Sendable (JobProgress) -> Void = { _ in }) async -> BackgroundEnding {
        let turn = Turn()
        task.onExpiration { turn.expire() }
        let ending = await learn(turn, onProgress)
        task.complete(success: !ending.failed && !ending.wantsMore)
        return ending
    }

    private func learn(_ turn: Turn, _ onProgress: @Sendable (JobProgress) -> Void) async -> BackgroundEnding {
        do {
            let tp = try await open()
            let ending = try await learn(with: tp, turn, onProgress)
            // A suspended app that holds a lock is ended by the system, and one that is in use wants its model.
            if await !isForeground() {
                try await tp.suspend()
            }
            return ending
        } catch {
            return .failed((error as? ThumbprintError)?.reason ?? "\(error)")
        }
    }

    private func learn(
        with tp: Thumbprint, _ turn: Turn, _ onProgress: @Sendable (JobProgress) -> Void
    ) async throws -> BackgroundEnding {
        // Nothing is loaded to find out that there is nothing to do.
        let readiness = try await tp.readiness()
        if try await tp.currentJob() == nil, !readiness.isReady {
            return .finished(.nothingToLearn(readiness))
        }
        if turn.isExpired {
            return .paused
        }
        let job = try await tp.personalize(budget)
        turn.begin(job)
        for await progress in job {
            onProgress(progress)
        }
        let outcome = try await job.outcome()
        return outcome == .paused ? .paused : .finished(outcome)
    }
}

extension BackgroundEnding {
    fileprivate var failed: Bool {
        if case .failed = self { true } else { false }
    }
}

/// The job of one turn, and whether its time is over. Either may come first.
private final class Turn: @unchecked Sendable {
    private let lock = NSLock()
    private var job: PersonalizeJob?
    private var expired = false

    var isExpired: Bool { lock.withLock { expired } }

    func begin(_ job: PersonalizeJob) {
        let expired = lock.withLock {
            self.job = job
            return self.expired
        }
        if expired {
            job.pause()
        }
    }

    func expire() {
        let job = lock.withLock {
            expired = true
            return self.job
        }
        job?.pause()
    }
}
