// What the tests share: the real demo model, data folders with it, and another process.

import Foundation
import ThumbprintKit
import XCTest

/// SmolLM2-135M-Instruct, Q4_1.
let model = URL(fileURLWithPath: ProcessInfo.processInfo.environment["THUMBPRINT_TEST_MODEL"] ?? "/set/THUMBPRINT_TEST_MODEL")

// One thread: two that wait for one another are slow on a machine that has other things to do.
let engine = EngineOptions(nCtx: 1024, nThreads: 1)
let short = GenerationOptions(temperature: 0, maximumResponseTokens: 12, seed: 1)
let medium = GenerationOptions(temperature: 0, maximumResponseTokens: 96, seed: 1)
let long = GenerationOptions(temperature: 0, maximumResponseTokens: 400, seed: 1)

// Without the base's own replies beside the feedback, which take minutes to be written.
let brief = Recipe(settingsJSON: #"{"west_of_n": null, "folds_from": 0}"#)

extension XCTestCase {
    /// A folder that is gone after the test.
    func temporaryFolder() throws -> URL {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("thumbprint-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        addTeardownBlock { try? FileManager.default.removeItem(at: folder) }
        return folder
    }

    /// A data folder of its own, with the model.
    func open(_ folder: URL? = nil, engine: EngineOptions = engine) async throws -> Thumbprint {
        let folder = try folder ?? temporaryFolder().appendingPathComponent("data")
        let tp = try await Thumbprint(dataDirectory: folder, model: model, engine: engine)
        addTeardownBlock { await tp.close() }
        return tp
    }
}

/// Long replies that are asked for, the first of which is being written.
func busy(_ tp: Thumbprint) async -> [Generation] {
    let replies = (0..<8).map { tp.generate(Request("Tell me \($0) long stories.", options: long)) }
    let (tokens, token) = AsyncStream.makeStream(of: Void.self)
    Task {
        defer { token.finish() }
        for try await _ in replies[0] {
            token.yield()
        }
    }
    for await _ in tokens { break }
    return replies
}

/// Files of a folder that hold a text.
func files(of folder: URL, holding text: String) throws -> [String] {
    let names = try FileManager.default.subpathsOfDirectory(atPath: folder.path)
    return names.filter { name in
        let content = FileManager.default.contents(atPath: folder.appendingPathComponent(name).path)
        return content?.range(of: Data(text.utf8)) != nil
    }
}

/// Runs something that must throw, and gives what it threw.
func thrown<T>(
    file: StaticString = #filePath, line: UInt = #line, by body: () async throws -> T
) async -> (any Error)? {
    do {
        let value = try await body()
        XCTFail("should have thrown, but came to \(value)", file: file, line: line)
        return nil
    } catch {
        return error
    }
}

/// The same for an error of the library's: its code.
func code<T>(file: StaticString = #filePath, line: UInt = #line, of body: () async throws -> T) async -> String? {
    let error = await thrown(file: file, line: line, by: body)
    let ours = error as? ThumbprintError
    XCTAssertEqual(ours == nil, error == nil, "\(String(describing: error))", file: file, line: line)
    if let ours {
        XCTAssertFalse(ours.reason.isEmpty, file: file, line: line)
    }
    return ours?.code
}

#if os(Linux) || os(macOS)
    /// Another process; see Tests/Child.
    final class Child: Sendable {
        let process: Process
        private let output: FileHandle
        private let input: FileHandle

        init(_ arguments: String...) throws {
            let (outgoing, incoming) = (Pipe(), Pipe())
            process = Process()
            process.executableURL = Self.executable
            process.arguments = arguments
            process.standardOutput = outgoing
            process.standardInput = incoming
            output = outgoing.fileHandleForReading
            input = incoming.fileHandleForWriting
            try process.run()
        }

        private static var executable: URL {
            #if os(macOS)
                let products = Bundle(for: LoadingTests.self).bundleURL.deletingLastPathComponent()
            #else
                let products = URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent()
            #endif
            return products.appendingPathComponent("thumbprint-test-child")
        }

        /// The next line that it says; `nil` at its end.
        func line() -> String? {
            var line = Data()
            while let byte = try? output.read(upToCount: 1), !byte.isEmpty {
                if byte[0] == UInt8(ascii: "\n") {
                    return String(decoding: line, as: UTF8.self)
                }
                line.append(byte)
            }
            return nil
        }

        /// Lets it end.
        func end() {
            try? input.close()
            process.waitUntilExit()
        }

        func kill() {
            Foundation.kill(process.processIdentifier, SIGKILL)
            process.waitUntilExit()
        }
    }

    /// What another process says about a folder: "free", or "folder_in_use PID".
    func elsewhere(_ folder: URL) throws -> String? {
        let child = try Child("probe", folder.path)
        defer { child.end() }
        return child.line()
    }
#endif
