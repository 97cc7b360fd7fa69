import Foundation

/// Threads of the library's own for its calls, which block: waiting on them takes none of the threads that Swift's tasks run on. More calls
/// of a kind at once than it has threads wait for one another. Not a task executor, which would need iOS 18.
final class Workers: @unchecked Sendable {
    /// For calls that wait for the model or for a job.
    static let waiting = Workers(limit: 32, keepSeconds: 10)
    /// For calls that end what others wait for, such as unloading: they do not stand in line behind them.
    static let commanding = Workers(limit: 8, keepSeconds: 10)
    /// For calls that take milliseconds: a thumb does not wait behind replies.
    static let storing = Workers(limit: 4, keepSeconds: 10)

    private let limit: Int
    private let keepSeconds: Double
    // Guards the rest.
    private let condition = NSCondition()
    private var waiting: [@Sendable () -> Void] = []
    private var threads = 0
    private var idle = 0

    init(limit: Int, keepSeconds: Double) {
        self.limit = limit
        self.keepSeconds = keepSeconds
    }

    /// Does `work` once a thread is free.
    func start(_ work: @escaping @Sendable () -> Void) {
        condition.lock()
        defer { condition.unlock() }
        waiting.append(work)
        if idle >= waiting.count {
            condition.signal()
        } else if threads < limit {
            threads += 1
            let thread = Thread { self.serve() }
            thread.name = "thumbprint-call"
            thread.qualityOfService = .userInitiated
            thread.stackSize = 2 << 20
            thread.start()
        }
    }

    /// Waits for it, whether or not its task is cancelled.
    func run<Value: Sendable>(_ work: @escaping @Sendable () throws -> Value) async throws -> Value {
        try await withCheckedThrowingContinuation { continuation in
            start { continuation.resume(with: Result(catching: work).mapError(ThumbprintError.of)) }
        }
    }

    private func serve() {
        while let work = next() {
            work()
        }
    }

    private func next() -> (@Sendable () -> Void)? {
        condition.lock()
        defer { condition.unlock() }
        let until = Date(timeIntervalSinceNow: keepSeconds)
        while waiting.isEmpty {
            idle += 1
            let inTime = condition.wait(until: until)
            idle -= 1
            if !inTime && waiting.isEmpty {
                threads -= 1
                return nil
            }
        }
        return waiting.removeFirst()
    }
}

/// A call of the library that takes milliseconds, for a task: on a thread of its own, its errors in their public form. A task that is cancelled
/// waits all the same.
func quick<Value: Sendable>(_ call: @escaping @Sendable () throws -> Value) async throws -> Value {
    try await Workers.storing.run(call)
}

/// The same for a call that waits until the engine or a job has done what it is told, or until a file is read.
func patient<Value: Sendable>(_ call: @escaping @Sendable () throws -> Value) async throws -> Value {
    try await Workers.commanding.run(call)
}

/// The same for a call that may take long: a cancelled task throws `CancellationError` at once, and `cancelled` ends the call.
func blocking<Value: Sendable>(
    _ call: @escaping @Sendable () throws -> Value, cancelled: @escaping @Sendable () -> Void
) async throws -> Value {
    let once = Once<Value>()
    Workers.waiting.start {
        once.resolve(Result(catching: call).mapError(ThumbprintError.of))
    }
    return try await once.value(cancelled: cancelled)
}

/// A result that comes once and that any number of tasks wait for, each as long as it is not cancelled.
final class Once<Value: Sendable>: @unchecked Sendable {
    // Guards the rest.
    private let lock = NSLock()
    private var result: Result<Value, any Error>?
    private var waiting: [Int: CheckedContinuation<Value, any Error>] = [:]
    private var given = 0
    private var abandoned: Set<Int> = []

    /// Only the first call counts.
    func resolve(_ result: Result<Value, any Error>) {
        let waiting = lock.withLock {
            guard self.result == nil else { return [Int: CheckedContinuation<Value, any Error>]() }
            self.result = result
            defer { self.waiting = [:] }
            return self.waiting
        }
        for continuation in waiting.values {
            continuation.resume(with: result)
        }
    }

    func value(cancelled: @escaping @Sendable () -> Void = {}) async throws -> Value {
        let ticket = lock.withLock {
            given += 1
            return given
        }
        return try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                let now: Result<Value, any Error>? = lock.withLock {
                    if abandoned.remove(ticket) != nil {
                        return .failure(CancellationError())
                    }
                    if result == nil {
                        waiting[ticket] = continuation
                    }
                    return result
                }
                if let now {
                    continuation.resume(with: now)
                }
            }
        } onCancel: {
            cancelled()
            let continuation = lock.withLock {
                let continuation = waiting.removeValue(forKey: ticket)
                if continuation == nil && result == nil {
                    // Cancelled before it began to wait.
                    abandoned.insert(ticket)
                }
                return continuation
            }
            continuation?.resume(throwing: CancellationError())
        }
    }
}

/// A value under a lock.
final class Locked<Value>: @unchecked Sendable {
    private let lock = NSLock()
    private var value: Value

    init(_ value: Value) {
        self.value = value
    }

    func with<R>(_ body: (inout Value) throws -> R) rethrows -> R {
        lock.lock()
        defer { lock.unlock() }
        return try body(&value)
    }
}
