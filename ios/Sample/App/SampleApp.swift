import SampleModel
import SwiftUI
import ThumbprintBackground
import ThumbprintKit

@main
struct SampleApp: App {
    @State private var opened = Opened()
    @Environment(\.scenePhase) private var phase

    init() {
        // Before the app has finished launching.
        Opened.scheduler.register()
    }

    var body: some Scene {
        WindowGroup {
            if let chat = opened.chat, let adapters = opened.adapters {
                TabView {
                    ChatView(model: chat)
                        .tabItem { Label("Chat", systemImage: "bubble.left.and.bubble.right") }
                    AdaptersView(model: adapters)
                        .tabItem { Label("Adapters", systemImage: "clock.arrow.circlepath") }
                }
            } else if let problem = opened.problem {
                ContentUnavailableView("Not ready", systemImage: "exclamationmark.triangle", description: Text(problem))
            } else {
                ProgressView("Opening").task { await opened.open() }
            }
        }
        .onChange(of: phase) { _, now in
            if now == .background {
                try? Opened.scheduler.schedule()
            }
        }
    }
}

/// The one data folder of the app, opened at first use by whoever needs it first: a screen, or a night on the charger.
actor Folder {
    static let shared = Folder()
    private var thumbprint: Thumbprint?

    var current: Thumbprint? { thumbprint }

    func open() async throws -> Thumbprint {
        if let thumbprint {
            return thumbprint
        }
        // Shipped in the bundle here; docs/ios.md tells of downloading one.
        guard let model = Bundle.main.url(forResource: "model", withExtension: "gguf") else {
            throw CocoaError(.fileNoSuchFile, userInfo: [NSLocalizedDescriptionKey: "Add a model.gguf to the app's resources."])
        }
        let folder = try DataFolder.prepare()
        let opened = try await Thumbprint(dataDirectory: folder, model: model, engine: EngineOptions(nCtx: 2048))
        thumbprint = opened
        return opened
    }
}

/// What the screens show.
@MainActor
@Observable
final class Opened {
    nonisolated static let training = BackgroundTraining(isForeground: { await UIApplication.shared.applicationState == .active }) {
        try await Folder.shared.open()
    }
    nonisolated static let scheduler = BackgroundScheduler(
        nightly: "org.thumbprint.sample.nightly", now: "org.thumbprint.sample.now", training: training)

    private(set) var chat: ChatModel?
    private(set) var adapters: AdaptersModel?
    private(set) var problem: String?
    private var lifecycle: Lifecycle?

    func open() async {
        do {
            let thumbprint = try await Folder.shared.open()
            // What the person started goes on when they leave the app.
            lifecycle = Lifecycle(carriesOn: { Self.training.isRunning }) { await Folder.shared.current }
            chat = ChatModel(thumbprint: thumbprint)
            adapters = AdaptersModel(thumbprint: thumbprint)
            await chat?.start()
        } catch {
            problem = error.localizedDescription
        }
    }
}
