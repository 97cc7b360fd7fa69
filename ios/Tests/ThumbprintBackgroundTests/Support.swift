import Foundation
import ThumbprintBackground
import ThumbprintKit
import XCTest

/// SmolLM2-135M-Instruct, Q4_1.
let model = URL(fileURLWithPath: ProcessInfo.processInfo.environment["THUMBPRINT_TEST_MODEL"] ?? "/set/THUMBPRINT_TEST_MODEL")
let engine = EngineOptions(nCtx: 1024, nThreads: 1)
let short = GenerationOptions(temperature: 0, maximumResponseTokens: 12, seed: 1)

extension XCTestCase {
    /// A folder that is gone after the test.
    func temporaryFolder() throws -> URL {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("thumbprint-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        addTeardownBlock { try? FileManager.default.removeItem(at: folder) }
        return folder
    }
}

/// A data folder with the model, closed when it is let go of.
func open(_ folder: URL) async throws -> Thumbprint {
    try await Thumbprint(dataDirectory: folder, model: model, engine: engine)
}

/// Twelve thumbs of somebody who likes short answers.
func teach(_ tp: Thumbprint) async throws {
    for n in 0..<12 {
        let isShort = n % 2 == 0
        let answer = isShort ? "It is \(n)." : String(repeating: "There are many things to be said about that. ", count: 6)
        try await tp.record(isShort ? .up : .down(), onExternal: answer, to: [.user("What is \(n)?")])
    }
}

/// Stands for the system's task.
final class FakeTask: BackgroundTask, @unchecked Sendable {
    private let lock = NSLock()
    private var handler: (@Sendable () -> Void)?
    private var ends: [Bool] = []

    var completions: [Bool] { lock.withLock { ends } }

    func onExpiration(_ handler: @escaping @Sendable () -> Void) {
        lock.withLock { self.handler = handler }
    }

    func complete(success: Bool) {
        lock.withLock { ends.append(success) }
    }

    func expire() {
        lock.withLock { handler }?()
    }
}
