//! Names of spooled products.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// Hex digits of the time part: milliseconds since 1970 fit into twelve until the year 10889.
const TIME_DIGITS: usize = 12;
/// Hex digits of the random part, which tells products of the same millisecond apart.
const RANDOM_DIGITS: usize = 8;

/// Name of one product, in the spool and in the aside: twenty lowercase hex digits that sort by time. A job id would
/// not do: the same job may come twice, and its characters are not safe in file names everywhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(String);

/// A text that names no product.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a result's id is 20 hex digits, as `studio-worker results` lists them")]
pub struct EntryIdError;

impl EntryId {
    /// A name for a product of now. Fails only where the operating system has no randomness.
    pub(crate) fn fresh() -> Result<Self, getrandom::Error> {
        let millis = unix_millis(SystemTime::now());
        let random = getrandom::u32()?;
        Ok(Self(format!("{millis:012x}{random:08x}")))
    }

    /// Checks and wraps a text, so that it can stand in a path.
    pub fn parse(text: &str) -> Result<Self, EntryIdError> {
        let sound = text.len() == TIME_DIGITS + RANDOM_DIGITS
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if sound {
            Ok(Self(text.to_owned()))
        } else {
            Err(EntryIdError)
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Milliseconds since 1970; 0 for a clock before it.
pub(crate) fn unix_millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_id_reads_back() {
        let id = EntryId::fresh().unwrap();
        assert_eq!(EntryId::parse(id.as_str()), Ok(id));
    }

    #[test]
    fn nothing_that_could_leave_the_folder_is_an_id() {
        for text in [
            "",
            "..",
            "../../etc/passwd0000",
            "0123456789ABCDEF0123",
            "0123456789abcdef012",
            "0123456789abcdef01234",
        ] {
            assert_eq!(EntryId::parse(text), Err(EntryIdError), "{text}");
        }
    }
}
