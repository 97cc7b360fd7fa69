import Foundation
import ThumbprintKit
import XCTest

/// Feedback is recorded at once, without a model, and can be taken back or erased.
final class FeedbackTests: XCTestCase {
    func testFeedbackAndWithdrawal() async throws {
        let tp = try await open()
        let reply = try await tp.generate(Request("Hello", options: short)).reply()
        let up = try await tp.record(.up, on: reply.id)
        let down = try await tp.record(.down(reasons: ["too short"]), on: reply.id)
        XCTAssertGreaterThan(down, up)
        var said = try await tp.feedback(on: reply.id)
        XCTAssertEqual(said.map(\.id), [down])
        XCTAssertEqual(said.map(\.feedback), [.down(reasons: ["too short"])])
        try await tp.withdraw(down)
        // The one before it had been replaced for good.
        said = try await tp.feedback(on: reply.id)
        XCTAssertEqual(said, [])
        let readiness = try await tp.readiness()
        XCTAssertEqual(readiness.have.events, 0)
        XCTAssertFalse(readiness.isReady)
    }

    func testRecordingNeverLoadsAModel() async throws {
        let tp = try await Thumbprint(dataDirectory: temporaryFolder(), model: URL(fileURLWithPath: "/nowhere/model.gguf"))
        for (n, feedback) in [Feedback.up, .down(), .down(reasons: ["too long", "wrong"]), .edit("Better.")].enumerated() {
            try await tp.record(feedback, onExternal: "An answer.", to: [.user("About \(n)?")])
        }
        let readiness = try await tp.readiness()
        XCTAssertEqual(readiness.have.events, 4)
        await tp.close()
    }

    func testSentimentIssuesAndDesiredOutputAreRecordedAsThumbsAndEdits() async throws {
        let tp = try await open()
        let session = try await tp.session()
        let first = try await session.respond(to: "Name a colour.", options: short).reply
        var id = try await session.logFeedback(sentiment: .positive)
        var said = try await tp.feedback(on: first.id)
        XCTAssertEqual(said.map(\.feedback), [.up])
        XCTAssertEqual(said.first?.id, id)

        let issues = [Feedback.Issue(category: .tooVerbose), .init(category: .incorrect, explanation: "that is a number")]
        id = try await tp.logFeedback(on: first.id, sentiment: .negative, issues: issues)
        said = try await tp.feedback(on: first.id)
        XCTAssertEqual(said.map(\.feedback), [.down(reasons: ["too verbose", "incorrect: that is a number"])])

        id = try await session.logFeedback(sentiment: .negative, issues: issues, desiredOutput: "Blue.")
        said = try await tp.feedback(on: first.id)
        XCTAssertEqual(said.map(\.feedback), [.edit("Blue.")])
        XCTAssertEqual(said.first?.id, id)
        let turns = try await session.transcript()
        XCTAssertEqual(turns.last?.message, .assistant("Blue."))

        let nothing = try await tp.logFeedback(on: first.id, sentiment: .neutral)
        XCTAssertNil(nothing)
        let readiness = try await tp.readiness()
        XCTAssertEqual(readiness.have.events, 1)
    }

    func testWhatIsForgottenIsInNoFile() async throws {
        let secret = "xylophone-quartz"
        let folder = try temporaryFolder().appendingPathComponent("data")
        let tp = try await open(folder)
        let kept = try await tp.generate(Request("Hello", options: short)).reply()
        let reply = try await tp.generate(Request("What is a \(secret)?", options: short)).reply()
        let feedback = try await tp.record(.edit("A \(secret) is nothing."), on: reply.id)
        let forgotten = try await tp.forget(.feedback(feedback))
        XCTAssertEqual(forgotten.feedback, [feedback])
        XCTAssertEqual(forgotten.replies, [reply.id])
        let gone = await code { try await tp.record(.up, on: reply.id) }
        XCTAssertEqual(gone, "unknown_reply")
        try await tp.record(.up, on: kept.id)
        await tp.close()
        XCTAssertEqual(try files(of: folder, holding: secret), [])
    }

    func testARetryAndAPick() async throws {
        let tp = try await open()
        let session = try await tp.session()
        let first = try await session.respond(to: "Name a colour.", options: short).reply
        let other = GenerationOptions(temperature: 1.5, maximumResponseTokens: 12, seed: 3)
        let second = try await session.regenerateResponse(options: other).collect().reply
        let retried = try await tp.feedback(on: first.id)
        XCTAssertEqual(retried.map(\.feedback), [.retry])
        try await tp.record(.prefer(over: first.id), on: second.id)
        let picked = try await tp.feedback(on: second.id)
        XCTAssertEqual(picked.map(\.feedback), [.prefer(over: first.id)])
    }

    func testARankingOfSeveralRepliesCrossesAndLeavesAsLines() async throws {
        let tp = try await open()
        var replies: [ReplyID] = []
        for seed: UInt64 in 1...3 {
            let options = GenerationOptions(temperature: 1.5, maximumResponseTokens: 12, seed: seed)
            replies.append(try await tp.generate(Request("Name a colour.", options: options)).reply().id)
        }
        let ranking = Feedback.rank(over: [replies[2], replies[1]])
        try await tp.record(ranking, on: replies[0])
        let said = try await tp.feedback(on: replies[0])
        XCTAssertEqual(said.map(\.feedback), [ranking])
        let file = try temporaryFolder().appendingPathComponent("ranking.jsonl")
        let ranked = try await tp.exportFeedback(to: file, format: .ranking)
        XCTAssertEqual(ranked.lines, 1)
        XCTAssertEqual(ranked.leftOut, 0)
        let another = try await open()
        let imported = try await another.importFeedback(from: file, format: .ranking)
        XCTAssertEqual(imported.recorded, 1)
        let alone = await code { try await tp.record(.rank(over: []), on: replies[0]) }
        XCTAssertEqual(alone, "empty_text")
    }

    func testFiltersOfAnImportTellWhatTheyPassedOver() async throws {
        let tp = try await open()
        let file = try temporaryFolder().appendingPathComponent("in.jsonl")
        let answers = ["Hi.", "hi!", String(repeating: "x", count: 200)]
        let lines = answers.map { #"{"prompt": "Hello", "completion": "\#($0)", "label": true}"# }
        try lines.joined(separator: "\n").write(to: file, atomically: true, encoding: .utf8)
        func passed(_ filters: ImportFilters) async throws -> [String: Int] {
            try await tp.importFeedback(from: file, filters: filters).passed
        }
        let most = try await passed(ImportFilters(minChars: 4, maxChars: 100))
        XCTAssertEqual(most, ["too_short": 2, "too_long": 1])
        for wrong in [ImportFilters(patterns: ["("]), ImportFilters(nearDuplicates: 1.5), ImportFilters(minChars: -1)] {
            let code = await code { try await passed(wrong) }
            XCTAssertEqual(code, "invalid_option")
        }
        let matched = try await passed(ImportFilters(patterns: ["^[Hh]i", "^x+$"]))
        XCTAssertEqual(matched, ["pattern": 3])
        let readiness = try await tp.readiness()
        XCTAssertEqual(readiness.have.events, 0)
    }
}
