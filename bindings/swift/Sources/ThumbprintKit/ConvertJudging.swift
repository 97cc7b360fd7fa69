// The same as in Convert.swift, for what judges and is judged.

internal import ThumbprintFFI

// MARK: To the boundary

extension Judge {
    var boundary: ThumbprintFFI.Judge {
        switch self {
        case .active: .active
        case .adapter(let id): .adapter(id: id.rawValue)
        case .head: .head
        }
    }
}

extension Contest {
    func boundary() throws -> ThumbprintFFI.Contest {
        ThumbprintFFI.Contest(a: a?.rawValue, b: b?.rawValue, options: try options.boundary(), seed: seed)
    }
}

extension Choice {
    var boundary: ThumbprintFFI.Choice {
        switch self {
        case .left: .left
        case .right: .right
        case .tie: .tie
        case .bothBad: .bothBad
        }
    }
}

extension ChoiceFormat {
    var boundary: ThumbprintFFI.ChoiceFormat {
        switch self {
        case .arc: .arc
        case .hellaSwag: .hellaSwag
        case .mmlu: .mmlu
        }
    }
}

extension Recipe {
    var boundary: ThumbprintFFI.Recipe {
        ThumbprintFFI.Recipe(choices: choices?.boundary, refusals: refusals?.boundary, settingsJson: settingsJSON)
    }
}

extension Recipe.GuardFile {
    var boundary: ThumbprintFFI.GuardFile {
        ThumbprintFFI.GuardFile(path: file.path, tolerated: tolerated)
    }
}

// MARK: From the boundary

extension Judge {
    init(_ judge: ThumbprintFFI.Judge) {
        switch judge {
        case .active: self = .active
        case .adapter(let id): self = .adapter(AdapterID(rawValue: id))
        case .head: self = .head
        }
    }
}

extension BestOf {
    init(_ best: ThumbprintFFI.BestOf) {
        self.init(judge: Judge(best.judge), chosen: Int(clamping: best.chosen), scores: best.scores)
    }
}

extension Score {
    init(_ score: ThumbprintFFI.Score) {
        self.init(
            reward: score.reward, perToken: score.perToken, tokens: score.tokens.map { Int($0) }, logp: score.logp,
            referenceLogp: score.referenceLogp, beta: score.beta)
    }
}

extension Interval {
    init(_ interval: ThumbprintFFI.Interval) {
        self.init(low: interval.low, high: interval.high)
    }
}

extension Head {
    init(_ head: ThumbprintFFI.Head) {
        self.init(
            baseSHA256: head.baseSha256, templateHash: head.templateHash, bias: head.bias, l2: head.l2, pairs: Int(clamping: head.pairs),
            singles: Int(clamping: head.singles), crossValidated: head.crossValidated.map(CrossValidated.init))
    }
}

extension CrossValidated {
    init(_ validated: ThumbprintFFI.CrossValidated) {
        self.init(
            right: Int(clamping: validated.right), of: Int(clamping: validated.of), accuracy: validated.accuracy,
            interval: Interval(validated.interval))
    }
}

extension Contest {
    /// One that is due, whose options are the default ones.
    init(_ contest: ThumbprintFFI.Contest) {
        self.init(contest.a.map(AdapterID.init(rawValue:)), contest.b.map(AdapterID.init(rawValue:)), seed: contest.seed)
    }
}

extension Match {
    init(_ match: ThumbprintFFI.Match) {
        self.init(
            id: MatchID(rawValue: match.id), prompt: match.prompt.map(Message.init), left: Side(match.left), right: Side(match.right),
            choice: match.choice.map(Choice.init))
    }
}

extension Match.Side {
    init(_ side: ThumbprintFFI.Side) {
        self.init(reply: ReplyID(rawValue: side.reply), text: side.text, stopReason: side.stopReason.map(StopReason.init))
    }
}

extension Choice {
    init(_ choice: ThumbprintFFI.Choice) {
        switch choice {
        case .left: self = .left
        case .right: self = .right
        case .tie: self = .tie
        case .bothBad: self = .bothBad
        }
    }
}

extension Voted {
    init(_ voted: ThumbprintFFI.Voted) {
        self.init(
            left: voted.left.map(AdapterID.init(rawValue:)), right: voted.right.map(AdapterID.init(rawValue:)),
            verdict: voted.verdict.map(Verdict.init))
    }
}

extension ArenaResults {
    init(_ results: ThumbprintFFI.ArenaResults) {
        self.init(
            votes: Int(clamping: results.votes), pairs: results.pairs.map(PairResult.init), strengths: results.strengths.map(Strength.init),
            connected: results.connected)
    }
}

extension PairResult {
    init(_ result: ThumbprintFFI.PairResult) {
        self.init(
            a: result.a.map(AdapterID.init(rawValue:)), b: result.b.map(AdapterID.init(rawValue:)), votes: Int(clamping: result.votes),
            wins: Int(clamping: result.wins), losses: Int(clamping: result.losses), ties: Int(clamping: result.ties),
            bothBad: Int(clamping: result.bothBad), winRate: result.winRate, interval: Interval(result.interval),
            lengthControlledWinRate: result.lengthControlledWinRate, meanLengthDifference: result.meanLengthDifference)
    }
}

extension Strength {
    init(_ strength: ThumbprintFFI.Strength) {
        self.init(
            contestant: strength.contestant.map(AdapterID.init(rawValue:)), votes: Int(clamping: strength.votes),
            strength: strength.strength, interval: Interval(strength.interval))
    }
}

extension Accuracy {
    init(_ accuracy: ThumbprintFFI.Accuracy) {
        self.init(
            right: accuracy.right, n: Int(clamping: accuracy.n), share: accuracy.share, interval: Interval(accuracy.interval))
    }
}

extension ChoiceReport {
    init(_ report: ThumbprintFFI.ChoiceReport) {
        self.init(
            acc: Accuracy(report.acc), accNorm: Accuracy(report.accNorm), subjects: report.subjects.mapValues(Accuracy.init),
            answers: report.answers.map(Answer.init))
    }
}

extension ChoiceReport.Answer {
    init(_ answer: ThumbprintFFI.Answer) {
        self.init(pick: Int(clamping: answer.pick), pickNorm: Int(clamping: answer.pickNorm), gold: Int(clamping: answer.gold))
    }
}

extension RefusalReport {
    init(_ report: ThumbprintFFI.RefusalReport) {
        self.init(
            refused: Accuracy(report.refused), types: report.types.mapValues(Accuracy.init), refusals: report.refusals,
            leftOut: Int(clamping: report.leftOut))
    }
}

extension RewardReport {
    init(_ report: ThumbprintFFI.RewardReport) {
        self.init(
            all: Accuracy(report.all), subsets: report.subsets.mapValues(Accuracy.init), sections: report.sections.mapValues(Accuracy.init),
            seen: Int(clamping: report.seen))
    }
}
