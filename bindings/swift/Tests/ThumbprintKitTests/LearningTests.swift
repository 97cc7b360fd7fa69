import Foundation
import ThumbprintKit
import XCTest

/// The loop on the real model: learn, be killed, pause, go on; serve, vote, roll back, forget.
final class LearningTests: XCTestCase {
    func testPersonalizeWithProgress() async throws {
        let learned = try await Learned.once.value
        var phases: [Phase] = []
        for progress in learned.progress where phases.last != progress.phase {
            phases.append(progress.phase)
        }
        let positions = [Phase.fold, .train, .gate].map { phases.firstIndex(of: $0) ?? -1 }
        XCTAssertEqual(positions, positions.sorted(), "\(phases)")
        XCTAssertFalse(positions.contains(-1), "\(phases)")
        XCTAssertTrue(learned.progress.allSatisfy { 0 <= $0.step && $0.step <= $0.total })
        let losses = learned.progress.filter { $0.phase == .train }.compactMap(\.loss)
        XCTAssertGreaterThan(losses.count, 2)
        // A fresh adapter answers as the base does.
        XCTAssertEqual(losses[0], log(2), accuracy: 1e-6)
        guard case .trial(let adapter, let report) = learned.outcome else { return XCTFail("\(learned.outcome)") }
        XCTAssertEqual(adapter, learned.adapter)
        XCTAssertEqual(report.thumbs, Learned.things.count)
        XCTAssertFalse(report.explanation.isEmpty)
        let guards = Set(report.scales.flatMap { $0.guards.map(\.name) })
        XCTAssertTrue(guards.isSuperset(of: ["neutral_perplexity", "kl_neutral"]), "\(guards)")
    }

    func testPause() async throws {
        let learned = try await Learned.once.value
        XCTAssertEqual(learned.paused, .paused)
        XCTAssertFalse(learned.finishedWhilePaused)
        XCTAssertFalse(learned.replyWhilePaused.isEmpty)
    }

    func testKillAndResume() async throws {
        let learned = try await Learned.once.value
        XCTAssertEqual(learned.progressOfKilled.last?.hasPrefix("fold"), true, "\(learned.progressOfKilled)")
        let folds = learned.progress.filter { $0.phase == .fold }
        // The first half was not trained on again.
        XCTAssertTrue(folds.allSatisfy { 2 * $0.step > $0.total }, "\(folds)")
    }

    func testHotSwap() async throws {
        let (tp, adapter) = try await learnedCopy()
        let request = { (by: By) in Request("What is paper?", options: short, by: by) }
        let details = try await tp.adapter(adapter)
        XCTAssertTrue(details.active)
        XCTAssertEqual(details.state, .trial)
        XCTAssertEqual(details.decisions.first?.kind.hasPrefix("offline: "), true)
        var adapters: [AdapterID?] = []
        for by in [By.active, .base, .adapter(adapter)] {
            adapters.append(try await tp.generate(request(by)).reply().adapter)
        }
        XCTAssertEqual(adapters, [adapter, nil, adapter])
        try await tp.deactivate()
        let without = try await tp.generate(request(.active)).reply()
        XCTAssertNil(without.adapter)
        try await tp.activate(adapter)
        let with = try await tp.generate(request(.active)).reply()
        XCTAssertEqual(with.adapter, adapter)
        // A trial is not disturbed by the next job.
        let outcome = try await tp.personalize().outcome()
        XCTAssertEqual(outcome, .trialRunning(adapter: adapter))
    }

    func testAnAdapterLeavesInBothFormsAndComesInAgain() async throws {
        let (tp, adapter) = try await learnedCopy()
        let folder = try temporaryFolder()
        let file = folder.appendingPathComponent("adapter.gguf")
        try await tp.export(adapter, to: file)
        XCTAssertEqual(try Data(contentsOf: file).prefix(4), Data("GGUF".utf8))
        let peft = folder.appendingPathComponent("peft")
        try await tp.export(adapter, to: peft, format: .peft)
        XCTAssertTrue(FileManager.default.fileExists(atPath: peft.appendingPathComponent("adapter_model.safetensors").path))
        // One that is here already is found again.
        let taken = try await [tp.importAdapter(from: peft), tp.importAdapter(from: file)]
        XCTAssertEqual(taken, [adapter, adapter])
    }

    func testAdaptersAreAddedUpAndMerged() async throws {
        let (tp, adapter) = try await learnedCopy()
        let none = try await tp.combine([AdapterPart(adapter), AdapterPart(adapter, weight: -1)], rank: 4)
        let details = try await tp.adapter(none)
        XCTAssertEqual(details.state, .candidate)
        XCTAssertFalse(details.active)
        let file = try temporaryFolder().appendingPathComponent("merged.gguf")
        let code = await code { try await tp.merge(adapter, to: file, tensorType: "Q9_9") }
        XCTAssertEqual(code, "invalid_option")
        let merged = try await tp.merge(none, to: file)
        XCTAssertEqual(merged.changed, 210)
        XCTAssertEqual(merged.left, [])
        XCTAssertEqual(try FileHandle(forReadingFrom: file).read(upToCount: 4), Data("GGUF".utf8))
        let everything = try await tp.forget(.everything)
        XCTAssertEqual(Set(everything.adapters), [adapter, none])
    }

    func testAnAdapterScoresAReplyTokenByToken() async throws {
        let (tp, adapter) = try await learnedCopy()
        let reply = try await tp.generate(Request("What is wool?", options: short)).reply()
        let score = try await tp.score(reply.id)
        XCTAssertNotEqual(score.reward, 0)
        XCTAssertEqual(score.reward, score.perToken.reduce(0, +), accuracy: 1e-9)
        let beta = try XCTUnwrap(score.beta)
        let (logp, reference) = (try XCTUnwrap(score.logp), try XCTUnwrap(score.referenceLogp))
        XCTAssertEqual(score.reward, beta * (logp - reference), accuracy: 1e-9)
        XCTAssertEqual(score.tokens.count, reply.usage.completionTokens)
        let byNumber = try await tp.score(reply.id, by: .adapter(adapter))
        XCTAssertEqual(byNumber, score)
        // A reply that was cut off is no whole text.
        let ofText = try await tp.score(reply.text, to: [.user("What is wool?")])
        XCTAssertEqual(Array(ofText.tokens.prefix(score.tokens.count)), score.tokens)
    }

    func testABlindSideBySideTellsWhoWroteWhatAfterTheVote() async throws {
        let (tp, adapter) = try await learnedCopy()
        let notNow = try await tp.contestDue(share: 0)
        XCTAssertNil(notNow)
        let due = try await tp.contestDue(share: 1)
        var contest = try XCTUnwrap(due)
        XCTAssertEqual([contest.a, contest.b], [adapter, nil])
        contest.options = short
        let session = try await tp.session()
        let match = try await session.sideBySide("What is salt?", contest: contest)
        XCTAssertEqual(match.prompt.last, .user("What is salt?"))
        XCTAssertNil(match.choice)
        var last = try await session.transcript().last?.reply
        XCTAssertEqual(last, match.left.reply)
        var open = try await tp.openMatches()
        XCTAssertEqual(open, [match])
        let voted = try await tp.vote(.right, on: match.id)
        XCTAssertEqual(Set([voted.left, voted.right]), [adapter, nil])
        let verdict = try XCTUnwrap(voted.verdict)
        XCTAssertEqual(verdict.wins + verdict.losses, 1)
        last = try await session.transcript().last?.reply
        XCTAssertEqual(last, match.right.reply)
        let now = try await tp.sideBySide(of: match.id)
        XCTAssertEqual(now.choice, .right)
        open = try await tp.openMatches()
        XCTAssertEqual(open, [])
        let again = await code { try await tp.vote(.left, on: match.id) }
        XCTAssertEqual(again, "already_voted")
        let pairs = try await tp.arenaResults().pairs
        let pair = try XCTUnwrap(pairs.first)
        XCTAssertEqual(pairs.count, 1)
        XCTAssertEqual([pair.a, pair.b], [adapter, nil])
        XCTAssertEqual(pair.wins, voted.right == adapter ? 1 : 0)
        XCTAssertTrue(pair.interval.low <= pair.winRate && pair.winRate <= pair.interval.high)
        let same = await code { try await tp.sideBySide([.user("What is salt?")], contest: Contest(nil, nil)) }
        XCTAssertEqual(same, "same_contestant")
        // The same seed puts the same one on the left.
        var sides: Set<AdapterID?> = []
        for _ in 0..<2 {
            let contest = Contest(adapter, nil, options: short, seed: 5)
            let match = try await tp.sideBySide([.user("What is tea?")], contest: contest)
            sides.insert(try await tp.vote(.tie, on: match.id).left)
        }
        XCTAssertEqual(sides.count, 1)
    }

    func testARecipeChangesWhatIsLearnedAndOneThatMakesNoSenseIsRefused() async throws {
        let tp = try await open()
        try await Learned.teach(tp)
        let missing = URL(fileURLWithPath: "/none.jsonl")
        let senseless = [
            Recipe(settingsJSON: #"{"train": {"pair": {"betta": 1}}}"#), Recipe(settingsJSON: #"{"learn": "thumbs"}"#),
            Recipe(settingsJSON: "no JSON"), Recipe(choices: .init(missing, tolerated: 2)),
        ]
        for recipe in senseless {
            let code = await code { try await tp.personalize(recipe: recipe) }
            XCTAssertEqual(code, "recipe")
        }
        let recipe = Recipe(settingsJSON: #"{"train": {"max_steps": 7}, "folds": 0, "anchors": false, "west_of_n": null}"#)
        let job = try await tp.personalize(recipe: recipe)
        var phases: Set<Phase> = []
        for await progress in job {
            phases.insert(progress.phase)
            if progress.phase == .train && progress.step > 0 {
                XCTAssertEqual(progress.total, 7)
                try await job.cancel()
            }
        }
        let outcome = try await job.outcome()
        XCTAssertEqual(outcome, .cancelled)
        // The product's way trains on halves first.
        XCTAssertTrue(phases.contains(.train) && !phases.contains(.fold), "\(phases)")
    }

    func testVote() async throws {
        let (tp, adapter) = try await learnedCopy()
        let mine = try await tp.generate(Request("What is glass?", options: short)).reply()
        let base = try await tp.generate(Request("What is glass?", options: short, by: .base)).reply()
        func vote(_ outcome: VoteOutcome) async throws -> Verdict {
            let vote = Vote(
                adapter: adapter, outcome: outcome, candidateFirst: Bool.random(), candidateReply: mine.id, baselineReply: base.id)
            return try await tp.record(vote)
        }
        let tie = try await vote(.tie)
        XCTAssertEqual(tie.decision, .stay)
        XCTAssertFalse(tie.explanation.isEmpty)
        func decided(_ outcome: VoteOutcome, _ decision: Decision) async throws -> Bool {
            for _ in 0..<60 {
                if try await vote(outcome).decision == decision { return true }
            }
            return false
        }
        let promoted = try await decided(.win, .promote)
        XCTAssertTrue(promoted)
        var state = try await tp.adapter(adapter).state
        XCTAssertEqual(state, .promoted)
        let rolledBack = try await decided(.loss, .rollBack)
        XCTAssertTrue(rolledBack)
        state = try await tp.adapter(adapter).state
        XCTAssertEqual(state, .rolledBack)
        let reply = try await tp.generate(Request("What is glass?", options: short)).reply()
        XCTAssertNil(reply.adapter)
    }

    func testRollback() async throws {
        let (tp, adapter) = try await learnedCopy()
        try await tp.deactivate()
        try await tp.activate(adapter)
        let before = try await tp.rollback()
        XCTAssertNil(before)
        let details = try await tp.adapter(adapter)
        XCTAssertEqual(details.state, .rolledBack)
        XCTAssertFalse(details.active)
        let reply = try await tp.generate(Request("What is salt?", options: short)).reply()
        XCTAssertNil(reply.adapter)
        let code = await code { try await tp.rollback() }
        XCTAssertEqual(code, "no_active_adapter")
    }

    func testForget() async throws {
        let (tp, adapter) = try await learnedCopy()
        let session = try await tp.session()
        let reply = try await session.respond(to: "What is a xylophone?", options: short).reply
        let forgotten = try await tp.forget(.session(session.id))
        XCTAssertEqual(forgotten.replies, [reply.id])
        XCTAssertEqual(forgotten.messages, 2)
        XCTAssertEqual(forgotten.adapters, [])
        let everything = try await tp.forget(.everything)
        XCTAssertEqual(everything.adapters, [adapter])
        XCTAssertEqual(everything.feedback.count, Learned.things.count)
        let state = try await tp.adapter(adapter).state
        XCTAssertEqual(state, .forgotten)
        let code = await code { try await tp.activate(adapter) }
        XCTAssertEqual(code, "adapter_state")
        let base = try await tp.generate(Request("Hello", options: short)).reply()
        XCTAssertNil(base.adapter)
    }

    func testAnImpossibleBudgetIsRefusedWithBothNumbers() async throws {
        let tp = try await open()
        try await Learned.teach(tp)
        let error = await thrown { try await tp.personalize(Budget(memoryMiB: 1), recipe: brief).outcome() }
        guard case ThumbprintError.overBudget(_, let needed, let budget)? = error else {
            return XCTFail("\(String(describing: error))")
        }
        XCTAssertEqual(budget, 1)
        XCTAssertGreaterThan(needed, 1)
    }

    func testAJobOutOfTimeRestsAndIsFoundAgain() async throws {
        let tp = try await open()
        try await Learned.teach(tp)
        let outcome = try await tp.personalize(Budget(seconds: 0)).outcome()
        XCTAssertEqual(outcome, .paused)
        let found = try await tp.currentJob()
        let job = try XCTUnwrap(found)
        XCTAssertFalse(job.isFinished)
        try await job.cancel()
        XCTAssertTrue(job.isFinished)
        let cancelled = try await job.outcome()
        XCTAssertEqual(cancelled, .cancelled)
    }

    func testALoopOverAJobThatIsLeftOrThrowsLeavesTheJobAlone() async throws {
        struct Oops: Error, Equatable {}
        let tp = try await open()
        try await Learned.teach(tp)
        let job = try await tp.personalize(recipe: brief)
        for await progress in job {
            XCTAssertGreaterThanOrEqual(progress.total, 0)
            break
        }
        let oops = await thrown {
            for await _ in job { throw Oops() }
        }
        XCTAssertEqual(oops as? Oops, Oops())
        XCTAssertFalse(job.isFinished)
        let waiting = Task { try await job.outcome() }
        waiting.cancel()
        let error = await thrown { try await waiting.value }
        XCTAssertTrue(error is CancellationError, "\(String(describing: error))")
        XCTAssertFalse(job.isFinished)
        try await job.cancel()
        let outcome = try await job.outcome()
        XCTAssertEqual(outcome, .cancelled)
    }

    /// The learned folder's copy, opened: each test does with it what it likes.
    private func learnedCopy() async throws -> (Thumbprint, AdapterID) {
        let learned = try await Learned.once.value
        let folder = try temporaryFolder().appendingPathComponent("data")
        try FileManager.default.copyItem(at: learned.folder, to: folder)
        return (try await open(folder), learned.adapter)
    }
}

/// A data folder whose job was killed, paused, talked over and finished. Made once, and closed.
struct Learned: Sendable {
    let folder: URL
    let progressOfKilled: [String]
    let paused: Outcome
    let finishedWhilePaused: Bool
    let replyWhilePaused: String
    let progress: [JobProgress]
    let outcome: Outcome
    let adapter: AdapterID

    static let once = Task { try await make() }

    static let things = [
        "tea", "rain", "chess", "bread", "the moon", "running", "cats", "paper", "glass", "salt", "wool", "trains",
    ]

    static let longAnswer = """
        Well, that is a very interesting question, and there are many things that one could say about it. First of all, it is \
        important to note that there are many different opinions. Secondly, it is important to note that opinions change.
        """

    /// Twelve thumbs of somebody who likes short answers.
    static func teach(_ tp: Thumbprint) async throws {
        for (n, thing) in things.enumerated() {
            let isShort = n % 2 == 0
            let answer = isShort ? "It is \(thing), of course." : longAnswer
            try await tp.record(isShort ? .up : .down(), onExternal: answer, to: [.user("What is \(thing)?")])
        }
    }

    private static func make() async throws -> Learned {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("thumbprint-learned-\(UUID().uuidString)")
        var tp = try await Thumbprint(dataDirectory: folder, model: model, engine: engine)
        try await teach(tp)
        await tp.close()

        // Killed in the second of two trainings on halves, in a process of its own.
        let child = try Child("personalize", folder.path, model.path)
        var killed: [String] = []
        while let line = child.line() {
            killed.append(line)
            let words = line.split(separator: " ")
            if words.first == "fold", let step = Int(words[1]), let total = Int(words[2]), 2 * step > total {
                child.kill()
                break
            }
        }

        tp = try await Thumbprint(dataDirectory: folder, model: model, engine: engine)
        let job = try await tp.personalize(recipe: brief)
        var progress: [JobProgress] = []
        for await now in job {
            progress.append(now)
            if now.phase == .train && now.step >= 2 {
                job.pause()
            }
        }
        let paused = try await job.outcome()
        let finished = job.isFinished
        let reply = try await tp.generate(Request("Hello", options: short)).reply()
        try await job.resume()
        for await now in job {
            progress.append(now)
        }
        let outcome = try await job.outcome()
        let adapter = try await tp.adapters().last?.id
        await tp.close()
        return Learned(
            folder: folder, progressOfKilled: killed, paused: paused, finishedWhilePaused: finished, replyWhilePaused: reply.text,
            progress: progress, outcome: outcome, adapter: try XCTUnwrap(adapter))
    }
}
