#if os(iOS) || os(Linux)  // where Tests/Declarations stand for the framework
    import Foundation
    import ThumbprintKit
    import UIKit

    /// Releases the model and every lock when the app leaves the screen, so that iOS can suspend it. What runs then is cut off: a reply, and a job
    /// that no background task carries.
    @MainActor
    public final class Lifecycle {
        private let thumbprint: @Sendable () async -> Thumbprint?
        private let carriesOn: @Sendable () async -> Bool
        private var observers: [any NSObjectProtocol] = []
        private var assertion = UIBackgroundTaskIdentifier.invalid

        /// `thumbprint` gives what is open, if anything. `carriesOn` tells whether a background task is at work (`BackgroundTraining.isRunning`),
        /// in which case nothing is done: it suspends at its own end. Without it, a job that the person started ends when they leave the app.
        public init(
            carriesOn: @escaping @Sendable () async -> Bool = { false }, thumbprint: @escaping @Sendable () async -> Thumbprint?
        ) {
            self.thumbprint = thumbprint
            self.carriesOn = carriesOn
            let entered = NotificationCenter.default.addObserver(
                forName: UIApplication.didEnterBackgroundNotification, object: nil, queue: .main
            ) { [weak self] _ in
                MainActor.assumeIsolated { self?.suspend() }
            }
            let warned = NotificationCenter.default.addObserver(
                forName: UIApplication.didReceiveMemoryWarningNotification, object: nil, queue: .main
            ) { [weak self] _ in
                MainActor.assumeIsolated { self?.unload() }
            }
            observers = [entered, warned]
        }

        private func suspend() {
            assertion = UIApplication.shared.beginBackgroundTask(withName: "thumbprint-suspend") { [weak self] in
                MainActor.assumeIsolated { self?.end() }
            }
            Task {
                if await !carriesOn(), let tp = await thumbprint() {
                    try? await tp.suspend()
                }
                end()
            }
        }

        private func end() {
            UIApplication.shared.endBackgroundTask(assertion)
            assertion = .invalid
        }

        /// The system ends the app next: the model is loaded again at the next use.
        private func unload() {
            let thumbprint = thumbprint
            Task {
                try? await thumbprint()?.unload()
            }
        }
    }
#endif
