// swift-tools-version: 6.0
// The hand-written ThumbprintKit over generated code, which has a module of its own. Apple's platforms take the library as an
// XCFramework that scripts/build-xcframework makes; elsewhere it is a system library that scripts/test-swift builds and names to the linker.

import Foundation
import PackageDescription

let here = URL(fileURLWithPath: #filePath).deletingLastPathComponent().path
let hasFramework = FileManager.default.fileExists(atPath: here + "/CThumbprint.xcframework")

#if os(Linux)
    let library: Target = .systemLibrary(name: "CThumbprint", path: "Sources/CThumbprint")
    let (resources, excluded): ([Resource], [String]) = ([], ["PrivacyInfo.xcprivacy"])
#else
    let (resources, excluded): ([Resource], [String]) = ([.process("PrivacyInfo.xcprivacy")], [])
    let library: Target =
        hasFramework
        ? .binaryTarget(name: "CThumbprint", path: "CThumbprint.xcframework")
        : .systemLibrary(name: "CThumbprint", path: "Sources/CThumbprint")
#endif

let package = Package(
    name: "ThumbprintKit",
    platforms: [.iOS(.v17), .macOS(.v14)],
    products: [
        .library(name: "ThumbprintKit", targets: ["ThumbprintKit"])
    ],
    targets: [
        library,
        .target(
            name: "ThumbprintFFI",
            dependencies: ["CThumbprint"],
            linkerSettings: [
                .linkedLibrary("c++", .when(platforms: [.iOS, .macOS])),
                .linkedFramework("Accelerate", .when(platforms: [.iOS, .macOS])),
                .linkedFramework("Foundation", .when(platforms: [.iOS, .macOS])),
                .linkedFramework("Metal", .when(platforms: [.iOS, .macOS])),
                .linkedFramework("Security", .when(platforms: [.iOS, .macOS])),
            ]
        ),
        .target(name: "ThumbprintKit", dependencies: ["ThumbprintFFI"], exclude: excluded, resources: resources),
        // Is killed in the middle of a job, and opens a folder from another process.
        .executableTarget(name: "thumbprint-test-child", dependencies: ["ThumbprintKit"], path: "Tests/Child"),
        .testTarget(name: "ThumbprintKitTests", dependencies: ["ThumbprintKit", "thumbprint-test-child"]),
    ],
    swiftLanguageModes: [.v6]
)
