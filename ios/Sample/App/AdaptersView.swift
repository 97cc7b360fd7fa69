import SampleModel
import SwiftUI
import ThumbprintKit

/// Every adapter that was made, with what the gate and the votes said.
struct AdaptersView: View {
    let model: AdaptersModel
    @State private var isForgetting = false

    var body: some View {
        NavigationStack {
            List {
                Section("Learning") {
                    if let readiness = model.readiness {
                        LabeledContent("Thumbs", value: "\(readiness.have.events) of \(readiness.need.events)")
                    }
                    if let progress = model.progress {
                        ProgressView(value: Double(progress.step), total: Double(max(progress.total, 1))) {
                            Text(progress.phase.rawValue)
                        }
                        Button("Pause") { model.pause() }
                    } else {
                        Button("Learn now") { learn() }
                    }
                    if let news = model.news {
                        Text(news).font(.footnote)
                    }
                }
                Section("History") {
                    ForEach(model.adapters) { adapter in
                        AdapterRow(adapter: adapter)
                            .swipeActions {
                                Button("Use") { Task { await model.activate(adapter) } }
                            }
                    }
                }
                Section {
                    Button("Roll back") { Task { await model.rollback() } }
                    Button("Forget everything", role: .destructive) { isForgetting = true }
                }
            }
            .navigationTitle("Adapters")
            .task { await model.reload() }
            .refreshable { await model.reload() }
            .confirmationDialog("Erase all feedback and what was learned from it?", isPresented: $isForgetting) {
                Button("Forget everything", role: .destructive) { Task { await model.forgetEverything() } }
            }
        }
    }

    /// As a task that goes on after the person leaves the app, where the system has such.
    private func learn() {
        #if compiler(>=6.2)
            if #available(iOS 26.0, *) {
                do {
                    try Opened.scheduler.personalizeNow(title: "Learning from your thumbs", subtitle: "On this device")
                    return
                } catch {
                    // The system is busy: on the screen, then.
                }
            }
        #endif
        Task { await model.personalize() }
    }
}

private struct AdapterRow: View {
    let adapter: AdapterDetails

    var body: some View {
        VStack(alignment: .leading, spacing: 4) {
            HStack {
                Text("Adapter \(adapter.id.description)").font(.headline)
                if adapter.active {
                    Image(systemName: "checkmark.circle.fill").foregroundStyle(.green)
                }
                Spacer()
                Text(adapter.createdAt, style: .date).font(.caption)
            }
            Text(adapter.explanation).font(.subheadline)
            if let verdict = adapter.verdict {
                Text("\(verdict.wins) for, \(verdict.losses) against, \(verdict.ties) neither").font(.caption)
            }
            ForEach(adapter.decisions, id: \.self) { decision in
                Text(decision.explanation ?? decision.kind).font(.caption).foregroundStyle(.secondary)
            }
        }
    }
}
