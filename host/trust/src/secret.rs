//! Secret keys: made, opened, signed with. Nothing here shows one.

use std::io::Cursor;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minisign::{ErrorKind, PublicKey, SecretKeyBox};
use zeroize::Zeroizing;

use crate::{MAX_KEY_BYTES, TrustedKey, TrustedKeys};

/// What the files of a pair begin with, as `minisign` writes it.
const SECRET_COMMENT: &str = "minisign encrypted secret key";
const SIGNATURE_COMMENT: &str = "signature from minisign secret key";
/// The longest password that other minisign programs take.
const MAX_PASSWORD_BYTES: usize = 1024;

/// The texts of a new pair's two files.
pub struct KeyPair {
    /// Of the `.pub` file.
    pub public: String,
    /// Of the secret file.
    pub secret: Zeroizing<String>,
}

/// A secret key ready to sign. It is not `Debug`, because its kind shows itself there.
pub struct SecretKey(minisign::SecretKey);

/// Why a secret key cannot be made, opened or used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The text is none.
    #[error("is not a minisign secret key: two lines, the second base64")]
    Malformed,
    /// It is kept by a password, and none was given.
    #[error("is kept by a password, and none was given")]
    PasswordNeeded,
    /// The password does not open it.
    #[error("does not open with this password")]
    WrongPassword,
    /// The password is too long.
    #[error("a password has at most 1024 bytes")]
    PasswordTooLong,
    /// A comment that would be read as more than one line.
    #[error("a comment is one line")]
    Comment,
    /// Something else, such as too little memory.
    #[error("cannot be used: {0}")]
    Failed(String),
}

impl From<minisign::PError> for SecretError {
    fn from(error: minisign::PError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl KeyPair {
    /// Makes a pair; with a password the secret key is encrypted by it.
    pub fn generate(password: Option<&str>) -> Result<Self, SecretError> {
        let pair = match password {
            Some(password) if password.len() > MAX_PASSWORD_BYTES => {
                return Err(SecretError::PasswordTooLong);
            }
            Some(password) => {
                minisign::KeyPair::generate_encrypted_keypair(Some(password.to_owned()))?
            }
            None => minisign::KeyPair::generate_unencrypted_keypair()?,
        };
        Ok(Self {
            public: pair.pk.to_box()?.into_string(),
            secret: Zeroizing::new(pair.sk.to_box(Some(SECRET_COMMENT))?.into_string()),
        })
    }
}

/// Whether a secret key's text needs a password; none where it is no such text.
pub fn is_protected(text: &str) -> Option<bool> {
    let line = text.lines().nth(1)?;
    let bytes = Zeroizing::new(STANDARD.decode(line.trim()).ok()?);
    // After the algorithm of the signature that of the key's protection: nothing, or `Sc`.
    bytes.get(2..4).map(|kind| kind != [0, 0])
}

impl SecretKey {
    /// Opens the text of a secret key's file. Takes seconds and up to a GiB of memory where there is a password.
    pub fn open(text: &str, password: Option<&str>) -> Result<Self, SecretError> {
        if text.len() > MAX_KEY_BYTES {
            return Err(SecretError::Malformed);
        }
        let boxed = SecretKeyBox::from_string(text.trim_end())?;
        let opened = match (is_protected(text), password) {
            (None, _) => return Err(SecretError::Malformed),
            (Some(false), _) => return Self::unprotected(text),
            (Some(true), None) => return Err(SecretError::PasswordNeeded),
            (Some(true), Some(password)) => boxed.into_secret_key(Some(password.to_owned())),
        };
        opened.map(Self).map_err(|error| match error.kind() {
            ErrorKind::Verify if password.is_some() => SecretError::WrongPassword,
            ErrorKind::KDF => error.into(),
            _ => SecretError::Malformed,
        })
    }

    /// A key without a password. The original program leaves its checksum empty, which the library's own reader takes for damage, so
    /// that it is tried instead.
    fn unprotected(text: &str) -> Result<Self, SecretError> {
        let line = text.lines().nth(1).unwrap_or_default();
        let bytes = STANDARD.decode(line.trim());
        let bytes = Zeroizing::new(bytes.map_err(|_| SecretError::Malformed)?);
        let key = minisign::SecretKey::from_bytes(&bytes).map_err(|_| SecretError::Malformed)?;
        let key = Self(key);
        let public = TrustedKey::parse(&key.public()?, None).map_err(|_| SecretError::Malformed)?;
        let tried = key.sign(b"", "")?;
        match crate::verify(b"", &tried, &TrustedKeys::from_iter([public])) {
            Ok(_) => Ok(key),
            Err(_) => Err(SecretError::Malformed),
        }
    }

    /// The text of the `.pub` file that belongs to it.
    pub fn public(&self) -> Result<String, SecretError> {
        Ok(PublicKey::from_secret_key(&self.0)?.to_box()?.into_string())
    }

    /// The text of a signature file over `bytes`. The comment is signed too.
    pub fn sign(&self, bytes: &[u8], trusted_comment: &str) -> Result<String, SecretError> {
        if trusted_comment.chars().any(|c| c.is_control() && c != '\t')
            || trusted_comment.trim() != trusted_comment
        {
            return Err(SecretError::Comment);
        }
        let signed = minisign::sign(
            None,
            &self.0,
            Cursor::new(bytes),
            Some(trusted_comment),
            Some(SIGNATURE_COMMENT),
        )?;
        Ok(signed.into_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_keeps_the_key() {
        let pair = KeyPair::generate(Some("snow")).unwrap();
        assert_eq!(is_protected(&pair.secret), Some(true));
        assert!(matches!(
            SecretKey::open(&pair.secret, None),
            Err(SecretError::PasswordNeeded)
        ));
        assert!(matches!(
            SecretKey::open(&pair.secret, Some("rain")),
            Err(SecretError::WrongPassword)
        ));
        let opened = SecretKey::open(&pair.secret, Some("snow")).unwrap();
        assert_eq!(opened.public().unwrap(), pair.public);
        assert!(matches!(
            opened.sign(b"x", "two\nlines"),
            Err(SecretError::Comment)
        ));
    }

    #[test]
    fn what_is_no_key_is_said_to_be_none() {
        for text in ["", "one line", "two\nlines", "untrusted comment: x\nAAAA"] {
            assert!(
                matches!(SecretKey::open(text, None), Err(SecretError::Malformed)),
                "{text:?}"
            );
        }
    }
}
