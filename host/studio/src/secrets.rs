//! Ids, tokens and how they are compared. Tokens are kept as SHA-256 only.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use worker_wire::Secret;

/// SHA-256 of a token's text.
pub(crate) type TokenHash = [u8; 32];

/// The operating system gave no randomness; nothing may stand in for it.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub(crate) struct NoRandomness;

/// A fresh token of 32 random bytes, in hex.
pub(crate) fn token() -> Result<Secret, NoRandomness> {
    Ok(Secret::new(random_hex::<32>()?))
}

/// A fresh id: the prefix and 16 random bytes in hex.
pub(crate) fn id(prefix: &str) -> Result<String, NoRandomness> {
    Ok(format!("{prefix}{}", random_hex::<16>()?))
}

fn random_hex<const N: usize>() -> Result<String, NoRandomness> {
    let mut bytes = [0u8; N];
    getrandom::fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(hex::encode(bytes))
}

/// What is kept of a token.
pub(crate) fn hash(text: &str) -> TokenHash {
    Sha256::digest(text.as_bytes()).into()
}

/// Whether `given` is the token behind `expected`; the time taken says nothing about either.
pub(crate) fn matches(given: &str, expected: &TokenHash) -> bool {
    bool::from(hash(given).ct_eq(expected))
}

/// Reads a hash that came as 64 lowercase hex digits.
pub(crate) fn hash_from_hex(text: &str) -> Option<TokenHash> {
    let lowercase = text
        .bytes()
        .all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'));
    let mut bytes = [0u8; 32];
    (lowercase && hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(bytes)
}

/// The token of an `Authorization: Bearer …` header.
pub(crate) fn bearer(headers: &http::HeaderMap) -> Option<&str> {
    let value = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    (scheme == "Bearer" || scheme == "bearer").then_some(token.trim())
}
