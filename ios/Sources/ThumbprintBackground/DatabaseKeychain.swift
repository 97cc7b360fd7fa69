#if canImport(Security)
    import Foundation
    import Security

    /// A key for the database, drawn at random once and held in the Keychain: readable while the device is locked once it has been unlocked
    /// after its start, on this device alone, and in no backup.
    public enum DatabaseKeychain {
        /// The key under this name; made if there is none. 32 bytes.
        public static func key(service: String, account: String = "thumbprint-database") throws -> Data {
            if let key = try find(service, account) {
                return key
            }
            var bytes = [UInt8](repeating: 0, count: 32)
            let drawn = SecRandomCopyBytes(kSecRandomDefault, bytes.count, &bytes)
            guard drawn == errSecSuccess else {
                throw ThumbprintBackgroundError.keychain(drawn)
            }
            var item = query(service, account)
            item[kSecValueData as String] = Data(bytes)
            item[kSecAttrAccessible as String] = kSecAttrAccessibleAfterFirstUnlockThisDeviceOnly
            let added = SecItemAdd(item as CFDictionary, nil)
            if added == errSecDuplicateItem, let key = try find(service, account) {
                // Another thread was faster.
                return key
            }
            guard added == errSecSuccess else {
                throw ThumbprintBackgroundError.keychain(added)
            }
            return Data(bytes)
        }

        /// Throws the key away, and with it all that is encrypted under it.
        public static func forget(service: String, account: String = "thumbprint-database") throws {
            let status = SecItemDelete(query(service, account) as CFDictionary)
            guard status == errSecSuccess || status == errSecItemNotFound else {
                throw ThumbprintBackgroundError.keychain(status)
            }
        }

        private static func find(_ service: String, _ account: String) throws -> Data? {
            var item = query(service, account)
            item[kSecReturnData as String] = true
            item[kSecMatchLimit as String] = kSecMatchLimitOne
            var found: CFTypeRef?
            let status = SecItemCopyMatching(item as CFDictionary, &found)
            if status == errSecItemNotFound {
                return nil
            }
            guard status == errSecSuccess, let key = found as? Data else {
                throw ThumbprintBackgroundError.keychain(status)
            }
            return key
        }

        private static func query(_ service: String, _ account: String) -> [String: Any] {
            [
                kSecClass as String: kSecClassGenericPassword,
                kSecAttrService as String: service,
                kSecAttrAccount as String: account,
                kSecUseDataProtectionKeychain as String: true,
            ]
        }
    }
#endif
