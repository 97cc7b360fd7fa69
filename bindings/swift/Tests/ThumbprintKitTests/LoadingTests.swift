import Foundation
import ThumbprintKit
import XCTest

/// Loading with a listener of the app's.
final class LoadingTests: XCTestCase {
    func testLoadWithProgress() async throws {
        let tp = try await Thumbprint(dataDirectory: temporaryFolder())
        let heard = Box<[Float]>([])
        try await tp.load(model) { fraction in
            heard.change { $0.append(fraction) }
            return true
        }
        let fractions = heard.value
        XCTAssertGreaterThan(fractions.count, 2)
        XCTAssertEqual(fractions, fractions.sorted())
        XCTAssertEqual(fractions.last, 1)
        let info = try await tp.modelInfo()
        XCTAssertEqual(info.architecture, "llama")
        XCTAssertEqual(info.modelPath, model.path)
        await tp.close()
    }

    func testStopFromTheCallback() async throws {
        let tp = try await open()
        let stopped = await code { try await tp.load(model) { _ in false } }
        XCTAssertEqual(stopped, "cancelled")
        // Nothing is broken by it.
        let reply = try await tp.generate(Request("Hello", options: short)).reply()
        XCTAssertFalse(reply.text.isEmpty)
        // The loop over a reply is left.
        var pieces = 0
        let generation = tp.generate(Request("Tell me a long story.", options: long))
        for try await event in generation {
            if case .token = event {
                pieces += 1
                break
            }
        }
        XCTAssertEqual(pieces, 1)
        let cut = try await generation.reply()
        XCTAssertEqual(cut.stopReason, .cancelled)
        XCTAssertLessThan(cut.usage.completionTokens, 100)
        // What there is was recorded.
        try await tp.record(.up, on: cut.id)
    }

    func testCallbackThrows() async throws {
        struct Oops: Error, Equatable {
            let number: Int
        }
        let tp = try await open()
        let error = await thrown { try await tp.load(model) { _ in throw Oops(number: 7) } }
        XCTAssertEqual(error as? Oops, Oops(number: 7))
        try await tp.load(model)
    }

    func testCallbackThrowsWhileAReplyStreams() async throws {
        struct Oops: Error, Equatable {
            let number: Int
        }
        let tp = try await open()
        let generation = tp.generate(Request("Tell me a long story.", options: long))
        let error = await thrown {
            for try await _ in generation {
                throw Oops(number: 8)
            }
        }
        XCTAssertEqual(error as? Oops, Oops(number: 8))
        let reply = try await generation.reply()
        XCTAssertEqual(reply.stopReason, .cancelled)
        XCTAssertLessThan(reply.usage.completionTokens, 100)
    }

    func testACancelledTaskCancelsLoading() async throws {
        let tp = try await Thumbprint(dataDirectory: temporaryFolder())
        let began = expectation(description: "loading began")
        began.assertForOverFulfill = false
        let loading = Task {
            try await tp.load(model) { _ in
                began.fulfill()
                return true
            }
        }
        await fulfillment(of: [began], timeout: 120)
        loading.cancel()
        let error = await thrown { try await loading.value }
        XCTAssertTrue(error is CancellationError, "\(String(describing: error))")
        let never = Task { try await tp.load(model) }
        never.cancel()
        _ = await thrown { try await never.value }
        // Neither stands in the way of the next.
        try await tp.load(model)
        let info = try await tp.modelInfo()
        XCTAssertEqual(info.nCtx % 256, 0)
        await tp.close()
    }

    func testAMachineAndAModelAreToldWithoutLoading() async throws {
        let machine = Thumbprint.machine()
        XCTAssertTrue(machine.devices.contains { $0.kind == .cpu })
        XCTAssertTrue(machine.trainableArchitectures.contains("llama"))
        let estimate = try await Thumbprint.estimateMemory(of: model, nCtx: 1024, exampleTokens: 512)
        // 30 blocks of 3 heads of 64, keys and values, two bytes each.
        XCTAssertEqual(estimate.inference.cache, 30 * 3 * 128 * 1024 * 2)
        let training = try XCTUnwrap(estimate.training)
        XCTAssertLessThan(training.least, training.fullSpeed)
        let hash = try await Thumbprint.hash(of: model)
        try await Thumbprint.verify(model, sha256: hash.uppercased())
        let wrong = await code { try await Thumbprint.verify(model, sha256: String(repeating: "0", count: 64)) }
        XCTAssertEqual(wrong, "wrong_hash")
    }

    func testTheLogIsHandedOver() async throws {
        let records = Box<[LogRecord]>([])
        try Thumbprint.setLogHandler { record in records.change { $0.append(record) } }
        defer { try? Thumbprint.setLogHandler(nil) }
        // A database that is none is moved aside, with a warning.
        let folder = try temporaryFolder()
        try Data(repeating: 1, count: 4096).write(to: folder.appendingPathComponent("thumbprint.db"))
        let tp = try await Thumbprint(dataDirectory: folder)
        let report = try await tp.openReport()
        XCTAssertNotNil(report.movedAside)
        await tp.close()
        for _ in 0..<100 where records.value.isEmpty {
            try await Task.sleep(nanoseconds: 50_000_000)
        }
        XCTAssertTrue(records.value.contains { $0.level == .warn && $0.target.hasPrefix("thumbprint") }, "\(records.value)")
    }
}

/// A value that closures of other threads change.
final class Box<Value: Sendable>: @unchecked Sendable {
    private let lock = NSLock()
    private var held: Value

    init(_ value: Value) {
        held = value
    }

    var value: Value { lock.withLock { held } }

    func change(_ body: (inout Value) -> Void) {
        lock.withLock { body(&held) }
    }
}
