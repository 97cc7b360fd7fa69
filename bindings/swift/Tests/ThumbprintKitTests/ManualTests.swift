import Foundation
import XCTest

/// docs/swift.md and the package's README, whose snippets scripts/test-swift makes a program of.
final class ManualTests: XCTestCase {
    #if os(Linux) || os(macOS)
        func testTheManualsSnippetsRunOneAfterTheOther() async throws {
            guard let manual = ProcessInfo.processInfo.environment["THUMBPRINT_MANUAL"] else {
                throw XCTSkip("the program is built by scripts/test-swift")
            }
            let folder = try temporaryFolder()
            for name in ["SmolLM2-135M-Instruct.Q4_1.gguf", "model.gguf"] {
                try FileManager.default.createSymbolicLink(at: folder.appendingPathComponent(name), withDestinationURL: model)
            }
            let log = folder.appendingPathComponent("log")
            _ = FileManager.default.createFile(atPath: log.path, contents: nil)
            let process = Process()
            process.executableURL = URL(fileURLWithPath: manual)
            process.currentDirectoryURL = folder
            process.standardOutput = try FileHandle(forWritingTo: log)
            process.standardError = process.standardOutput
            try process.run()
            process.waitUntilExit()
            let printed = try String(contentsOf: log, encoding: .utf8)
            XCTAssertEqual(process.terminationStatus, 0, printed)
            XCTAssertTrue(printed.contains("nothingToLearn("), printed)
            XCTAssertGreaterThan(printed.split(separator: "\n").count, 10, printed)
        }
    #endif
}
