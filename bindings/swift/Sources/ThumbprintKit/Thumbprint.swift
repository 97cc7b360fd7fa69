import Foundation
internal import ThumbprintFFI

/// A data folder with its model.
///
/// May be used from any task and thread; calls from many at once are queued. Opening the same folder again in one process gives the same
/// instance; another process gets `ThumbprintError.folderInUse`. The folder must not lie in an App Group's container: iOS ends a suspended
/// app that holds a lock there.
public final class Thumbprint: Sendable {
    let inner: ThumbprintFFI.Thumbprint

    /// Opens a data folder, which is made if it is missing. `model` is loaded at first use, or by `load`.
    ///
    /// Under a `key` of 32 random bytes the database is encrypted, in builds where `machine().encrypts`; once there is one, it opens under its
    /// key alone.
    public init(dataDirectory: URL, model: URL? = nil, engine: EngineOptions? = nil, key: Data? = nil) async throws {
        inner = try await patient {
            let options = ThumbprintFFI.Options(
                dataDir: dataDirectory.path, model: model?.path, engine: try engine?.boundary(), key: key)
            return try ThumbprintFFI.Thumbprint.open(options: options)
        }
    }

    /// Ends what runs through this object, whose calls throw `ThumbprintError.closed` from now on.
    ///
    /// The last one to close a folder also pauses its job, unloads the model and releases every lock. May be called from anywhere, and again.
    public func close() async {
        await withCheckedContinuation { continuation in
            // On a thread of its own: the workers may all be waiting for what this ends.
            Thread.detachNewThread { [inner] in
                inner.shutdown()
                continuation.resume()
            }
        }
    }

    /// Whether `close` was called.
    public var isClosed: Bool { inner.isShutDown() }

    /// What was found at opening: a database that was moved aside, say.
    public func openReport() async throws -> OpenReport {
        try await quick { [inner] in OpenReport(try inner.openReport()) }
    }

    // MARK: The model

    /// Loads a model and puts its active adapter in force.
    ///
    /// `onProgress` is called with 0.0 to 1.0, on a thread of the library's. If it returns false, loading ends with
    /// `ThumbprintError.cancelled`; what it throws ends loading, too, and is thrown here. A cancelled task gives loading up.
    public func load(_ model: URL, onProgress: (@Sendable (Float) throws -> Bool)? = nil) async throws {
        let listener = Loading(onProgress)
        try await blocking(
            { [inner] in
                // Cancelled before a thread was free, it must not disturb what was loaded since.
                guard !listener.isGivenUp else { return }
                do {
                    try inner.load(model: model.path, listener: listener)
                } catch {
                    throw listener.thrown ?? error
                }
            }, cancelled: { listener.giveUp() })
    }

    /// Unloads the model; it is loaded again at the next use. A running job is paused.
    public func unload() async throws {
        try await patient { [inner] in try inner.unload() }
    }

    /// Facts of the model, which is loaded if need be.
    public func modelInfo() async throws -> ModelInfo {
        try await blocking({ [inner] in ModelInfo(try inner.modelInfo()) }, cancelled: {})
    }

    /// Computes the beginning of a conversation ahead of time, so that the next reply to it begins sooner. Returns how many tokens are now
    /// kept.
    @discardableResult
    public func prewarm(_ messages: [Message]) async throws -> Int {
        try await blocking({ [inner] in Int(clamping: try inner.prewarm(messages: messages.map(\.boundary))) }, cancelled: {})
    }

    // MARK: Talking

    /// A new stored chat, which begins with `instructions` if there are any.
    public func session(instructions: String? = nil) async throws -> Session {
        let session = try await quick { [self] in Session(try inner.conversation(), of: self) }
        if let instructions {
            try await session.append(.system(instructions))
        }
        return session
    }

    /// A stored chat that exists.
    public func session(id: SessionID) async throws -> Session {
        try await quick { [self] in Session(try inner.conversation(id: id.rawValue), of: self) }
    }

    /// Every stored chat, the latest used first.
    public func sessions() async throws -> [SessionInfo] {
        try await quick { [inner] in try inner.conversations().map(SessionInfo.init) }
    }

    /// Starts a reply without a stored chat, for apps that keep their own. Errors come through the sequence.
    public func generate(_ request: Request) -> Generation {
        Generation { [inner] in try inner.generate(request: request.boundary()) }
    }

    /// Generates several replies together, which must agree in `by`, and records them, in the order given. A cancelled task cancels them.
    public func generateBatch(_ requests: [Request], maxParallel: Int = 8) async throws -> [Reply] {
        let started = Locked((batch: ThumbprintFFI.Batch?.none, isCancelled: false))
        return try await blocking(
            { [inner] in
                let requests = try requests.map { try $0.boundary() }
                let batch = try inner.startBatch(requests: requests, maxParallel: narrowed(maxParallel, "maxParallel"))
                let isCancelled = started.with { started in
                    started.batch = batch
                    return started.isCancelled
                }
                if isCancelled {
                    batch.cancel()
                }
                return try batch.waitForReplies().map(Reply.init)
            },
            cancelled: {
                let batch = started.with { started in
                    started.isCancelled = true
                    return started.batch
                }
                batch?.cancel()
            })
    }

    // MARK: Feedback

    /// Records what the person said about a reply. Never loads a model.
    ///
    /// A later verdict on the same reply replaces the earlier one. It is on disk when this returns.
    @discardableResult
    public func record(_ feedback: Feedback, on reply: ReplyID) async throws -> FeedbackID {
        try await quick { [inner] in
            FeedbackID(rawValue: try inner.record(reply: reply.rawValue, feedback: feedback.boundary))
        }
    }

    /// Records feedback on text that this library did not generate.
    @discardableResult
    public func record(_ feedback: Feedback, onExternal completion: String, to messages: [Message]) async throws -> FeedbackID {
        try await quick { [inner] in
            let messages = messages.map(\.boundary)
            let id = try inner.recordExternal(messages: messages, completion: completion, feedback: feedback.boundary)
            return FeedbackID(rawValue: id)
        }
    }

    /// Records what the person said of a reply, as FoundationModels' feedback has it.
    ///
    /// Returns the event that stands for the reply now; `nil` where nothing was said.
    @discardableResult
    public func logFeedback(
        on reply: ReplyID, sentiment: Feedback.Sentiment?, issues: [Feedback.Issue] = [], desiredOutput: String? = nil
    ) async throws -> FeedbackID? {
        var id: FeedbackID?
        for event in Feedback.events(sentiment: sentiment, issues: issues, desiredOutput: desiredOutput) {
            id = try await record(event, on: reply)
        }
        return id
    }

    /// Takes feedback back. The event stays in the log, without effect; `forget` erases.
    @discardableResult
    public func withdraw(_ feedback: FeedbackID) async throws -> FeedbackID {
        try await quick { [inner] in FeedbackID(rawValue: try inner.withdraw(feedback: feedback.rawValue)) }
    }

    /// What is in effect on one reply, for showing a thumb as pressed.
    public func feedback(on reply: ReplyID) async throws -> [FeedbackInEffect] {
        try await quick { [inner] in try inner.feedbackOn(reply: reply.rawValue).map(FeedbackInEffect.init) }
    }

    /// Takes in feedback from a file, all of it or nothing. What was taken in before changes nothing. Without a format, the fields of the
    /// first line decide.
    public func importFeedback(from file: URL, format: FeedbackFormat? = nil, filters: ImportFilters? = nil) async throws -> Imported {
        try await patient { [inner] in
            let filters = try filters?.boundary()
            return Imported(try inner.importFeedback(path: file.path, format: format?.boundary, filters: filters))
        }
    }

    /// Writes feedback in effect to a file, in a form that TRL's trainers load or in that of a data set. The file is replaced whole or not
    /// at all.
    @discardableResult
    public func exportFeedback(to file: URL, format: FeedbackFormat = .preference) async throws -> Exported {
        try await patient { [inner] in Exported(try inner.exportFeedback(path: file.path, format: format.boundary)) }
    }

    // MARK: Learning

    /// Whether there is enough feedback to learn from, and how much is missing. Never loads a model.
    public func readiness() async throws -> Readiness {
        try await quick { [inner] in Readiness(try inner.readiness()) }
    }

    /// Starts to learn from the log, or attaches to the job that runs, or goes on with the one that rests (under the new budget).
    ///
    /// A `recipe` is another way of learning, for comparing with the product's; a job that runs keeps its own.
    public func personalize(_ budget: Budget? = nil, recipe: Recipe? = nil) async throws -> PersonalizeJob {
        try await quick { [self] in
            PersonalizeJob(try inner.personalize(budget: try budget?.boundary(), recipe: recipe?.boundary), of: self)
        }
    }

    /// The job that runs or is paused, if any.
    public func currentJob() async throws -> PersonalizeJob? {
        try await quick { [self] in try inner.currentJob().map { PersonalizeJob($0, of: self) } }
    }

    // MARK: Versions of the adapter

    /// Every adapter ever made, the first one first.
    public func adapters() async throws -> [AdapterDetails] {
        try await quick { [inner] in try inner.adapters().map(AdapterDetails.init) }
    }

    /// One adapter.
    public func adapter(_ id: AdapterID) async throws -> AdapterDetails {
        try await quick { [inner] in AdapterDetails(try inner.adapter(id: id.rawValue)) }
    }

    /// Serves replies with an adapter. One that was rolled back starts a new trial.
    public func activate(_ id: AdapterID) async throws {
        try await patient { [inner] in try inner.activate(id: id.rawValue) }
    }

    /// Serves the base model alone, keeping the adapter as it is.
    public func deactivate() async throws {
        try await patient { [inner] in try inner.deactivate() }
    }

    /// Takes the active adapter back and serves the one before it, or the base alone (`nil`).
    @discardableResult
    public func rollback() async throws -> AdapterID? {
        try await patient { [inner] in try inner.rollback().map(AdapterID.init(rawValue:)) }
    }

    /// Writes an adapter at full strength: the scale that it is served at is not in it. For PEFT's form the base model's file must be at
    /// hand.
    public func export(_ id: AdapterID, to file: URL, format: AdapterFormat = .gguf) async throws {
        try await patient { [inner] in try inner.export(id: id.rawValue, path: file.path, format: format.boundary) }
    }

    /// Takes in an adapter's file or folder that names the model at hand as its base or, if you say so, names none.
    ///
    /// It becomes a candidate that no gate has judged; one that is here already is left as it is.
    public func importAdapter(from file: URL, acceptUnnamedBase: Bool = false) async throws -> AdapterID {
        try await patient { [inner] in
            AdapterID(rawValue: try inner.importAdapter(path: file.path, acceptUnnamedBase: acceptUnnamedBase))
        }
    }

    /// Makes an adapter that is the weighted sum of others: exactly, or the nearest one of a rank.
    ///
    /// It becomes a candidate that no gate has judged, and is forgotten with any of the feedback that its parts learned from.
    public func combine(_ parts: [AdapterPart], rank: Int? = nil) async throws -> AdapterID {
        try await patient { [inner] in
            AdapterID(rawValue: try inner.combine(parts: parts.map(\.boundary), rank: try narrowed(rank, "rank")))
        }
    }

    /// Writes a model that needs no adapter: the base with the adapter, as it is served, in its weights. Matrices become `tensorType`,
    /// "F32" or "Q8_0" say, or stay of their types without one.
    @discardableResult
    public func merge(_ id: AdapterID, to file: URL, tensorType: String? = nil) async throws -> Merged {
        try await patient { [inner] in
            Merged(try inner.merge(id: id.rawValue, path: file.path, tensorType: tensorType))
        }
    }

    /// Records a blind vote, and acts on the evidence: promotes the adapter, or rolls it back.
    @discardableResult
    public func record(_ vote: Vote) async throws -> Verdict {
        try await patient { [inner] in Verdict(try inner.recordVote(vote: vote.boundary)) }
    }

    // MARK: Forgetting and sleeping

    /// Erases an item, what quotes it and everything that was made of it. A running job is cancelled.
    ///
    /// Adapters that learned from it are gone; the next `personalize` makes one as if it had never been said.
    @discardableResult
    public func forget(_ target: Target) async throws -> Forgotten {
        try await patient { [inner] in Forgotten(try inner.forget(target: target.boundary)) }
    }

    /// Pauses a job, unloads the model and releases every lock on the folder, which iOS wants before it suspends an app. The next call takes
    /// them again.
    public func suspend() async throws {
        try await patient { [inner] in try inner.suspend() }
    }

    // MARK: What needs no data folder

    /// What this machine and this build have, without loading anything.
    public static func machine() -> Machine {
        Machine(ThumbprintFFI.machine())
    }

    /// What a model needs of memory for a context of `nCtx` tokens, and to learn from examples of `exampleTokens`, from its file alone.
    public static func estimateMemory(of model: URL, nCtx: Int = 4096, exampleTokens: Int = 512) async throws -> MemoryEstimate {
        try await patient {
            let estimate = try ThumbprintFFI.estimateMemory(
                model: model.path, nCtx: narrowed(nCtx, "nCtx"), exampleTokens: narrowed(exampleTokens, "exampleTokens"))
            return MemoryEstimate(estimate)
        }
    }

    /// SHA-256 of a file, in hex.
    public static func hash(of file: URL) async throws -> String {
        try await patient { try ThumbprintFFI.hashFile(path: file.path) }
    }

    /// Throws `ThumbprintError.model` unless a downloaded model is the file that was meant.
    public static func verify(_ model: URL, sha256: String) async throws {
        try await patient { try ThumbprintFFI.verifyModel(path: model.path, sha256: sha256) }
    }

    /// Hands what the library logs to `handler` from now on, instead of to the one before; without one it is dropped. For the whole process.
    /// It is called on a thread of its own, one record after the other.
    public static func setLogHandler(_ handler: (@Sendable (LogRecord) -> Void)?) throws {
        do {
            try ThumbprintFFI.setLogSink(sink: handler.map(Sink.init))
        } catch {
            throw ThumbprintError.of(error)
        }
    }
}

/// Asks the app's function, and keeps what it throws, which cannot pass through the library.
private final class Loading: ThumbprintFFI.LoadListener, Sendable {
    private let onProgress: (@Sendable (Float) throws -> Bool)?
    private let state = Locked(State())

    private struct State {
        var givenUp = false
        var thrown: (any Error)?
    }

    init(_ onProgress: (@Sendable (Float) throws -> Bool)?) {
        self.onProgress = onProgress
    }

    func giveUp() {
        state.with { $0.givenUp = true }
    }

    var isGivenUp: Bool { state.with { $0.givenUp } }
    var thrown: (any Error)? { state.with { $0.thrown } }

    func onProgress(fraction: Float) throws -> Bool {
        do {
            return try !isGivenUp && (onProgress?(fraction) ?? true)
        } catch {
            state.with { $0.thrown = error }
            return false
        }
    }
}

private final class Sink: ThumbprintFFI.LogSink {
    private let handler: @Sendable (LogRecord) -> Void

    init(_ handler: @escaping @Sendable (LogRecord) -> Void) {
        self.handler = handler
    }

    func onLog(record: ThumbprintFFI.LogRecord) throws {
        handler(LogRecord(record))
    }
}
