import Foundation
import ThumbprintKit
import XCTest

/// Errors by case, with codes, words and numbers; and never with what a person wrote.
final class ErrorTests: XCTestCase {
    func testTypedErrors() async throws {
        let tp = try await open()
        let nowhere = URL(fileURLWithPath: "/nowhere/file")
        let cases: [(String, String, () async throws -> Any)] = [
            ("notFound", "unknown_reply", { try await tp.record(.up, on: ReplyID(rawValue: 99)) }),
            ("notFound", "unknown_feedback", { try await tp.withdraw(FeedbackID(rawValue: 99)) }),
            ("notFound", "unknown_conversation", { try await tp.session(id: SessionID(rawValue: 99)) }),
            ("notFound", "unknown_adapter", { try await tp.adapter(AdapterID(rawValue: 99)) }),
            ("invalidState", "no_active_adapter", { try await tp.rollback() as Any }),
            ("invalidState", "nothing_to_regenerate", { try await tp.session().regenerateResponse().collect() }),
            ("invalidState", "nothing_to_edit", { try await tp.session().edit("x") }),
            ("invalidState", "nothing_to_judge", { try await tp.session().logFeedback(sentiment: .positive) as Any }),
            ("invalidInput", "empty_prompt", { try await tp.generate(Request([])).reply() }),
            ("invalidInput", "empty_prompt", { try await tp.session().respond(to: "  ") }),
            (
                "invalidInput", "invalid_option",
                { try await tp.generate(Request("Hello", options: GenerationOptions(maximumResponseTokens: 0))).reply() }
            ),
            (
                "invalidInput", "invalid_option",
                { try await tp.generate(Request("Hello", options: GenerationOptions(topK: -1))).reply() }
            ),
            ("invalidInput", "invalid_option", { try await tp.personalize(Budget(seconds: -1)) }),
            ("invalidInput", "empty_text", { try await tp.record(.up, onExternal: "", to: [.user("Hello")]) }),
            ("model", "model_file", { try await tp.load(nowhere) }),
            ("file", "file", { try await tp.exportFeedback(to: nowhere) }),
            ("import", "import", { try await tp.importFeedback(from: nowhere) }),
        ]
        for (name, code, call) in cases {
            let error = await thrown { try await call() }
            let ours = try XCTUnwrap(error as? ThumbprintError, "\(code): \(String(describing: error))")
            XCTAssertEqual(Mirror(reflecting: ours).children.first?.label, name)
            XCTAssertEqual(ours.code, code)
            XCTAssertEqual(ours.localizedDescription, ours.reason)
            XCTAssertFalse(ours.reason.isEmpty)
        }
    }

    func testAPromptThatIsTooLongTellsBothNumbersAndNotWhatWasWritten() async throws {
        let tp = try await open()
        let error = await thrown {
            try await tp.generate(Request(String(repeating: "secret ", count: 2000))).reply()
        }
        guard case ThumbprintError.promptTooLong(let context, let promptTokens, let nCtx)? = error else {
            return XCTFail("\(String(describing: error))")
        }
        XCTAssertEqual(nCtx, 1024)
        XCTAssertGreaterThan(promptTokens, 2000)
        XCTAssertFalse(context.reason.contains("secret"))
    }

    func testNoErrorQuotesWhatAPersonWrote() async throws {
        let tp = try await open()
        let secret = "my-secret-words"
        let reply = try await tp.generate(Request("Hello", options: short)).reply()
        let other = try await tp.generate(Request(secret, options: short)).reply()
        let attempts: [() async throws -> Any] = [
            { try await tp.generate(Request(String(repeating: "\(secret) ", count: 2000))).reply() },
            { try await tp.record(.prefer(over: other.id), on: reply.id) },
            { try await tp.record(.edit(" "), on: reply.id) },
        ]
        for attempt in attempts {
            let error = await thrown { try await attempt() }
            let ours = try XCTUnwrap(error as? ThumbprintError)
            XCTAssertFalse("\(ours)".contains(secret))
        }
    }

    func testUnderAKeyNothingCanBeReadWithoutItOrTheBuildSaysThatItCannotEncrypt() async throws {
        let folder = try temporaryFolder().appendingPathComponent("data")
        let key = Data((0..<32).map { _ in UInt8.random(in: 0...255) })
        let wrongLength = await code { try await Thumbprint(dataDirectory: folder, key: key.dropLast()) }
        XCTAssertEqual(wrongLength, "key_length")
        guard Thumbprint.machine().encrypts else {
            let refused = await code { try await Thumbprint(dataDirectory: folder, key: key) }
            XCTAssertEqual(refused, "cannot_encrypt")
            return
        }
        let tp = try await Thumbprint(dataDirectory: folder, key: key)
        try await tp.record(.up, onExternal: "xylophone-quartz", to: [.user("What?")])
        await tp.close()
        XCTAssertEqual(try files(of: folder, holding: "xylophone-quartz"), [])
        let without = await code { try await Thumbprint(dataDirectory: folder) }
        XCTAssertEqual(without, "key_needed")
        let wrong = await code { try await Thumbprint(dataDirectory: folder, key: Data(repeating: 7, count: 32)) }
        XCTAssertEqual(wrong, "wrong_key")
        let again = try await Thumbprint(dataDirectory: folder, key: key)
        let readiness = try await again.readiness()
        XCTAssertEqual(readiness.have.events, 1)
        await again.close()
    }

    func testALineThatCannotBeUsedIsNamedAndNothingIsTakenIn() async throws {
        let tp = try await open()
        let file = try temporaryFolder().appendingPathComponent("in.jsonl")
        let good = #"{"prompt": "Hello", "completion": "Hi.", "label": true}"#
        try "\(good)\nnot json\n".write(to: file, atomically: true, encoding: .utf8)
        let error = await thrown { try await tp.importFeedback(from: file) }
        guard case ThumbprintError.import(_, let line)? = error else { return XCTFail("\(String(describing: error))") }
        XCTAssertEqual(line, 2)
        let readiness = try await tp.readiness()
        XCTAssertEqual(readiness.have.events, 0)
        try "\(good)\n\(good)\n".write(to: file, atomically: true, encoding: .utf8)
        let imported = try await tp.importFeedback(from: file, filters: ImportFilters(duplicates: true))
        XCTAssertEqual(imported.recorded, 1)
        XCTAssertEqual(imported.passed, ["duplicate": 1])
        let out = try temporaryFolder().appendingPathComponent("out.jsonl")
        let exported = try await tp.exportFeedback(to: out, format: .unpaired)
        XCTAssertEqual(exported.lines, 1)
        XCTAssertEqual(exported.leftOut, 0)
    }

    func testAModelThatWasNeverNamed() async throws {
        let tp = try await Thumbprint(dataDirectory: temporaryFolder())
        let code = await code { try await tp.generate(Request("Hello")).reply() }
        XCTAssertEqual(code, "no_model")
        await tp.close()
    }
}
