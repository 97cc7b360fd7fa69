// From the generated types of the boundary to the public ones, and back. Both have the same fields.

import Foundation
internal import ThumbprintFFI

// MARK: To the boundary

/// A number that the boundary has no sign for.
func narrowed<T: FixedWidthInteger & UnsignedInteger>(_ value: Int, _ name: String) throws -> T {
    guard let narrowed = T(exactly: value) else {
        throw ThumbprintError.outOfRange(name, value, T.max)
    }
    return narrowed
}

func narrowed<T: FixedWidthInteger & UnsignedInteger>(_ value: Int?, _ name: String) throws -> T? {
    try value.map { try narrowed($0, name) as T }
}

extension Message {
    var boundary: ThumbprintFFI.Message {
        ThumbprintFFI.Message(role: role.boundary, content: content)
    }
}

extension Role {
    var boundary: ThumbprintFFI.Role {
        switch self {
        case .system: .system
        case .user: .user
        case .assistant: .assistant
        }
    }
}

extension EngineOptions {
    func boundary() throws -> ThumbprintFFI.EngineOptions {
        ThumbprintFFI.EngineOptions(
            nCtx: try narrowed(nCtx, "nCtx"), nBatch: try narrowed(nBatch, "nBatch"), nThreads: try narrowed(nThreads, "nThreads"),
            nGpuLayers: try narrowed(nGpuLayers, "nGpuLayers"), useMmap: useMmap, repack: repack,
            flashAttention: flashAttention.map { $0 == .auto ? .auto : .off }, kvType: kvType.map { $0 == .f16 ? .f16 : .f32 })
    }
}

extension GenerationOptions {
    func boundary() throws -> ThumbprintFFI.GenerateOptions {
        ThumbprintFFI.GenerateOptions(
            maxTokens: try narrowed(maximumResponseTokens, "maximumResponseTokens"), temperature: temperature.map(Float.init),
            topK: try narrowed(topK, "topK"), topP: topP.map(Float.init), minP: minP.map(Float.init),
            repetitionPenalty: repetitionPenalty.map(Float.init),
            repetitionWindow: try narrowed(repetitionWindow, "repetitionWindow"), seed: seed, stop: stop,
            overflow: overflow.map { $0 == .error ? .error : .truncateOldestTurns }, bestOf: try narrowed(bestOf, "bestOf"),
            judge: judge?.boundary)
    }
}

extension By {
    var boundary: ThumbprintFFI.By {
        switch self {
        case .active: .active
        case .base: .base
        case .adapter(let id): .adapter(id: id.rawValue)
        }
    }
}

extension Request {
    func boundary() throws -> ThumbprintFFI.Request {
        ThumbprintFFI.Request(
            messages: messages.map(\.boundary), options: try options.boundary(), replaces: replaces?.rawValue, by: by.boundary)
    }
}

extension Budget {
    func boundary() throws -> ThumbprintFFI.Budget {
        ThumbprintFFI.Budget(
            memoryMib: try narrowed(memoryMiB, "memoryMiB"), seconds: try narrowed(seconds, "seconds"),
            nThreads: try narrowed(nThreads, "nThreads"), seed: seed,
            maxExampleTokens: try narrowed(maxExampleTokens, "maxExampleTokens"), replaceTrial: replaceTrial, gpu: gpu,
            requireGpu: requireGPU, onlineRounds: try narrowed(onlineRounds, "onlineRounds"))
    }
}

extension Feedback {
    var boundary: ThumbprintFFI.Feedback {
        switch self {
        case .up: .up
        case .down(let reasons): .down(reasons: reasons)
        case .edit(let text): .edit(text: text)
        case .prefer(let over): .prefer(over: over.rawValue)
        case .rank(let over): .rank(over: over.map(\.rawValue))
        case .retry: .retry
        }
    }
}

extension FeedbackFormat {
    var boundary: ThumbprintFFI.FeedbackFormat {
        switch self {
        case .preference: .preference
        case .unpaired: .unpaired
        case .ranking: .ranking
        case .shareGpt: .shareGpt
        case .hhRlhf: .hhRlhf
        case .ultraFeedback: .ultraFeedback
        case .nectar: .nectar
        case .oasst: .oasst
        }
    }
}

extension ImportFilters {
    func boundary() throws -> ThumbprintFFI.ImportFilters {
        ThumbprintFFI.ImportFilters(
            minChars: try narrowed(minChars, "minChars"), maxChars: try narrowed(maxChars, "maxChars"), refusals: refusals,
            boilerplate: boilerplate, patterns: patterns, duplicates: duplicates, nearDuplicates: nearDuplicates)
    }
}

extension AdapterFormat {
    var boundary: ThumbprintFFI.AdapterFormat {
        switch self {
        case .gguf: .gguf
        case .peft: .peft
        }
    }
}

extension AdapterPart {
    var boundary: ThumbprintFFI.AdapterPart {
        ThumbprintFFI.AdapterPart(adapter: adapter.rawValue, weight: weight)
    }
}

extension Target {
    var boundary: ThumbprintFFI.Target {
        switch self {
        case .feedback(let id): .feedback(id: id.rawValue)
        case .reply(let id): .reply(id: id.rawValue)
        case .session(let id): .conversation(id: id.rawValue)
        case .everything: .everything
        }
    }
}

extension Vote {
    var boundary: ThumbprintFFI.Vote {
        ThumbprintFFI.Vote(
            adapter: adapter.rawValue, outcome: outcome.boundary, candidateFirst: candidateFirst,
            candidateReply: candidateReply?.rawValue, baselineReply: baselineReply?.rawValue)
    }
}

extension VoteOutcome {
    var boundary: ThumbprintFFI.VoteOutcome {
        switch self {
        case .win: .win
        case .loss: .loss
        case .tie: .tie
        }
    }
}

// MARK: From the boundary

extension Date {
    init(milliseconds: Int64) {
        self.init(timeIntervalSince1970: Double(milliseconds) / 1000)
    }
}

extension Message {
    init(_ message: ThumbprintFFI.Message) {
        self.init(role: Role(message.role), content: message.content)
    }
}

extension Role {
    init(_ role: ThumbprintFFI.Role) {
        switch role {
        case .system: self = .system
        case .user: self = .user
        case .assistant: self = .assistant
        }
    }
}

extension Feedback {
    init(_ feedback: ThumbprintFFI.Feedback) {
        switch feedback {
        case .up: self = .up
        case .down(let reasons): self = .down(reasons: reasons)
        case .edit(let text): self = .edit(text)
        case .prefer(let over): self = .prefer(over: ReplyID(rawValue: over))
        case .rank(let over): self = .rank(over: over.map(ReplyID.init(rawValue:)))
        case .retry: self = .retry
        }
    }
}

extension FeedbackInEffect {
    init(_ entry: ThumbprintFFI.FeedbackInEffect) {
        self.init(id: FeedbackID(rawValue: entry.id), feedback: Feedback(entry.feedback))
    }
}

extension StopReason {
    init(_ reason: ThumbprintFFI.StopReason) {
        switch reason {
        case .endOfTurn: self = .endOfTurn
        case .stopString: self = .stopString
        case .maxTokens: self = .maxTokens
        case .contextFull: self = .contextFull
        case .cancelled: self = .cancelled
        }
    }
}

extension Usage {
    init(_ usage: ThumbprintFFI.Usage) {
        self.init(
            promptTokens: Int(usage.promptTokens), reusedTokens: Int(usage.reusedTokens), completionTokens: Int(usage.completionTokens),
            firstTokenMs: usage.firstTokenMs, decodeMs: usage.decodeMs)
    }
}

extension Sampling {
    init(_ sampling: ThumbprintFFI.Sampling) {
        self.init(
            temperature: sampling.temperature, topK: Int(sampling.topK), topP: sampling.topP, minP: sampling.minP,
            repetitionPenalty: sampling.repetitionPenalty, repetitionWindow: Int(sampling.repetitionWindow), seed: sampling.seed)
    }
}

extension Reply {
    init(_ reply: ThumbprintFFI.Reply) {
        self.init(
            id: ReplyID(rawValue: reply.id), text: reply.text, stopReason: StopReason(reply.stopReason), usage: Usage(reply.usage),
            tokensPerSecond: reply.tokensPerSecond, sampling: Sampling(reply.sampling),
            adapter: reply.adapter.map(AdapterID.init(rawValue:)), droppedMessages: Int(clamping: reply.droppedMessages),
            bestOf: reply.bestOf.map(BestOf.init))
    }
}

extension SessionInfo {
    init(_ info: ThumbprintFFI.ConversationInfo) {
        self.init(
            id: SessionID(rawValue: info.id), title: info.title, head: info.head.map(MessageID.init(rawValue:)),
            createdAt: Date(milliseconds: info.createdAt), updatedAt: Date(milliseconds: info.updatedAt))
    }
}

extension StoredMessage {
    init(_ turn: ThumbprintFFI.StoredMessage) {
        self.init(
            id: MessageID(rawValue: turn.id), parent: turn.parent.map(MessageID.init(rawValue:)), message: Message(turn.message),
            reply: turn.reply.map(ReplyID.init(rawValue:)), createdAt: Date(milliseconds: turn.createdAt))
    }
}

extension Tally {
    init(_ tally: ThumbprintFFI.Tally) {
        self.init(events: Int(clamping: tally.events), liked: Int(clamping: tally.liked), disliked: Int(clamping: tally.disliked))
    }
}

extension Readiness {
    init(_ readiness: ThumbprintFFI.Readiness) {
        self.init(
            isReady: readiness.isReady, have: Tally(readiness.have), need: Tally(readiness.need),
            examples: Int(clamping: readiness.examples))
    }
}

extension Phase {
    init(_ phase: ThumbprintFFI.Phase) {
        switch phase {
        case .curate: self = .curate
        case .replay: self = .replay
        case .reference: self = .reference
        case .fold: self = .fold
        case .train: self = .train
        case .online: self = .online
        case .gate: self = .gate
        case .done: self = .done
        }
    }
}

extension JobProgress {
    init(_ progress: ThumbprintFFI.Progress) {
        self.init(
            phase: Phase(progress.phase), step: Int(clamping: progress.step), total: Int(clamping: progress.total), loss: progress.loss,
            margin: progress.margin, etaSeconds: progress.etaSeconds)
    }
}

extension GuardResult {
    init(_ result: ThumbprintFFI.GuardResult) {
        self.init(
            name: result.name, value: result.value, atLeast: result.atLeast, atMost: result.atMost, passed: result.passed,
            sentence: result.sentence)
    }
}

extension ScaleReport {
    init(_ report: ThumbprintFFI.ScaleReport) {
        self.init(scale: report.scale, allowed: report.allowed, guards: report.guards.map(GuardResult.init))
    }
}

extension OfflineReport {
    init(_ report: ThumbprintFFI.OfflineReport) {
        self.init(
            scale: report.scale, reasons: report.reasons, thumbs: Int(clamping: report.thumbs), heldOut: GuardResult(report.heldOut),
            scales: report.scales.map(ScaleReport.init), explanation: report.explanation)
    }
}

extension Outcome {
    init(_ outcome: ThumbprintFFI.Outcome) {
        switch outcome {
        case .trial(let adapter, let report):
            self = .trial(adapter: AdapterID(rawValue: adapter), report: OfflineReport(report))
        case .rejected(let adapter, let report):
            self = .rejected(adapter: AdapterID(rawValue: adapter), report: OfflineReport(report))
        case .trialRunning(let adapter):
            self = .trialRunning(adapter: AdapterID(rawValue: adapter))
        case .nothingToLearn(let readiness):
            self = .nothingToLearn(Readiness(readiness))
        case .paused:
            self = .paused
        case .cancelled:
            self = .cancelled
        }
    }
}

extension AdapterState {
    init(_ state: ThumbprintFFI.AdapterState) {
        switch state {
        case .candidate: self = .candidate
        case .rejected: self = .rejected
        case .trial: self = .trial
        case .promoted: self = .promoted
        case .rolledBack: self = .rolledBack
        case .forgotten: self = .forgotten
        }
    }
}

extension Decision {
    init(_ decision: ThumbprintFFI.Decision) {
        switch decision {
        case .stay: self = .stay
        case .promote: self = .promote
        case .rollBack: self = .rollBack
        }
    }
}

extension Verdict {
    init(_ verdict: ThumbprintFFI.Verdict) {
        self.init(
            decision: Decision(verdict.decision), wins: Int(clamping: verdict.wins), losses: Int(clamping: verdict.losses),
            ties: Int(clamping: verdict.ties), evidence: verdict.evidence, evidenceAgainst: verdict.evidenceAgainst,
            promoteAt: verdict.promoteAt, rollBackAt: verdict.rollBackAt, replaceable: verdict.replaceable,
            explanation: verdict.explanation)
    }
}

extension AdapterDecision {
    init(_ decision: ThumbprintFFI.AdapterDecision) {
        self.init(
            at: Date(milliseconds: decision.at), kind: decision.kind, explanation: decision.explanation,
            numbersJSON: decision.numbersJson)
    }
}

extension AdapterDetails {
    init(_ details: ThumbprintFFI.AdapterDetails) {
        self.init(
            id: AdapterID(rawValue: details.id), state: AdapterState(details.state), explanation: details.explanation,
            active: details.active, scale: details.scale, baseHash: details.baseHash, run: details.run.map(RunID.init(rawValue:)),
            file: details.file, fileHash: details.fileHash, seed: details.seed, createdAt: Date(milliseconds: details.createdAt),
            configJSON: details.configJson, manifestJSON: details.manifestJson,
            decisions: details.decisions.map(AdapterDecision.init), verdict: details.verdict.map(Verdict.init))
    }
}

extension Merged {
    init(_ merged: ThumbprintFFI.Merged) {
        self.init(changed: Int(clamping: merged.changed), left: merged.left)
    }
}

extension Forgotten {
    init(_ forgotten: ThumbprintFFI.Forgotten) {
        self.init(
            feedback: forgotten.feedback.map(FeedbackID.init(rawValue:)), replies: forgotten.replies.map(ReplyID.init(rawValue:)),
            messages: Int(clamping: forgotten.messages), votes: Int(clamping: forgotten.votes), heads: forgotten.heads,
            adapters: forgotten.adapters.map(AdapterID.init(rawValue:)), runs: forgotten.runs.map(RunID.init(rawValue:)),
            served: forgotten.served.map { Served(baseHash: $0.baseHash, adapter: $0.adapter.map(AdapterID.init(rawValue:))) })
    }
}

extension Exported {
    init(_ exported: ThumbprintFFI.Exported) {
        self.init(lines: Int(clamping: exported.lines), leftOut: Int(clamping: exported.leftOut))
    }
}

extension Imported {
    init(_ imported: ThumbprintFFI.Imported) {
        self.init(
            rows: Int(clamping: imported.rows), recorded: Int(clamping: imported.recorded), known: Int(clamping: imported.known),
            passed: imported.passed.mapValues { Int(clamping: $0) })
    }
}

extension OpenReport {
    init(_ report: ThumbprintFFI.OpenReport) {
        self.init(
            created: report.created, alreadyOpen: report.alreadyOpen, migratedFrom: report.migratedFrom.map { Int($0) },
            movedAside: report.movedAside.map { URL(fileURLWithPath: $0) })
    }
}

extension ModelInfo {
    init(_ info: ThumbprintFFI.ModelInfo) {
        self.init(
            modelPath: info.modelPath, description: info.description, architecture: info.architecture, nCtx: Int(info.nCtx),
            nCtxTrain: Int(info.nCtxTrain), nVocab: Int(clamping: info.nVocab), nThreads: Int(info.nThreads),
            nGpuLayers: info.nGpuLayers.map { Int($0) }, templateHash: info.templateHash, warnings: info.warnings)
    }
}

extension MemoryEstimate {
    init(_ estimate: ThumbprintFFI.MemoryEstimate) {
        self.init(
            inference: InferenceMemory(
                weights: estimate.inference.weights, cache: estimate.inference.cache, compute: estimate.inference.compute),
            training: estimate.training.map { TrainingMemory(fullSpeed: $0.fullSpeed, least: $0.least) })
    }
}

extension Machine {
    init(_ machine: ThumbprintFFI.Machine) {
        self.init(
            version: machine.version, ggml: machine.ggml, devices: machine.devices.map(Device.init), cpuFeatures: machine.cpuFeatures,
            processors: Int(clamping: machine.processors), encrypts: machine.encrypts,
            trainableArchitectures: machine.trainableArchitectures,
            trainableTypes: machine.trainableTypes)
    }
}

extension Device {
    init(_ device: ThumbprintFFI.Device) {
        self.init(
            name: device.name, description: device.description, kind: Kind(device.kind), freeBytes: device.freeBytes,
            totalBytes: device.totalBytes)
    }
}

extension Device.Kind {
    init(_ kind: ThumbprintFFI.DeviceKind) {
        switch kind {
        case .cpu: self = .cpu
        case .gpu: self = .gpu
        case .integratedGpu: self = .integratedGpu
        case .accelerator: self = .accelerator
        }
    }
}

extension LogRecord {
    init(_ record: ThumbprintFFI.LogRecord) {
        let level: Level =
            switch record.level {
            case .error: .error
            case .warn: .warn
            case .info: .info
            case .debug: .debug
            }
        self.init(level: level, target: record.target, text: record.text)
    }
}

// MARK: Errors

extension ThumbprintError {
    /// The public form of what a call of the boundary threw; anything else is as it was.
    static func of(_ error: any Error) -> any Error {
        guard let error = error as? ThumbprintFFI.ThumbprintError else { return error }
        return ThumbprintError(error)
    }

    private init(_ error: ThumbprintFFI.ThumbprintError) {
        func told(_ code: String, _ reason: String) -> Context { Context(code: code, reason: reason) }
        switch error {
        case .Closed(let code, let reason): self = .closed(told(code, reason))
        case .Cancelled(let code, let reason): self = .cancelled(told(code, reason))
        case .Listener(let code, let reason): self = .listener(told(code, reason))
        case .FolderInUse(let code, let reason, let pid): self = .folderInUse(told(code, reason), pid: pid)
        case .Storage(let code, let reason): self = .storage(told(code, reason))
        case .NotFound(let code, let reason): self = .notFound(told(code, reason))
        case .InvalidInput(let code, let reason): self = .invalidInput(told(code, reason))
        case .PromptTooLong(let code, let reason, let promptTokens, let nCtx):
            self = .promptTooLong(told(code, reason), promptTokens: promptTokens, nCtx: nCtx)
        case .InvalidState(let code, let reason): self = .invalidState(told(code, reason))
        case .Model(let code, let reason): self = .model(told(code, reason))
        case .Adapter(let code, let reason): self = .adapter(told(code, reason))
        case .File(let code, let reason): self = .file(told(code, reason))
        case .Import(let code, let reason, let line): self = .import(told(code, reason), line: line)
        case .OverBudget(let code, let reason, let neededMib, let budgetMib):
            self = .overBudget(told(code, reason), neededMiB: neededMib, budgetMiB: budgetMib)
        case .Training(let code, let reason): self = .training(told(code, reason))
        case .Internal(let code, let reason): self = .internal(told(code, reason))
        }
    }

    static func outOfRange<T: FixedWidthInteger>(_ name: String, _ value: Int, _ most: T) -> ThumbprintError {
        .invalidInput(Context(code: "invalid_option", reason: "\(name) is \(value), but goes from 0 to \(most)"))
    }

    static var noReplyYet: ThumbprintError {
        .invalidState(Context(code: "nothing_to_judge", reason: "this chat has no reply yet: get one first"))
    }

    static var endedWithoutReply: ThumbprintError {
        .internal(Context(code: "internal", reason: "a generation ended with neither a reply nor an error"))
    }
}
