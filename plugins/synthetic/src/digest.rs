//! The one source of variety: SHA-256 of the job's text.

use sha2::{Digest, Sha256};

/// 32 bytes that stand for a text.
pub(crate) fn of(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// The first 16 hex digits.
pub(crate) fn hex16(text: &str) -> String {
    of(text)
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
