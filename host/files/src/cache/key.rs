//! What a file is kept under.

use std::fmt;

use sha2::{Digest, Sha256};

/// What a file is kept under. Shown as `sha256-` or `url-` and 64 hex digits, which is its file name everywhere.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CacheKey {
    /// The file's own SHA-256, as the offer gives it.
    Content([u8; 32]),
    /// The SHA-256 of the URL that it comes from.
    Url([u8; 32]),
}

impl CacheKey {
    /// The digest where the offer gives one, else the URL.
    #[must_use]
    pub fn of(sha256: Option<[u8; 32]>, url: &str) -> Self {
        sha256.map_or_else(
            || Self::Url(Sha256::digest(url.as_bytes()).into()),
            Self::Content,
        )
    }

    /// Reads what [`fmt::Display`] wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, digits) = text.split_once('-')?;
        let mut digest = [0; 32];
        hex::decode_to_slice(digits, &mut digest).ok()?;
        let key = match kind {
            "sha256" => Self::Content(digest),
            "url" => Self::Url(digest),
            _ => return None,
        };
        // One text for one key: no upper case.
        (key.to_string() == text).then_some(key)
    }
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Content(digest) => write!(f, "sha256-{}", hex::encode(digest)),
            Self::Url(digest) => write!(f, "url-{}", hex::encode(digest)),
        }
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
