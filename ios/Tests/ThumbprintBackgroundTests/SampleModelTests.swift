import Foundation
import SampleModel
import ThumbprintKit
import XCTest

/// The sample app without its views.
final class SampleModelTests: XCTestCase {
    func testAChatWithThumbsIsThereAgainWhenTheAppIs() async throws {
        let tp = try await open(temporaryFolder().appendingPathComponent("data"))
        try await Self.chat(tp)
    }

    @MainActor
    private static func chat(_ tp: Thumbprint) async throws {
        let chat = ChatModel(thumbprint: tp, options: short)
        await chat.start()
        await chat.send("Name a colour.")
        XCTAssertEqual(chat.problem, nil)
        XCTAssertEqual(chat.turns.map(\.role), [.user, .assistant])
        XCTAssertFalse(chat.isResponding)
        let turn = try XCTUnwrap(chat.turns.last)
        XCTAssertFalse(turn.text.isEmpty)

        await chat.press(.up, on: turn)
        await chat.press(.down, on: turn)
        XCTAssertEqual(chat.turns.last?.thumb, .down)
        let reopened = ChatModel(thumbprint: tp, options: short)
        await reopened.start()
        XCTAssertEqual(reopened.turns.map(\.text), chat.turns.map(\.text))
        XCTAssertEqual(reopened.turns.last?.thumb, .down)
        // Pressed again, it is let go of.
        await chat.press(.down, on: turn)
        XCTAssertNil(chat.turns.last?.thumb)
        let readiness = try await tp.readiness()
        XCTAssertEqual(readiness.have.events, 0)

        await chat.retry()
        XCTAssertEqual(chat.turns.map(\.role), [.user, .assistant])
        await chat.correct("Blue.")
        XCTAssertEqual(chat.turns.last?.text, "Blue.")
        XCTAssertEqual(chat.problem, nil)
        await chat.send(" ")
        XCTAssertNotNil(chat.problem)
    }

    func testAStoppedReplyStaysAsFarAsItCame() async throws {
        let tp = try await open(temporaryFolder().appendingPathComponent("data"))
        try await Self.stop(tp)
    }

    @MainActor
    private static func stop(_ tp: Thumbprint) async throws {
        let chat = ChatModel(thumbprint: tp, options: GenerationOptions(temperature: 0, maximumResponseTokens: 400))
        await chat.start()
        let sending = Task { await chat.send("Tell me a long story.") }
        while (chat.turns.last?.text ?? "").isEmpty || chat.turns.last?.role == .user {
            try await Task.sleep(nanoseconds: 20_000_000)
        }
        XCTAssertTrue(chat.isResponding)
        chat.stop()
        await sending.value
        XCTAssertFalse(chat.isResponding)
        XCTAssertNotNil(chat.turns.last?.reply)
        XCTAssertLessThan(chat.turns.last?.text.split(separator: " ").count ?? 0, 200)
    }

    func testTheHistoryTellsWhatIsThereAndWhatIsMissing() async throws {
        let tp = try await open(temporaryFolder().appendingPathComponent("data"))
        await Self.history(tp)
    }

    @MainActor
    private static func history(_ tp: Thumbprint) async {
        let history = AdaptersModel(thumbprint: tp)
        await history.reload()
        XCTAssertEqual(history.adapters, [])
        XCTAssertEqual(history.readiness?.isReady, false)
        await history.personalize()
        XCTAssertEqual(history.news, "0 of 10 thumbs so far.")
        await history.rollback()
        XCTAssertNotNil(history.news)
        await history.forgetEverything()
        XCTAssertNil(history.progress)
    }
}
