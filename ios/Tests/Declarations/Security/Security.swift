// What this package uses of Apple's Security, declared from its documentation; see BackgroundTasks.swift. Items are kept as long as the process
// lives.

import Foundation

public typealias CFString = String
public typealias CFDictionary = [String: Any]
public typealias CFTypeRef = Any
public typealias OSStatus = Int32
public struct SecRandomRef: Sendable {}

public let errSecSuccess: OSStatus = 0
public let errSecParam: OSStatus = -50
public let errSecDuplicateItem: OSStatus = -25299
public let errSecItemNotFound: OSStatus = -25300

public let kSecClass: CFString = "class"
public let kSecClassGenericPassword: CFString = "genp"
public let kSecAttrService: CFString = "svce"
public let kSecAttrAccount: CFString = "acct"
public let kSecAttrAccessible: CFString = "pdmn"
public let kSecAttrAccessibleAfterFirstUnlockThisDeviceOnly: CFString = "cku"
public let kSecValueData: CFString = "v_Data"
public let kSecReturnData: CFString = "r_Data"
public let kSecMatchLimit: CFString = "m_Limit"
public let kSecMatchLimitOne: CFString = "m_LimitOne"
public let kSecUseDataProtectionKeychain: CFString = "nleg"
public let kSecRandomDefault: SecRandomRef? = nil

public func SecRandomCopyBytes(_ rnd: SecRandomRef?, _ count: Int, _ bytes: UnsafeMutableRawPointer) -> Int32 {
    for i in 0..<count {
        bytes.storeBytes(of: UInt8.random(in: 0...255), toByteOffset: i, as: UInt8.self)
    }
    return errSecSuccess
}

private final class Items: @unchecked Sendable {
    static let shared = Items()
    let lock = NSLock()
    var all: [String: CFDictionary] = [:]

    static func name(_ query: CFDictionary) -> String? {
        guard query[kSecClass] as? String == kSecClassGenericPassword, let service = query[kSecAttrService] as? String,
            let account = query[kSecAttrAccount] as? String
        else { return nil }
        return "\(service)/\(account)"
    }
}

public func SecItemAdd(_ attributes: CFDictionary, _ result: UnsafeMutablePointer<CFTypeRef?>?) -> OSStatus {
    guard let name = Items.name(attributes), attributes[kSecValueData] is Data else { return errSecParam }
    return Items.shared.lock.withLock {
        guard Items.shared.all[name] == nil else { return errSecDuplicateItem }
        Items.shared.all[name] = attributes
        return errSecSuccess
    }
}

public func SecItemCopyMatching(_ query: CFDictionary, _ result: UnsafeMutablePointer<CFTypeRef?>?) -> OSStatus {
    guard let name = Items.name(query) else { return errSecParam }
    return Items.shared.lock.withLock {
        guard let item = Items.shared.all[name] else { return errSecItemNotFound }
        result?.pointee = query[kSecReturnData] as? Bool == true ? item[kSecValueData] : item
        return errSecSuccess
    }
}

public func SecItemDelete(_ query: CFDictionary) -> OSStatus {
    guard let name = Items.name(query) else { return errSecParam }
    return Items.shared.lock.withLock {
        Items.shared.all.removeValue(forKey: name) == nil ? errSecItemNotFound : errSecSuccess
    }
}

// ---- for tests ----

/// What is known of an item.
public func keychainItem(service: String, account: String) -> CFDictionary? {
    Items.shared.lock.withLock { Items.shared.all["\(service)/\(account)"] }
}
