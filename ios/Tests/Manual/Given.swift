// What the snippets of docs/ios.md take for granted: compiled beside them by scripts/test-swift, and never run.

import Foundation
import ThumbprintBackground
import ThumbprintKit

let model: URL = given()
let downloaded: URL = given()
let expected: String = given()
let folder: URL = given()
let prompt: String = given()
let replyID: ReplyID = given()
let tp: Thumbprint = given()
let session: Session = given()
let scheduler: BackgroundScheduler = given()
let training: BackgroundTraining = given()
@MainActor var text = ""

actor Folder {
    static let shared = Folder()
    var current: Thumbprint? { nil }

    func open() async throws -> Thumbprint { tp }
}

#if os(Linux)
    // Of the module os.
    func os_proc_available_memory() -> Int { 0 }
#endif

private func given<Value>() -> Value {
    fatalError("compiled, and not run")
}
