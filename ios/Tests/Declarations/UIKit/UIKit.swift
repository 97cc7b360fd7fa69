// What this package uses of Apple's UIKit, declared from its documentation; see BackgroundTasks.swift.

import Foundation

public struct UIBackgroundTaskIdentifier: Hashable, Sendable {
    public let rawValue: Int
    public static let invalid = UIBackgroundTaskIdentifier(rawValue: 0)
}

@MainActor
public final class UIApplication {
    public static let shared = UIApplication()
    public nonisolated static let didEnterBackgroundNotification = Notification.Name("UIApplicationDidEnterBackgroundNotification")
    public nonisolated static let didReceiveMemoryWarningNotification = Notification.Name(
        "UIApplicationDidReceiveMemoryWarningNotification")

    public enum State: Sendable {
        case active
        case inactive
        case background
    }

    public var applicationState = State.active

    /// Tasks that were begun and not ended.
    public private(set) var backgroundTasks: Set<UIBackgroundTaskIdentifier> = []
    private var given = 0

    public func beginBackgroundTask(
        withName name: String?, expirationHandler handler: (@MainActor @Sendable () -> Void)? = nil
    ) -> UIBackgroundTaskIdentifier {
        given += 1
        let identifier = UIBackgroundTaskIdentifier(rawValue: given)
        backgroundTasks.insert(identifier)
        return identifier
    }

    public func endBackgroundTask(_ identifier: UIBackgroundTaskIdentifier) {
        backgroundTasks.remove(identifier)
    }
}
