// swift-tools-version: 6.0
// What iOS asks of an app that learns in the background, over ThumbprintKit. What needs no iOS is compiled and tested elsewhere, too.

import PackageDescription

// Elsewhere, what is used of Apple's frameworks is declared for the compiler and for tests.
#if os(Linux)
    let declared = ["BackgroundTasks", "Security", "UIKit"]
#else
    let declared: [String] = []
#endif
let frameworks = declared.map { Target.Dependency.target(name: $0) }
// For the manual's snippets, which scripts/test-swift compiles.
let declarations = declared.isEmpty ? [] : [Product.library(name: "Declarations", targets: declared)]

let package = Package(
    name: "ThumbprintBackground",
    platforms: [.iOS(.v17), .macOS(.v14)],
    products: [
        .library(name: "ThumbprintBackground", targets: ["ThumbprintBackground"]),
        .library(name: "SampleModel", targets: ["SampleModel"]),
    ] + declarations,
    dependencies: [
        .package(name: "ThumbprintKit", path: "../bindings/swift")
    ],
    targets: [
        .target(
            name: "ThumbprintBackground",
            dependencies: [.product(name: "ThumbprintKit", package: "ThumbprintKit")] + frameworks
        ),
        // The sample app without its views.
        .target(
            name: "SampleModel",
            dependencies: ["ThumbprintBackground", .product(name: "ThumbprintKit", package: "ThumbprintKit")],
            path: "Sample/Model"
        ),
        .testTarget(
            name: "ThumbprintBackgroundTests",
            dependencies: ["ThumbprintBackground", "SampleModel"] + frameworks
        ),
    ] + declared.map { .target(name: $0, path: "Tests/Declarations/\($0)") },
    swiftLanguageModes: [.v6]
)
