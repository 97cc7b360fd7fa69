import Foundation
import ThumbprintBackground
import ThumbprintKit
import XCTest

/// Turns of training under a task that stands for the system's.
final class BackgroundTrainingTests: XCTestCase {
    func testExpirationPausesTheJobAndTheNextTurnGoesOnWithIt() async throws {
        let folder = try temporaryFolder().appendingPathComponent("data")
        let tp = try await open(folder)
        try await teach(tp)
        let training = BackgroundTraining { tp }

        let first = FakeTask()
        let ending = await training.run(first) { progress in
            if progress.phase == .reference || progress.phase == .fold {
                first.expire()
            }
        }
        XCTAssertEqual(ending, .paused)
        XCTAssertTrue(ending.wantsMore)
        XCTAssertEqual(first.completions, [false])
        // Suspended, so nothing is locked: the log is opened again by this.
        let found = try await tp.currentJob()
        let job = try XCTUnwrap(found)
        XCTAssertFalse(job.isFinished)

        // Expires before anything begins.
        let second = FakeTask()
        let early = BackgroundTraining {
            second.expire()
            return tp
        }
        let again = await early.run(second)
        XCTAssertEqual(again, .paused)
        XCTAssertEqual(second.completions, [false])

        // The one after it goes on with the same job, and is told that it is over.
        let third = FakeTask()
        let cancelling = await training.run(third) { _ in
            Task { try? await tp.currentJob()?.cancel() }
        }
        XCTAssertEqual(cancelling, .finished(.cancelled))
        XCTAssertEqual(third.completions, [true])
        XCTAssertTrue(job.isFinished)
    }

    func testTooLittleFeedbackEndsTheTurnWithoutLoadingAModel() async throws {
        let folder = try temporaryFolder().appendingPathComponent("data")
        let tp = try await Thumbprint(dataDirectory: folder, model: URL(fileURLWithPath: "/nowhere/model.gguf"))
        let task = FakeTask()
        let ending = await BackgroundTraining { tp }.run(task)
        guard case .finished(.nothingToLearn(let readiness)) = ending else { return XCTFail("\(ending)") }
        XCTAssertEqual(readiness.have.events, 0)
        XCTAssertEqual(task.completions, [true])
        await tp.close()
    }

    func testWhatFailsIsToldAndCompletesTheTask() async throws {
        let task = FakeTask()
        let nowhere = BackgroundTraining { try await Thumbprint(dataDirectory: URL(fileURLWithPath: "/dev/null/data")) }
        let ending = await nowhere.run(task)
        guard case .failed(let reason) = ending else { return XCTFail("\(ending)") }
        XCTAssertFalse(reason.isEmpty)
        XCTAssertFalse(ending.wantsMore)
        XCTAssertEqual(task.completions, [false])
    }

    func testOneNumberForTheProgressNeverGoesBack() {
        var estimate = ProgressEstimate()
        XCTAssertEqual(estimate.fraction(at: progress(.curate, 0, 1)), 0)
        let half = estimate.fraction(at: progress(.fold, 5, 10))
        XCTAssertEqual(half, 0.3, accuracy: 1e-9)
        XCTAssertEqual(estimate.fraction(at: progress(.fold, 0, 10)), half)
        XCTAssertLessThan(estimate.fraction(at: progress(.train, 9, 10)), 1)
        XCTAssertEqual(estimate.fraction(at: progress(.online, 1, 2)), 0.9, accuracy: 1e-9)
        XCTAssertEqual(estimate.fraction(at: progress(.done, 0, 0)), 1)
    }

    private func progress(_ phase: Phase, _ step: Int, _ total: Int) -> JobProgress {
        JobProgress(phase: phase, step: step, total: total)
    }

    func testTheDataFolderIsMadeAndNotInAnAppGroup() throws {
        let parent = try temporaryFolder()
        let folder = try DataFolder.prepare(in: parent)
        XCTAssertTrue(FileManager.default.fileExists(atPath: folder.path))
        XCTAssertEqual(try DataFolder.prepare(in: parent), folder)
        XCTAssertNoThrow(try DataFolder.protect(folder))
        XCTAssertThrowsError(try DataFolder.prepare(in: parent.appendingPathComponent("Shared/AppGroup/1"))) { error in
            XCTAssertEqual(error as? ThumbprintBackgroundError, .inAppGroup)
        }
    }
}
