/// A number that names something recorded. Handed out once and never again.
public protocol RecordedID: RawRepresentable, Hashable, Comparable, Sendable, Codable, CustomStringConvertible
where RawValue == Int64 {
    /// Names what has this number: to store an id as a number and have it back.
    init(rawValue: Int64)
}

extension RecordedID {
    public static func < (one: Self, other: Self) -> Bool { one.rawValue < other.rawValue }
    public var description: String { String(rawValue) }
}

/// Names a reply.
public struct ReplyID: RecordedID {
    public let rawValue: Int64
    public init(rawValue: Int64) { self.rawValue = rawValue }
}

/// Names one event of feedback. A larger one is later.
public struct FeedbackID: RecordedID {
    public let rawValue: Int64
    public init(rawValue: Int64) { self.rawValue = rawValue }
}

/// Names a stored chat.
public struct SessionID: RecordedID {
    public let rawValue: Int64
    public init(rawValue: Int64) { self.rawValue = rawValue }
}

/// Names one turn of a stored chat.
public struct MessageID: RecordedID {
    public let rawValue: Int64
    public init(rawValue: Int64) { self.rawValue = rawValue }
}

/// Names one version of the adapter.
public struct AdapterID: RecordedID {
    public let rawValue: Int64
    public init(rawValue: Int64) { self.rawValue = rawValue }
}

/// Names one blind side-by-side of two replies.
public struct MatchID: RecordedID {
    public let rawValue: Int64
    public init(rawValue: Int64) { self.rawValue = rawValue }
}

/// Names one run of the personalization job.
public struct RunID: RecordedID {
    public let rawValue: Int64
    public init(rawValue: Int64) { self.rawValue = rawValue }
}
