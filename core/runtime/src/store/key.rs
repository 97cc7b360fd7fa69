//! What a database is encrypted under.

use super::StoreError;

/// Bytes of a key.
const LENGTH: usize = 32;

/// The key of a database: 32 random bytes, kept where the platform keeps secrets. Whoever loses it loses what was recorded.
///
/// SQLCipher encrypts the database and its log under it (AES-256, each page with a code of its own against changes). Adapters and
/// checkpoints lie beside the database as they are.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseKey([u8; LENGTH]);

impl DatabaseKey {
    /// Takes 32 bytes as they are: no password, which anybody could guess.
    pub fn new(bytes: [u8; LENGTH]) -> Self {
        Self(bytes)
    }

    /// Whether this build encrypts at all: it has the feature `sqlcipher`.
    pub fn is_supported() -> bool {
        cfg!(feature = "sqlcipher")
    }

    /// As SQLCipher takes it: `x'...'` is the key itself, anything else would be a password.
    pub(super) fn literal(&self) -> String {
        let hex: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("x'{hex}'")
    }
}

impl TryFrom<&[u8]> for DatabaseKey {
    type Error = StoreError;

    fn try_from(bytes: &[u8]) -> Result<Self, StoreError> {
        let given = bytes.len();
        let bytes = bytes.try_into();
        bytes.map(Self).map_err(|_| StoreError::KeyLength { given })
    }
}

impl std::fmt::Debug for DatabaseKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DatabaseKey(..)")
    }
}
