import Foundation

/// What can go wrong in this package itself.
public enum ThumbprintBackgroundError: Error, Hashable, Sendable, LocalizedError {
    /// The folder lies in an App Group's container.
    case inAppGroup
    /// The scheduler has no identifier for a task that the person starts.
    case noIdentifier
    /// The Keychain's answer, an `OSStatus`.
    case keychain(Int32)

    public var errorDescription: String? {
        switch self {
        case .inAppGroup:
            "the data folder must not lie in an App Group's container, where iOS ends a suspended app that holds a lock"
        case .noIdentifier:
            "name the task that the person starts when making the scheduler"
        case .keychain(let status):
            "the Keychain answered with status \(status)"
        }
    }
}

/// A place for the data folder that background work can reach.
public enum DataFolder {
    /// Makes `name` in Application Support, protected until the device is first unlocked after it was started, and so readable and writable
    /// at night while it is locked. Not part of backups unless `isBackedUp`: what a person said stays on the device.
    public static func prepare(
        name: String = "Thumbprint", in parent: URL? = nil, isBackedUp: Bool = false
    ) throws -> URL {
        let parent =
            try parent
            ?? FileManager.default.url(
                for: .applicationSupportDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
        let folder = parent.appendingPathComponent(name, isDirectory: true)
        if folder.pathComponents.contains("AppGroup") {
            throw ThumbprintBackgroundError.inAppGroup
        }
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        try protect(folder)
        #if canImport(Darwin)
            var values = URLResourceValues()
            values.isExcludedFromBackup = !isBackedUp
            var marked = folder
            try marked.setResourceValues(values)
        #endif
        return folder
    }

    /// Protects a file, or a folder, which new files in it follow, with the files that are there, until the first unlock and no longer: an app
    /// with the entitlement for complete protection would otherwise lose them whenever the device is locked. `prepare` does it for the data
    /// folder; a model that lies elsewhere needs it, too, for the night.
    public static func protect(_ item: URL) throws {
        #if os(iOS)
            let attributes: [FileAttributeKey: Any] = [.protectionKey: FileProtectionType.completeUntilFirstUserAuthentication]
            try FileManager.default.setAttributes(attributes, ofItemAtPath: item.path)
            let files = FileManager.default.enumerator(at: item, includingPropertiesForKeys: nil)
            while let file = files?.nextObject() as? URL {
                try FileManager.default.setAttributes(attributes, ofItemAtPath: file.path)
            }
        #endif
    }
}
