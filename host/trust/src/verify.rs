//! Whether a signature is one of these bytes by a trusted key.

use minisign_verify::{Error, Signature};

use crate::MAX_SIGNATURE_BYTES;
use crate::key::{TrustedKeys, id_in};

/// In a trusted comment: what follows is the digest of the version that the signed one may replace although it is newer.
const REPLACES: &str = "replaces:";

/// A signature that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The key's id.
    pub key: String,
    /// What the operator calls the key.
    pub name: Option<String>,
    /// The comment that is signed too.
    pub trusted_comment: String,
}

impl Verified {
    /// The order that the trusted comment may hold: SHA-256 of the version that is to be replaced, whatever its number.
    ///
    /// It is the word `replaces:` with 64 hexadecimal digits, anywhere in the comment between white space.
    pub fn replaces(&self) -> Option<String> {
        let digest = self
            .trusted_comment
            .split_whitespace()
            .find_map(|word| word.strip_prefix(REPLACES))?;
        let is_digest = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_digest.then(|| digest.to_ascii_lowercase())
    }
}

/// Why a signature is not to be relied on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// It is too large to be one.
    #[error("its signature is larger than {MAX_SIGNATURE_BYTES} bytes and therefore none")]
    TooLarge,
    /// It is not the text of a signature.
    #[error(
        "its signature is not the text of a minisign signature: four lines, two of them base64; sign the file anew"
    )]
    Malformed,
    /// It is made by a key that is not trusted.
    #[error(
        "it is signed by the key {key}, which is not trusted; if it should be, put the public key into `keys` of plugins.toml"
    )]
    Stranger {
        /// The key's id, as the signature states it.
        key: String,
    },
    /// It states a trusted key, and either other bytes or another comment were signed, or that key did not sign.
    #[error(
        "its signature states the key {key} and does not fit the file: one of both was changed or belongs to another version; get both anew from whoever signed"
    )]
    DoesNotFit {
        /// The key's id.
        key: String,
    },
}

/// Checks a signature, of the hashed kind or the older kind without, over `bytes` and over its own trusted comment.
pub fn verify(bytes: &[u8], signature: &str, keys: &TrustedKeys) -> Result<Verified, VerifyError> {
    if signature.len() > MAX_SIGNATURE_BYTES {
        return Err(VerifyError::TooLarge);
    }
    let line = signature.lines().nth(1).unwrap_or_default();
    let id = id_in(line).ok_or(VerifyError::Malformed)?;
    let parsed = Signature::decode(signature.trim_end()).map_err(|_| VerifyError::Malformed)?;
    let mut known = false;
    // Ids are no secret and anybody can make a key of any id, so several may have the same.
    for key in keys.iter() {
        match key.key.verify(bytes, &parsed, true) {
            Ok(()) => {
                return Ok(Verified {
                    key: id,
                    name: key.name().map(str::to_owned),
                    trusted_comment: parsed.trusted_comment().to_owned(),
                });
            }
            Err(Error::UnexpectedKeyId) => {}
            Err(_) => known = true,
        }
    }
    Err(if known {
        VerifyError::DoesNotFit { key: id }
    } else {
        VerifyError::Stranger { key: id }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TrustedKey;
    use crate::secret::KeyPair;

    fn keys(pairs: &[&KeyPair]) -> TrustedKeys {
        pairs
            .iter()
            .map(|pair| TrustedKey::parse(&pair.public, Some("studio")).unwrap())
            .collect()
    }

    fn sign(pair: &KeyPair, bytes: &[u8], comment: &str) -> String {
        let key = crate::SecretKey::open(&pair.secret, None).unwrap();
        key.sign(bytes, comment).unwrap()
    }

    #[test]
    fn a_signature_is_by_whom_it_says_over_what_it_came_with() {
        let (own, stranger) = (
            KeyPair::generate(None).unwrap(),
            KeyPair::generate(None).unwrap(),
        );
        let text = sign(&own, b"component", "timestamp:1");
        let verified = verify(b"component", &text, &keys(&[&stranger, &own])).unwrap();
        assert_eq!(verified.name.as_deref(), Some("studio"));
        assert_eq!(verified.trusted_comment, "timestamp:1");
        assert_eq!(verified.replaces(), None);
        let stranger = verify(b"component", &text, &keys(&[&stranger]));
        assert_eq!(
            stranger,
            Err(VerifyError::Stranger {
                key: verified.key.clone()
            })
        );
        let other = verify(b"other", &text, &keys(&[&own]));
        assert_eq!(
            other,
            Err(VerifyError::DoesNotFit {
                key: verified.key.clone()
            })
        );
        let comment = text.replace("timestamp:1", "timestamp:2");
        let comment = verify(b"component", &comment, &keys(&[&own]));
        assert_eq!(comment, Err(VerifyError::DoesNotFit { key: verified.key }));
        assert!(matches!(
            verify(b"component", &text, &TrustedKeys::default()),
            Err(VerifyError::Stranger { .. })
        ));
    }

    #[test]
    fn an_order_is_part_of_what_is_signed() {
        let own = KeyPair::generate(None).unwrap();
        let digest = "aB".repeat(32);
        let text = sign(&own, b"x", &format!("timestamp:1\treplaces:{digest}"));
        let verified = verify(b"x", &text, &keys(&[&own])).unwrap();
        assert_eq!(verified.replaces(), Some(digest.to_ascii_lowercase()));
        let text = sign(&own, b"x", "replaces:everything");
        assert_eq!(
            verify(b"x", &text, &keys(&[&own])).unwrap().replaces(),
            None
        );
    }

    #[test]
    fn no_text_ends_the_process() {
        let own = KeyPair::generate(None).unwrap();
        let text = sign(&own, b"x", "timestamp:1");
        let keys = keys(&[&own]);
        for end in 0..text.trim_end().len() {
            assert!(
                verify(b"x", &text[..end], &keys).is_err(),
                "cut off at {end}"
            );
        }
        for at in 0..text.len() {
            for byte in [b'\n', b'=', b'A', 0xff] {
                let mut bytes = text.clone().into_bytes();
                bytes[at] = byte;
                let _ = verify(b"x", &String::from_utf8_lossy(&bytes), &keys);
            }
        }
        let large = format!("{text}{}", " ".repeat(MAX_SIGNATURE_BYTES));
        assert_eq!(verify(b"x", &large, &keys), Err(VerifyError::TooLarge));
    }

    #[test]
    fn the_line_ends_of_another_system_do_no_harm() {
        let own = KeyPair::generate(None).unwrap();
        let text = sign(&own, b"x", "timestamp:1").replace('\n', "\r\n");
        assert!(verify(b"x", &text, &keys(&[&own])).is_ok());
    }
}
