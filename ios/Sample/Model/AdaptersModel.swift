import Foundation
import Observation
import ThumbprintKit

/// The adapters on the screen: how it went, and what the person can do about it.
@MainActor
@Observable
public final class AdaptersModel {
    public private(set) var adapters: [AdapterDetails] = []
    public private(set) var readiness: Readiness?
    /// How far a job is that runs.
    public private(set) var progress: JobProgress?
    /// What came of the last one, or went wrong, for people.
    public private(set) var news: String?

    private let thumbprint: Thumbprint
    private var job: PersonalizeJob?

    public init(thumbprint: Thumbprint) {
        self.thumbprint = thumbprint
    }

    public func reload() async {
        await reporting {
            adapters = try await thumbprint.adapters().reversed()
            readiness = try await thumbprint.readiness()
        }
    }

    /// Learns now, as long as the app is on the screen.
    public func personalize(_ budget: Budget = Budget()) async {
        await reporting {
            let job = try await thumbprint.personalize(budget)
            self.job = job
            for await now in job {
                progress = now
            }
            progress = nil
            self.job = nil
            news = Self.words(for: try await job.outcome())
            adapters = try await thumbprint.adapters().reversed()
            readiness = try await thumbprint.readiness()
        }
    }

    public func pause() {
        job?.pause()
    }

    public func activate(_ adapter: AdapterDetails) async {
        await reporting { try await thumbprint.activate(adapter.id) }
        await reload()
    }

    public func rollback() async {
        await reporting { try await thumbprint.rollback() }
        await reload()
    }

    /// Erases everything that was said, and what was learned from it.
    public func forgetEverything() async {
        await reporting { try await thumbprint.forget(.everything) }
        await reload()
    }

    public static func words(for outcome: Outcome) -> String {
        switch outcome {
        case .trial(_, let report), .rejected(_, let report): report.explanation
        case .trialRunning: "The adapter in use is still on trial."
        case .nothingToLearn(let readiness): "\(readiness.have.events) of \(readiness.need.events) thumbs so far."
        case .paused: "Paused; it goes on from here."
        case .cancelled: "Given up."
        }
    }

    private func reporting(_ work: () async throws -> Void) async {
        do {
            try await work()
        } catch {
            progress = nil
            news = (error as? ThumbprintError)?.reason ?? error.localizedDescription
        }
    }
}
