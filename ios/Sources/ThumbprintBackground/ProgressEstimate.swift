import ThumbprintKit

/// One number for the progress of a job with several phases, for a bar. Never goes back.
public struct ProgressEstimate: Sendable {
    // Parts of the whole that phases usually take; usually there are no online rounds, in which the bar stands.
    private static let shares: [(Phase, Double)] = [
        (.curate, 0.01), (.replay, 0.04), (.reference, 0.05), (.fold, 0.40), (.train, 0.40), (.online, 0),
        (.gate, 0.10),
    ]
    private var last = 0.0

    public init() {}

    /// From 0 to 1.
    public mutating func fraction(at progress: JobProgress) -> Double {
        var before = 0.0
        for (phase, share) in Self.shares {
            if phase == progress.phase {
                let within = progress.total > 0 ? Double(progress.step) / Double(progress.total) : 0
                last = max(last, before + share * min(within, 1))
                return last
            }
            before += share
        }
        last = 1
        return last
    }
}
