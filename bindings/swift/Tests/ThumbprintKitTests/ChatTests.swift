import Foundation
@testable import ThumbprintKit
import XCTest

/// Streaming, cancelling, and stored chats.
final class ChatTests: XCTestCase {
    func testStreamOrder() async throws {
        let tp = try await open()
        var pieces: [String] = []
        var reply: Reply?
        for try await event in tp.generate(Request("Why do cats purr?", options: medium)) {
            XCTAssertNil(reply, "something came after the end")
            switch event {
            case .token(let text): pieces.append(text)
            case .done(let done): reply = done
            }
        }
        let complete = try XCTUnwrap(reply)
        XCTAssertEqual(pieces.joined(), complete.text)
        XCTAssertGreaterThan(pieces.count, 20)
        XCTAssertFalse(pieces.contains(""))
        XCTAssertGreaterThanOrEqual(complete.usage.completionTokens, pieces.count)
        XCTAssertNil(complete.adapter)
        // The same as snapshots of a session, each longer than the one before.
        var snapshots: [ResponseStream.Snapshot] = []
        let session = try await tp.session()
        for try await snapshot in session.streamResponse(to: "Why do cats purr?", options: short) {
            snapshots.append(snapshot)
        }
        XCTAssertTrue(zip(snapshots, snapshots.dropFirst()).allSatisfy { $1.content.hasPrefix($0.content) })
        XCTAssertEqual(snapshots.last?.reply?.text, snapshots.last?.content)
        XCTAssertEqual(snapshots.filter { $0.reply != nil }.count, 1)
    }

    func testCancelInPrefill() async throws {
        // In small pieces, so that some of them are read before it is cancelled and some are not.
        let tp = try await open(engine: EngineOptions(nCtx: 1024, nBatch: 32, nThreads: 1))
        _ = try await tp.modelInfo()
        var one = long
        one.maximumResponseTokens = 1
        // Nothing tells how far the reading is: a moment that was too short is doubled, with another prompt.
        for n in 0..<10 {
            let items = (0..<150).map { "item \($0)" }
            let prompt = "List number \(n): \(items.joined(separator: ", "))"
            let generation = tp.generate(Request(prompt, options: long))
            try await Task.sleep(nanoseconds: 50_000_000 << n)
            generation.cancel()
            var events: [Generation.Event] = []
            for try await event in generation {
                events.append(event)
            }
            let reply = try await generation.reply()
            XCTAssertEqual(events, [.done(reply)])
            XCTAssertEqual(reply.stopReason, .cancelled)
            XCTAssertEqual(reply.text, "")
            // What had been read by then is not read again; so the model's instructions, of the prompt before.
            let beginning = "List number \(n): \(items.prefix(40).joined(separator: ", "))"
            let usage = try await tp.generate(Request(beginning, options: one)).reply().usage
            if usage.reusedTokens >= 96 {
                return
            }
        }
        XCTFail("reading never began")
    }

    func testACancelledTaskCancelsItsReply() async throws {
        let tp = try await open()
        let session = try await tp.session()
        let began = expectation(description: "the reply began")
        let stream = session.streamResponse(to: "Tell me a long story.", options: long)
        let waiting = Task {
            for try await _ in stream {
                began.fulfill()
                break
            }
        }
        await fulfillment(of: [began], timeout: 120)
        try await waiting.value
        let cut = try await stream.collect()
        XCTAssertEqual(cut.reply.stopReason, .cancelled)

        // It waits behind others, so that it cannot end before it is cancelled.
        let others = await busy(tp)
        let asking = Task { try await session.respond(to: "Tell me another one.", options: long) }
        while try await session.transcript().last?.message.content != "Tell me another one." {
            try await Task.sleep(nanoseconds: 10_000_000)
        }
        asking.cancel()
        let error = await thrown { try await asking.value }
        XCTAssertTrue(error is CancellationError, "\(String(describing: error))")
        // The engine is free again, long before that story would have ended.
        others.forEach { $0.cancel() }
        let reply = try await tp.generate(Request("Hello", options: short)).reply()
        XCTAssertFalse(reply.text.isEmpty)
    }

    func testWhatIsLetGoOfIsCancelledAndRecordedAsFarAsItCame() async throws {
        let tp = try await open()
        let session = try await tp.session()
        var stream: ResponseStream? = session.streamResponse(to: "Tell me a long story.", options: long)
        var snapshots = stream?.makeAsyncIterator()
        _ = try await snapshots?.next()
        snapshots = nil
        stream = nil
        XCTAssertNil(stream)
        // The one after it in the queue.
        _ = try await tp.generate(Request("Hello", options: short)).reply()
        for _ in 0..<200 {
            let turns = try await session.transcript()
            if let last = turns.last, last.message.role == .assistant {
                XCTAssertLessThan(last.message.content.split(separator: " ").count, 100)
                return
            }
            try await Task.sleep(nanoseconds: 50_000_000)
        }
        XCTFail("not recorded")
    }

    func testFiftyConcurrentCalls() async throws {
        let tp = try await open()
        let options = GenerationOptions(sampling: .greedy, maximumResponseTokens: 4)
        let lengths = try await withThrowingTaskGroup(of: Int.self) { group in
            for n in 0..<50 {
                group.addTask {
                    let reply = try await tp.generate(Request("What is \(n) plus one?", options: options)).reply()
                    try await tp.record(.up, on: reply.id)
                    return reply.usage.completionTokens
                }
            }
            return try await group.reduce(into: [Int]()) { $0.append($1) }
        }
        XCTAssertEqual(lengths.count, 50)
        XCTAssertTrue(lengths.allSatisfy { $0 > 0 })
        let readiness = try await tp.readiness()
        XCTAssertEqual(readiness.have.events, 50)
    }

    func testAThumbAndACommandDoNotWaitBehindReplies() async throws {
        let tp = try await open()
        let reply = try await tp.generate(Request("Hello", options: short)).reply()
        // More than there are threads for them.
        let many = (0..<40).map { tp.generate(Request("Tell me \($0) long stories.", options: long)) }
        let ended = Box(0)
        let waiting = many.map { generation in
            Task {
                _ = try? await generation.reply()
                ended.change { $0 += 1 }
            }
        }
        try await tp.record(.up, on: reply.id)
        let readiness = try await tp.readiness()
        XCTAssertEqual(readiness.have.events, 1)
        XCTAssertEqual(ended.value, 0, "a thumb waited for a reply")
        // It ends the one that is being written, and those that wait; what had no thread yet loads the model again.
        try await tp.unload()
        let first = try? await many[0].reply()
        XCTAssertTrue(first.map { $0.stopReason == .cancelled } ?? true, "unloading waited for a reply")
        many.forEach { $0.cancel() }
        for task in waiting {
            await task.value
        }
    }

    func testAnEventCrossesTheBoundaryInFarLessTimeThanATokenTakes() async throws {
        let tp = try await open()
        let inner = try tp.inner.generate(request: Request("Tell me a long story.", options: medium).boundary())
        // The one after it is answered once all of this one wait to be fetched.
        _ = try await tp.generate(Request("Hello", options: short)).reply()
        let started = Date()
        let generation = Generation { inner }
        var events = 0
        for try await _ in generation {
            events += 1
        }
        let perEvent = Date().timeIntervalSince(started) / Double(events)
        let usage = try await generation.reply().usage
        let perToken = Double(usage.decodeMs) / 1000 / Double(usage.completionTokens)
        print("\(Int(1e6 * perEvent)) microseconds of \(Int(1e6 * perToken)) a token, over \(events) events")
        XCTAssertLessThan(perEvent, perToken / 10)
    }

    func testAFinishedGenerationKeepsItsReply() async throws {
        let tp = try await open()
        let generation = tp.generate(Request("Hello", options: short))
        let reply = try await generation.reply()
        let again = try await generation.reply()
        XCTAssertEqual(reply, again)
        generation.cancel()
        let still = try await generation.reply()
        XCTAssertEqual(reply, still)
    }

    func testOptionsCrossAsTheyAre() async throws {
        let tp = try await open()
        let options = GenerationOptions(
            temperature: 0.5, maximumResponseTokens: 8, topK: 7, topP: 0.5, minP: 0.25, repetitionPenalty: 1.5, repetitionWindow: 5,
            seed: 1 << 40)
        let sampling = try await tp.generate(Request("Hello", options: options)).reply().sampling
        XCTAssertEqual([sampling.temperature, sampling.topP, sampling.minP, sampling.repetitionPenalty], [0.5, 0.5, 0.25, 1.5])
        XCTAssertEqual([sampling.topK, sampling.repetitionWindow], [7, 5])
        XCTAssertEqual(sampling.seed, 1 << 40)
        XCTAssertEqual(GenerationOptions(sampling: .random(top: 5, seed: 3)).topK, 5)
        XCTAssertEqual(GenerationOptions(sampling: .random(probabilityThreshold: 0.9)).topP, 0.9)
    }

    func testAStopStringEndsTheReplyBeforeIt() async throws {
        let tp = try await open()
        _ = try await tp.generate(Request("Count to ten.", options: short)).reply()
        let whole = try await tp.generate(Request("Count to ten.", options: short)).reply().text
        let stop = String(whole.dropFirst(10).prefix(4))
        var options = short
        options.stop = [stop]
        let reply = try await tp.generate(Request("Count to ten.", options: options)).reply()
        XCTAssertEqual(reply.stopReason, .stopString)
        XCTAssertEqual(reply.text, whole.range(of: stop).map { String(whole[..<$0.lowerBound]) })
    }

    func testABatchAnswersInTheOrderOfItsRequests() async throws {
        let tp = try await open()
        let questions = ["What is the capital of France?", "What is the capital of Italy?"]
        let replies = try await tp.generateBatch(questions.map { Request($0, options: short) }, maxParallel: 2)
        var alone: [String] = []
        for question in questions {
            alone.append(try await tp.generate(Request(question, options: short)).reply().text)
        }
        // Products of several rows are rounded otherwise, so a later token may differ.
        XCTAssertEqual(replies.map { $0.text.prefix(4) }, alone.map { $0.prefix(4) })
    }

    func testACancelledTaskCancelsItsBatch() async throws {
        let tp = try await open()
        // A batch makes way for these.
        let others = await busy(tp)
        let asking = Task { try await tp.generateBatch((0..<4).map { Request("Tell me \($0) long stories.", options: long) }) }
        try await Task.sleep(nanoseconds: 100_000_000)
        asking.cancel()
        let error = await thrown { try await asking.value }
        XCTAssertTrue(error is CancellationError, "\(String(describing: error))")
        others.forEach { $0.cancel() }
        let reply = try await tp.generate(Request("Hello", options: short)).reply()
        XCTAssertFalse(reply.text.isEmpty)
    }

    func testAStoredChatGoesOnAfterItIsOpenedAgain() async throws {
        let folder = try temporaryFolder().appendingPathComponent("data")
        var tp = try await open(folder)
        var session = try await tp.session(instructions: "Answer in one sentence.")
        let first = try await session.respond(to: "Why is the sky blue?", options: short)
        try await session.rename("Sky")
        let id = session.id
        await tp.close()

        tp = try await open(folder)
        session = try await tp.session(id: id)
        let title = try await session.info().title
        XCTAssertEqual(title, "Sky")
        let kept = try await session.prewarm(promptPrefix: "And")
        let second = try await session.respond(to: "And at night?", options: short)
        XCTAssertGreaterThan(second.reply.usage.reusedTokens, 0)
        XCTAssertLessThanOrEqual(second.reply.usage.reusedTokens, kept)
        let turns = try await session.transcript()
        XCTAssertEqual(turns.map(\.message.role), [.system, .user, .assistant, .user, .assistant])
        XCTAssertEqual(turns[2].reply, first.reply.id)
        XCTAssertEqual(turns[2].message.content, first.content)
        let all = try await tp.sessions()
        XCTAssertEqual(all.map(\.id), [id])
        let branch = try await session.branch(upto: turns[1].id, title: "another")
        let shared = try await branch.transcript()
        XCTAssertEqual(shared.map(\.id), turns.prefix(2).map(\.id))
        try await session.delete()
        let left = try await tp.sessions()
        XCTAssertEqual(left.map(\.id), [branch.id])
    }
}
