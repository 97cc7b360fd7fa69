import Foundation
import ThumbprintKit
import XCTest

/// One folder, several handles, one process; closing in any order; suspending.
final class ClosingTests: XCTestCase {
    func testCancelWhileClosing() async throws {
        let folder = try temporaryFolder().appendingPathComponent("data")
        let tp = try await open(folder)
        let generation = tp.generate(Request("Tell me a long story.", options: long))
        let began = expectation(description: "the reply began")
        began.assertForOverFulfill = false
        let following = Task {
            for try await _ in generation {
                began.fulfill()
            }
        }
        await fulfillment(of: [began], timeout: 120)
        generation.cancel()
        await tp.close()
        // It was cancelled and closed at once: it had its end, or was told that there is none.
        do {
            try await following.value
        } catch {
            guard case ThumbprintError.closed = error else { return XCTFail("\(error)") }
        }
        XCTAssertEqual(try elsewhere(folder), "free")
    }

    func testUseAfterClose() async throws {
        let tp = try await open()
        let session = try await tp.session()
        let generation = tp.generate(Request("Tell me a long story.", options: long))
        var events = generation.makeAsyncIterator()
        _ = try await events.next()
        let job = try await tp.personalize()
        _ = try await job.outcome()
        await tp.close()
        await tp.close()
        XCTAssertTrue(tp.isClosed)
        let calls: [() async throws -> Any] = [
            { try await tp.generate(Request("Hello")).reply() },
            { try await tp.record(.up, on: ReplyID(rawValue: 1)) },
            { try await tp.readiness() },
            { try await tp.adapters() },
            { try await tp.suspend() },
            { try await tp.session() },
            { try await session.transcript() },
            { try await session.respond(to: "Hello") },
            { try await generation.reply() },
            { try await job.resume() },
            { try await job.cancel() },
        ]
        for (n, call) in calls.enumerated() {
            let code = await code { try await call() }
            XCTAssertEqual(code, "closed", "call \(n)")
        }
        // What has nothing to tell any more does nothing.
        generation.cancel()
        job.pause()
    }

    func testClosingInTheMiddleOfLoadingGivesItUp() async throws {
        let folder = try temporaryFolder().appendingPathComponent("data")
        let tp = try await Thumbprint(dataDirectory: folder)
        let code = await code {
            try await tp.load(model) { _ in
                Task { await tp.close() }
                Thread.sleep(forTimeInterval: 0.2)
                return true
            }
        }
        XCTAssertEqual(code, "closed")
        await tp.close()
        XCTAssertEqual(try elsewhere(folder), "free")
    }

    func testTheFolderOpenedTwice() async throws {
        let folder = try temporaryFolder().appendingPathComponent("data")
        let app = try await open(folder)
        let worker = try await Thumbprint(dataDirectory: folder)
        let found = try await [app.openReport(), worker.openReport()]
        XCTAssertEqual(found.map(\.alreadyOpen), [false, true])
        try await worker.record(.up, onExternal: "Hi.", to: [.user("Hello")])
        let readiness = try await app.readiness()
        XCTAssertEqual(readiness.have.events, 1)
        // The worker has the model that the app named.
        _ = try await worker.generate(Request("Hello", options: short)).reply()
        await worker.close()
        _ = try await app.generate(Request("Hello", options: short)).reply()
        let pid = ProcessInfo.processInfo.processIdentifier
        XCTAssertEqual(try elsewhere(folder), "folder_in_use \(pid)")
        await app.close()
        XCTAssertEqual(try elsewhere(folder), "free")
    }

    func testAnotherProcessHasTheFolder() async throws {
        let folder = try temporaryFolder().appendingPathComponent("data")
        let other = try Child("hold", folder.path)
        XCTAssertEqual(other.line(), "open")
        let error = await thrown { try await Thumbprint(dataDirectory: folder) }
        if case ThumbprintError.folderInUse(let context, let pid)? = error {
            XCTAssertEqual(pid, UInt32(other.process.processIdentifier))
            XCTAssertTrue(context.reason.contains("\(other.process.processIdentifier)"))
        } else {
            XCTFail("\(String(describing: error))")
        }
        other.end()
        await (try Thumbprint(dataDirectory: folder)).close()
    }

    func testSuspend() async throws {
        let folder = try temporaryFolder().appendingPathComponent("data")
        let tp = try await open(folder)
        let reply = try await tp.generate(Request("Hello", options: short)).reply()
        try await tp.suspend()
        XCTAssertEqual(try elsewhere(folder), "free")
        try await tp.record(.up, on: reply.id)
        XCTAssertEqual(try elsewhere(folder)?.hasPrefix("folder_in_use"), true)
        let again = try await tp.generate(Request("Hello", options: short)).reply()
        XCTAssertEqual(again.text, reply.text)
    }

    func testWhatIsLetGoOfCloses() async throws {
        let folder = try temporaryFolder().appendingPathComponent("data")
        var tp: Thumbprint? = try await Thumbprint(dataDirectory: folder)
        var session = try await tp?.session()
        tp = nil
        XCTAssertNil(tp)
        // A chat is enough to keep it open.
        let turns = try await session?.transcript()
        XCTAssertEqual(turns?.count, 0)
        XCTAssertEqual(try elsewhere(folder)?.hasPrefix("folder_in_use"), true)
        session = nil
        XCTAssertNil(session)
        // The last call's thread may still hold it for a moment.
        for _ in 0..<50 {
            if try elsewhere(folder) == "free" { return }
            try await Task.sleep(nanoseconds: 100_000_000)
        }
        XCTFail("still open")
    }
}
