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
    private let turns = Turns()

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

    /// Whether a turn is at work: what a `Lifecycle` asks before it suspends. Copies of this value tell of each other's turns.
    public var isRunning: Bool { turns.areAtWork }

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
        turns.begin()
        let tp: Thumbprint
        do {
            tp = try await open()
        } catch {
            turns.end()
            return .failed(reason(for: error))
        }
        var ending: BackgroundEnding
        do {
            ending = try await learn(with: tp, turn, onProgress)
        } catch {
            ending = .failed(reason(for: error))
        }
        // Over before it is asked whether the app is in use: whoever leaves the screen from here on finds nothing that carries on. A turn
        // beside this one suspends at its own end.
        let wasLast = turns.end()
        // A suspended app that holds a lock is ended by the system, and one that is in use wants its model.
        if wasLast, await !isForeground() {
            do {
                try await tp.suspend()
            } catch {
                ending = .failed(reason(for: error))
            }
        }
        return ending
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

private func reason(for error: any Error) -> String {
    (error as? ThumbprintError)?.reason ?? "\(error)"
}

/// How many turns are at work.
private final class Turns: @unchecked Sendable {
    private let lock = NSLock()
    private var count = 0

    var areAtWork: Bool { lock.withLock { count > 0 } }

    func begin() {
        lock.withLock { count += 1 }
    }

    /// Whether it was the last one.
    @discardableResult
    func end() -> Bool {
        lock.withLock {
            count -= 1
            return count == 0
        }
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
