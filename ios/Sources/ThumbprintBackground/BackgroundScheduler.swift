#if os(iOS) || os(Linux)  // where Tests/Declarations stand for the framework
    import BackgroundTasks
    import Foundation
    import ThumbprintKit

    /// Asks iOS for time to learn in: at night on the charger, and at once when the person wants it.
    ///
    /// Its identifiers go into the app's Info.plist under `BGTaskSchedulerPermittedIdentifiers`, and `processing` under `UIBackgroundModes`.
    public final class BackgroundScheduler: Sendable {
        private let nightly: String
        private let now: String?
        private let training: BackgroundTraining

        /// `nightly` names the task that runs on the charger, `now` those that the person starts (iOS 26): its entry in the Info.plist ends in
        /// `.*`, since each of them has a name of its own.
        public init(nightly: String, now: String? = nil, training: BackgroundTraining) {
            self.nightly = nightly
            self.now = now
            self.training = training
        }

        /// Must be called before the app has finished launching.
        @discardableResult
        public func register() -> Bool {
            BGTaskScheduler.shared.register(forTaskWithIdentifier: nightly, using: nil) { task in
                let task = SystemTask(task)
                Task {
                    let ending = await self.training.run(task)
                    if ending.wantsMore {
                        try? self.schedule()
                    }
                }
            }
        }

        /// Asks for a night on the charger. To be called when the app goes to the background, and after feedback.
        ///
        /// iOS runs it while the device is not in use, and never after the person has forced the app to quit.
        public func schedule(notBefore: Date? = nil) throws {
            let request = BGProcessingTaskRequest(identifier: nightly)
            // It also lifts the limit on the CPU, over which iOS would end the app.
            request.requiresExternalPower = true
            request.requiresNetworkConnectivity = false
            request.earliestBeginDate = notBefore
            try BGTaskScheduler.shared.submit(request)
        }

        /// Takes the request back.
        public func cancel() {
            BGTaskScheduler.shared.cancel(taskRequestWithIdentifier: nightly)
        }

        #if compiler(>=6.2) || os(Linux)  // Xcode 26, whose SDK has it
            /// Learns now, with a progress that the system shows, also after the person leaves the app. To be called from the person's tap.
            @available(iOS 26.0, *)
            public func personalizeNow(title: String, subtitle: String) throws {
                guard let now else {
                    throw ThumbprintBackgroundError.noIdentifier
                }
                let identifier = "\(now).\(UUID().uuidString)"
                BGTaskScheduler.shared.register(forTaskWithIdentifier: identifier, using: nil) { task in
                    guard let task = task as? BGContinuedProcessingTask else {
                        return task.setTaskCompleted(success: false)
                    }
                    let shown = Shown(task, title: title)
                    let handed = SystemTask(task)
                    Task {
                        let ending = await self.training.run(handed) { shown.show($0) }
                        if ending.wantsMore {
                            // The person pressed stop, or the system did: it goes on at night.
                            try? self.schedule()
                        }
                    }
                }
                let request = BGContinuedProcessingTaskRequest(identifier: identifier, title: title, subtitle: subtitle)
                // Training is on the CPU: no resources are asked for.
                request.strategy = .fail
                try BGTaskScheduler.shared.submit(request)
            }
        #endif
    }

    /// A `BGTask` as this package takes it. The system's object may be used from any thread.
    private final class SystemTask: BackgroundTask, @unchecked Sendable {
        private let task: BGTask

        init(_ task: BGTask) {
            self.task = task
        }

        func onExpiration(_ handler: @escaping @Sendable () -> Void) {
            task.expirationHandler = handler
        }

        func complete(success: Bool) {
            task.setTaskCompleted(success: success)
        }
    }

    #if compiler(>=6.2) || os(Linux)
        /// The progress that the system shows for a task that the person started.
        @available(iOS 26.0, *)
        private final class Shown: @unchecked Sendable {
            private let task: BGContinuedProcessingTask
            private let title: String
            private var estimate = ProgressEstimate()

            init(_ task: BGContinuedProcessingTask, title: String) {
                self.task = task
                self.title = title
                task.progress.totalUnitCount = 1000
            }

            func show(_ progress: JobProgress) {
                task.progress.completedUnitCount = Int64(1000 * estimate.fraction(at: progress))
                task.updateTitle(title, subtitle: "\(progress.phase.rawValue): \(progress.step) / \(progress.total)")
            }
        }
    #endif
#endif
