// Another process, for the tests:
//   probe FOLDER               says "free", or "folder_in_use PID"
//   hold FOLDER                opens it, says "open", and keeps it until its input ends
//   personalize FOLDER MODEL   says how far the job is, line by line, until it is killed

import Foundation
import ThumbprintKit

/// Says a line at once.
func say(_ words: Any...) {
    let line = words.map { "\($0)" }.joined(separator: " ") + "\n"
    FileHandle.standardOutput.write(Data(line.utf8))
}

let arguments = CommandLine.arguments
let folder = URL(fileURLWithPath: arguments[2])

do {
    switch arguments[1] {
    case "probe":
        let tp = try await Thumbprint(dataDirectory: folder)
        await tp.close()
        say("free")
    case "hold":
        let tp = try await Thumbprint(dataDirectory: folder)
        say("open")
        while readLine() != nil {}
        await tp.close()
    case "personalize":
        let model = URL(fileURLWithPath: arguments[3])
        let tp = try await Thumbprint(dataDirectory: folder, model: model, engine: EngineOptions(nCtx: 1024, nThreads: 1))
        // As the tests' own jobs, see Support.swift.
        let brief = Recipe(settingsJSON: #"{"west_of_n": null, "folds_from": 0}"#)
        for await progress in try await tp.personalize(recipe: brief) {
            say(progress.phase, progress.step, progress.total)
        }
        say("over")
    default:
        fatalError("unknown: \(arguments[1])")
    }
} catch ThumbprintError.folderInUse(let context, let pid) {
    say(context.code, pid ?? 0)
}
