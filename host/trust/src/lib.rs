//! Who signed a plugin: minisign keys and signatures, and the orders that a signature may carry.
//!
//! What is verified comes from anywhere, so it is read by `minisign-verify`, which checks every length. What signs is `minisign`,
//! whose own verification takes a shortened signature for granted and would end the process; it sees the signer's own key and
//! nothing else. Both are by the author of minisign, and understand the files of every other minisign program.

mod key;
mod secret;
mod verify;

pub use key::{KeyError, TrustedKey, TrustedKeys};
pub use secret::{KeyPair, SecretError, SecretKey, is_protected};
pub use verify::{Verified, VerifyError, verify};

/// How a signature's file is called: this after the name of the file that it signs.
pub const SUFFIX: &str = ".minisig";

/// The largest signature file in bytes. One has 300, and comments of any sense fit three times over; a larger bound would have
/// each plugin's record in the book grow with it.
pub const MAX_SIGNATURE_BYTES: usize = 4096;

/// The largest key file in bytes; one has 200.
pub const MAX_KEY_BYTES: usize = 4096;
