// What this package uses of Apple's BackgroundTasks, declared from its documentation for systems without it, so that the code over it is
// compiled and tested there. The scheduler keeps what it is asked for, and the tests do the system's part.

import Foundation

open class BGTaskRequest: @unchecked Sendable {
    public let identifier: String
    public var earliestBeginDate: Date?

    init(identifier: String) {
        self.identifier = identifier
    }
}

public final class BGProcessingTaskRequest: BGTaskRequest, @unchecked Sendable {
    public var requiresNetworkConnectivity = false
    public var requiresExternalPower = false

    public override init(identifier: String) {
        super.init(identifier: identifier)
    }
}

public final class BGContinuedProcessingTaskRequest: BGTaskRequest, @unchecked Sendable {
    public enum SubmissionStrategy: Sendable {
        case fail
        case queue
    }

    public let title: String
    public let subtitle: String
    public var strategy = SubmissionStrategy.queue

    public init(identifier: String, title: String, subtitle: String) {
        self.title = title
        self.subtitle = subtitle
        super.init(identifier: identifier)
    }
}

// As in the real one, nothing says that it may be shared between threads.
open class BGTask {
    public let identifier: String
    public var expirationHandler: (() -> Void)?
    public private(set) var completions: [Bool] = []

    public init(identifier: String) {
        self.identifier = identifier
    }

    public func setTaskCompleted(success: Bool) {
        completions.append(success)
    }
}

public final class BGProcessingTask: BGTask {}

public final class BGContinuedProcessingTask: BGTask {
    public let progress = Progress(totalUnitCount: 0)
    public private(set) var title = ""
    public private(set) var subtitle = ""

    public func updateTitle(_ title: String, subtitle: String) {
        self.title = title
        self.subtitle = subtitle
    }
}

public final class BGTaskScheduler: @unchecked Sendable {
    public static let shared = BGTaskScheduler()

    private let lock = NSLock()
    private var handlers: [String: (BGTask) -> Void] = [:]
    private var requests: [BGTaskRequest] = []

    /// False, as the real one says with an exception, where the name is taken.
    @discardableResult
    public func register(
        forTaskWithIdentifier identifier: String, using queue: DispatchQueue?, launchHandler: @escaping (BGTask) -> Void
    ) -> Bool {
        lock.withLock {
            guard handlers[identifier] == nil else { return false }
            handlers[identifier] = launchHandler
            return true
        }
    }

    public func submit(_ request: BGTaskRequest) throws {
        lock.withLock {
            requests.removeAll { $0.identifier == request.identifier }
            requests.append(request)
        }
    }

    public func cancel(taskRequestWithIdentifier identifier: String) {
        lock.withLock { requests.removeAll { $0.identifier == identifier } }
    }

    // ---- the system's part, for tests ----

    public var submitted: [BGTaskRequest] { lock.withLock { requests } }

    /// Takes a request off the list and launches its task.
    public func launch(_ task: BGTask) {
        let handler = lock.withLock {
            requests.removeAll { $0.identifier == task.identifier }
            return handlers[task.identifier]
        }
        handler?(task)
    }
}
