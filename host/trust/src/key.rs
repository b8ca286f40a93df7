//! Public keys that are trusted.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A public key that is trusted, with the name that the operator gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedKey {
    id: String,
    name: Option<String>,
    text: String,
    pub(crate) key: minisign_verify::PublicKey,
}

/// Why a text is no public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "is no minisign public key: one is a line of 56 characters that begins with RW, the second of a .pub file"
)]
pub struct KeyError;

impl TrustedKey {
    /// Reads a key: its line alone, or the whole text of a `.pub` file.
    pub fn parse(text: &str, name: Option<&str>) -> Result<Self, KeyError> {
        let line = match text.lines().count() {
            0 | 1 => text.trim(),
            _ => text.lines().nth(1).unwrap_or_default().trim(),
        };
        let key = minisign_verify::PublicKey::from_base64(line).map_err(|_| KeyError)?;
        Ok(Self {
            id: id_in(line).ok_or(KeyError)?,
            name: name.map(str::to_owned),
            text: line.to_owned(),
            key,
        })
    }

    /// Its id, 16 hexadecimal digits, as every minisign program shows it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What the operator calls it.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The key's line.
    pub fn line(&self) -> &str {
        &self.text
    }
}

/// The id and, where it has one, the name.
impl fmt::Display for TrustedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)?;
        match &self.name {
            Some(name) => write!(f, " ({name})"),
            None => Ok(()),
        }
    }
}

/// The id in a key's or a signature's line: after two bytes that name the algorithm, eight of a number in little endian.
pub(crate) fn id_in(line: &str) -> Option<String> {
    let bytes = STANDARD.decode(line.trim()).ok()?;
    let id: [u8; 8] = bytes.get(2..10)?.try_into().ok()?;
    Some(format!("{:016X}", u64::from_le_bytes(id)))
}

/// The keys that an operator trusts; none trusts nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedKeys(Vec<TrustedKey>);

impl TrustedKeys {
    /// All keys.
    pub fn iter(&self) -> impl Iterator<Item = &TrustedKey> {
        self.0.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<TrustedKey> for TrustedKeys {
    fn from_iter<T: IntoIterator<Item = TrustedKey>>(keys: T) -> Self {
        Self(keys.into_iter().collect())
    }
}
