import Foundation

/// Why a call failed. The case says what can be done about it. None holds text that a person wrote.
public enum ThumbprintError: Error, Hashable, Sendable {
    /// The object was closed before.
    case closed(Context)
    /// It was cancelled by something other than the task that waits (which throws `CancellationError`), or the model was unloaded meanwhile.
    case cancelled(Context)
    /// A listener of the app's failed; what it listened to was given up.
    case listener(Context)
    /// Another process has the data folder; its number, where it is known.
    case folderInUse(Context, pid: UInt32?)
    /// The data folder or its database: a full disk, no permission, damage, a newer version.
    case storage(Context)
    /// What an id named is not there, or not any more.
    case notFound(Context)
    /// What was asked for makes no sense: an empty prompt, an option out of range.
    case invalidInput(Context)
    /// The prompt leaves no room for a reply.
    case promptTooLong(Context, promptTokens: UInt64, nCtx: UInt32)
    /// Something else has to be done first: a model named, an adapter activated.
    case invalidState(Context)
    /// The model's file cannot be used, or not for this.
    case model(Context)
    /// An adapter's file cannot be used.
    case adapter(Context)
    /// A file could not be read or written.
    case file(Context)
    /// A line of a file of feedback cannot be used (from 1; 0 where the file itself is at fault); nothing of the file was.
    case `import`(Context, line: UInt64)
    /// No way of training fits the memory that was allowed.
    case overBudget(Context, neededMiB: UInt64, budgetMiB: UInt64)
    /// A run of training failed; what was in use before still is.
    case training(Context)
    /// A bug in this library.
    case `internal`(Context)

    /// What every error tells.
    public struct Context: Hashable, Sendable {
        /// Stable name of the cause: "unknown_reply", "disk_full".
        public let code: String
        /// What was wrong, where, and what to do.
        public let reason: String
    }

    /// Stable name of the cause, and words for people.
    public var context: Context {
        switch self {
        case .closed(let context), .cancelled(let context), .listener(let context), .folderInUse(let context, _),
            .storage(let context), .notFound(let context), .invalidInput(let context), .promptTooLong(let context, _, _),
            .invalidState(let context), .model(let context), .adapter(let context), .file(let context), .import(let context, _),
            .overBudget(let context, _, _), .training(let context), .internal(let context):
            context
        }
    }

    /// Stable name of the cause: the same from version to version.
    public var code: String { context.code }

    /// What was wrong, where, and what to do.
    public var reason: String { context.reason }
}

extension ThumbprintError: LocalizedError, CustomStringConvertible {
    public var errorDescription: String? { reason }
    public var description: String { "\(code): \(reason)" }
}
