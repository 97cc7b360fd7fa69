import SampleModel
import SwiftUI
import ThumbprintKit

/// The chat: replies as they are written, and a thumb for each.
struct ChatView: View {
    let model: ChatModel
    @State private var draft = ""
    @State private var correction: String?

    var body: some View {
        NavigationStack {
            ScrollViewReader { scroll in
                List(model.turns) { turn in
                    TurnView(turn: turn, model: model)
                        .listRowSeparator(.hidden)
                        .id(turn.id)
                }
                .listStyle(.plain)
                .onChange(of: model.turns.last?.text) {
                    if let last = model.turns.last {
                        scroll.scrollTo(last.id, anchor: .bottom)
                    }
                }
            }
            .safeAreaInset(edge: .bottom) { input }
            .navigationTitle("Chat")
            .toolbar {
                Button("Retry", systemImage: "arrow.clockwise") { Task { await model.retry() } }
                Button("Correct", systemImage: "pencil") { correction = model.turns.last?.text }
            }
            .sheet(isPresented: Binding(get: { correction != nil }, set: { if !$0 { correction = nil } })) {
                CorrectionView(text: correction ?? "") { text in
                    correction = nil
                    Task { await model.correct(text) }
                }
            }
        }
    }

    private var input: some View {
        VStack(alignment: .leading) {
            if let problem = model.problem {
                Text(problem).font(.footnote).foregroundStyle(.red)
            }
            HStack {
                TextField("Message", text: $draft, axis: .vertical)
                    .textFieldStyle(.roundedBorder)
                if model.isResponding {
                    Button("Stop", systemImage: "stop.circle.fill") { model.stop() }
                } else {
                    Button("Send", systemImage: "arrow.up.circle.fill") {
                        let text = draft
                        draft = ""
                        Task { await model.send(text) }
                    }
                    .disabled(draft.isEmpty)
                }
            }
            .labelStyle(.iconOnly)
        }
        .padding()
        .background(.bar)
    }
}

/// One turn, with its thumbs.
private struct TurnView: View {
    let turn: ChatModel.Turn
    let model: ChatModel

    var body: some View {
        VStack(alignment: turn.role == .user ? .trailing : .leading) {
            Text(turn.text)
                .padding(10)
                .background(
                    turn.role == .user ? Color.accentColor.opacity(0.2) : Color.secondary.opacity(0.15), in: .rect(cornerRadius: 12))
            if turn.reply != nil {
                HStack {
                    thumb(.up, "hand.thumbsup")
                    thumb(.down, "hand.thumbsdown")
                }
            }
        }
        .frame(maxWidth: .infinity, alignment: turn.role == .user ? .trailing : .leading)
    }

    private func thumb(_ thumb: ChatModel.Thumb, _ image: String) -> some View {
        Button {
            Task { await model.press(thumb, on: turn) }
        } label: {
            Image(systemName: turn.thumb == thumb ? "\(image).fill" : image)
        }
        .buttonStyle(.borderless)
        .accessibilityLabel(thumb == .up ? "Good reply" : "Bad reply")
    }
}

/// What the person would rather have read.
private struct CorrectionView: View {
    @State var text: String
    let done: (String) -> Void

    var body: some View {
        NavigationStack {
            TextEditor(text: $text)
                .padding()
                .navigationTitle("Correct")
                .toolbar {
                    Button("Save") { done(text) }.disabled(text.isEmpty)
                }
        }
    }
}
