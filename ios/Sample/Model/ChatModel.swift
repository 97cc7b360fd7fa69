import Foundation
import Observation
import ThumbprintKit

/// One chat on the screen: what was said, what is being said, and the thumbs.
@MainActor
@Observable
public final class ChatModel {
    /// One turn on the screen.
    public struct Turn: Identifiable, Hashable, Sendable {
        public let id: Int
        public let role: Role
        public var text: String
        /// What a thumb refers to; `nil` for the person's turns and while the reply is being written.
        public var reply: ReplyID?
        /// What is pressed.
        public var thumb: Thumb?
    }

    /// A thumb that is pressed.
    public enum Thumb: Hashable, Sendable {
        case up
        case down
    }

    public private(set) var turns: [Turn] = []
    public private(set) var isResponding = false
    /// What went wrong last, for people.
    public private(set) var problem: String?

    private let thumbprint: Thumbprint
    private let options: GenerationOptions
    private var session: Session?
    private var answering: ResponseStream?

    public init(thumbprint: Thumbprint, options: GenerationOptions = .init()) {
        self.thumbprint = thumbprint
        self.options = options
    }

    /// Shows the latest chat, or begins the first one.
    public func start() async {
        await reporting {
            if let latest = try await thumbprint.sessions().first {
                session = try await thumbprint.session(id: latest.id)
            } else {
                session = try await thumbprint.session()
            }
            try await reload()
        }
    }

    /// Says something and shows the reply as it is written.
    public func send(_ text: String) async {
        await reporting {
            guard let session, !isResponding else { return }
            show(.user, text)
            try await follow(session.streamResponse(to: text, options: options))
        }
    }

    /// Takes the last reply back and shows another.
    public func retry() async {
        await reporting {
            guard let session, !isResponding, turns.last?.role == .assistant else { return }
            turns.removeLast()
            try await follow(session.regenerateResponse(options: options))
        }
    }

    /// Ends the reply that is being written. What there is stays.
    public func stop() {
        answering?.cancel()
    }

    /// Presses a thumb, or lets go of it when it is pressed.
    public func press(_ thumb: Thumb, on turn: Turn) async {
        await reporting {
            guard let reply = turn.reply, let index = turns.firstIndex(where: { $0.id == turn.id }) else { return }
            if turns[index].thumb == thumb {
                for entry in try await thumbprint.feedback(on: reply) where Thumb(entry.feedback) != nil {
                    try await thumbprint.withdraw(entry.id)
                }
                turns[index].thumb = nil
            } else {
                try await thumbprint.logFeedback(on: reply, sentiment: thumb == .up ? .positive : .negative)
                turns[index].thumb = thumb
            }
        }
    }

    /// Puts what the person would rather have read in the place of the last reply.
    public func correct(_ text: String) async {
        await reporting {
            try await session?.logFeedback(sentiment: .negative, desiredOutput: text)
            try await reload()
        }
    }

    private func follow(_ stream: ResponseStream) async throws {
        isResponding = true
        answering = stream
        defer {
            isResponding = false
            answering = nil
        }
        let index = show(.assistant, "")
        for try await snapshot in stream {
            turns[index].text = snapshot.content
            turns[index].reply = snapshot.reply?.id
        }
    }

    @discardableResult
    private func show(_ role: Role, _ text: String) -> Int {
        turns.append(Turn(id: (turns.last?.id ?? 0) + 1, role: role, text: text))
        return turns.count - 1
    }

    private func reload() async throws {
        turns = []
        for stored in try await session?.transcript() ?? [] {
            let index = show(stored.message.role, stored.message.content)
            turns[index].reply = stored.reply
            if let reply = stored.reply {
                turns[index].thumb = try await thumbprint.feedback(on: reply).lazy.compactMap { Thumb($0.feedback) }.first
            }
        }
    }

    private func reporting(_ work: () async throws -> Void) async {
        do {
            problem = nil
            try await work()
        } catch is CancellationError {
        } catch {
            problem = (error as? ThumbprintError)?.reason ?? error.localizedDescription
        }
    }
}

extension ChatModel.Thumb {
    fileprivate init?(_ feedback: Feedback) {
        switch feedback {
        case .up: self = .up
        case .down: self = .down
        case .edit, .prefer, .rank, .retry: return nil
        }
    }
}
