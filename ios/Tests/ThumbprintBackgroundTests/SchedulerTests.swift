#if os(Linux)
    import BackgroundTasks
    import Foundation
    import Security
    import ThumbprintBackground
    import ThumbprintKit
    import UIKit
    import XCTest

    @MainActor
    private func post(_ name: Notification.Name) {
        NotificationCenter.default.post(name: name, object: nil)
    }

    /// What imports Apple's frameworks, over Declarations: the tests do the system's part.
    final class SchedulerTests: XCTestCase {
        func testANightOnTheChargerIsAskedForAndAnotherOneWhenItsTimeIsOver() async throws {
            let tp = try await open(temporaryFolder().appendingPathComponent("data"))
            try await teach(tp)
            let scheduler = BackgroundScheduler(nightly: "night.expires", training: BackgroundTraining { tp })
            XCTAssertTrue(scheduler.register())
            XCTAssertFalse(scheduler.register(), "a name is registered once")
            try scheduler.schedule()
            let request = try XCTUnwrap(request("night.expires") as? BGProcessingTaskRequest)
            XCTAssertTrue(request.requiresExternalPower)
            XCTAssertFalse(request.requiresNetworkConnectivity)

            let task = BGProcessingTask(identifier: "night.expires")
            BGTaskScheduler.shared.launch(task)
            XCTAssertNil(self.request("night.expires"))
            try await until { try await tp.currentJob() != nil && task.expirationHandler != nil }
            task.expirationHandler?()
            try await until { !task.completions.isEmpty }
            XCTAssertEqual(task.completions, [false])
            try await until { self.request("night.expires") != nil }
            let job = try await tp.currentJob()
            XCTAssertEqual(job?.isFinished, false)
            scheduler.cancel()
            XCTAssertNil(self.request("night.expires"))
        }

        func testANightWithNothingToLearnIsCompletedAndNotAskedForAgain() async throws {
            let tp = try await Thumbprint(dataDirectory: temporaryFolder().appendingPathComponent("data"))
            let scheduler = BackgroundScheduler(nightly: "night.empty", training: BackgroundTraining { tp })
            scheduler.register()
            try scheduler.schedule(notBefore: Date(timeIntervalSinceNow: 3600))
            XCTAssertNotNil(request("night.empty")?.earliestBeginDate)
            let task = BGProcessingTask(identifier: "night.empty")
            BGTaskScheduler.shared.launch(task)
            try await until { !task.completions.isEmpty }
            XCTAssertEqual(task.completions, [true])
            XCTAssertNil(request("night.empty"))
            await tp.close()
        }

        func testWhatThePersonStartsShowsItsProgressAndGoesOnAtNightWhenItIsStopped() async throws {
            let tp = try await open(temporaryFolder().appendingPathComponent("data"))
            try await teach(tp)
            let scheduler = BackgroundScheduler(nightly: "night.after", now: "now", training: BackgroundTraining { tp })
            try scheduler.personalizeNow(title: "Learning", subtitle: "Here")
            let submitted = BGTaskScheduler.shared.submitted.first { $0.identifier.hasPrefix("now.") }
            let request = try XCTUnwrap(submitted as? BGContinuedProcessingTaskRequest)
            XCTAssertEqual([request.title, request.subtitle], ["Learning", "Here"])
            let task = BGContinuedProcessingTask(identifier: request.identifier)
            BGTaskScheduler.shared.launch(task)
            try await until { task.progress.completedUnitCount > 10 }
            XCTAssertEqual(task.title, "Learning")
            XCTAssertTrue(task.subtitle.contains(" / "), task.subtitle)
            task.expirationHandler?()
            try await until { self.request("night.after") != nil }
            XCTAssertEqual(task.completions, [false])
            try scheduler.personalizeNow(title: "Learning", subtitle: "Again")

            let nameless = BackgroundScheduler(nightly: "night.nameless", training: BackgroundTraining { tp })
            XCTAssertThrowsError(try nameless.personalizeNow(title: "", subtitle: "")) { error in
                XCTAssertEqual(error as? ThumbprintBackgroundError, .noIdentifier)
            }
        }

        func testLeavingTheScreenLeavesAloneWhatThePersonStartedAndItSuspendsAtItsOwnEnd() async throws {
            let folder = try temporaryFolder().appendingPathComponent("data")
            let tp = try await open(folder)
            try await teach(tp)
            let training = BackgroundTraining { tp }
            let scheduler = BackgroundScheduler(nightly: "night.carried", now: "carried", training: training)
            let lifecycle = await Lifecycle(carriesOn: { training.isRunning }) { tp }
            XCTAssertFalse(training.isRunning)
            try scheduler.personalizeNow(title: "Learning", subtitle: "Here")
            let request = try XCTUnwrap(BGTaskScheduler.shared.submitted.first { $0.identifier.hasPrefix("carried.") })
            let task = BGContinuedProcessingTask(identifier: request.identifier)
            BGTaskScheduler.shared.launch(task)
            try await until { task.progress.completedUnitCount > 10 }
            XCTAssertTrue(training.isRunning)

            await post(UIApplication.didEnterBackgroundNotification)
            try await until { await UIApplication.shared.backgroundTasks.isEmpty }
            let shown = task.subtitle
            try await until { task.subtitle != shown || !task.completions.isEmpty }
            XCTAssertEqual(task.completions, [], "it was ended by leaving the screen")
            XCTAssertTrue(training.isRunning)
            XCTAssertFalse(try isFree(folder))

            task.expirationHandler?()
            try await until { !task.completions.isEmpty }
            XCTAssertFalse(training.isRunning)
            XCTAssertTrue(try isFree(folder), "nobody is left to let go of the folder")
            withExtendedLifetime(lifecycle) {}
        }

        func testAKeyIsDrawnOnceAndStaysOnItsDevice() throws {
            let key = try DatabaseKeychain.key(service: "test")
            XCTAssertEqual(key.count, 32)
            XCTAssertEqual(try DatabaseKeychain.key(service: "test"), key)
            XCTAssertNotEqual(try DatabaseKeychain.key(service: "other"), key)
            let item = keychainItem(service: "test", account: "thumbprint-database")
            XCTAssertEqual(item?[kSecAttrAccessible] as? String, kSecAttrAccessibleAfterFirstUnlockThisDeviceOnly)
            try DatabaseKeychain.forget(service: "test")
            try DatabaseKeychain.forget(service: "test")
            XCTAssertNotEqual(try DatabaseKeychain.key(service: "test"), key)
        }

        func testLeavingTheScreenReleasesTheFolder() async throws {
            let folder = try temporaryFolder().appendingPathComponent("data")
            let tp = try await open(folder)
            _ = try await tp.modelInfo()
            let lifecycle = await Lifecycle { tp }
            await post(UIApplication.didReceiveMemoryWarningNotification)
            await post(UIApplication.didEnterBackgroundNotification)
            try await until { try self.isFree(folder) }
            try await until { await UIApplication.shared.backgroundTasks.isEmpty }
            withExtendedLifetime(lifecycle) {}
        }

        /// Whoever holds the folder holds a lock on a file of it.
        private func isFree(_ folder: URL) throws -> Bool {
            let file = open(folder.appendingPathComponent("thumbprint.lock").path, O_RDWR)
            XCTAssertGreaterThanOrEqual(file, 0)
            defer { close(file) }
            return flock(file, LOCK_EX | LOCK_NB) == 0
        }

        private func request(_ identifier: String) -> BGTaskRequest? {
            BGTaskScheduler.shared.submitted.first { $0.identifier == identifier }
        }

        private func until(_ condition: () async throws -> Bool) async throws {
            for _ in 0..<3000 {
                if try await condition() { return }
                try await Task.sleep(nanoseconds: 50_000_000)
            }
            XCTFail("did not come to pass in 150 s")
        }
    }
#endif
