//! Versions of a plugin: the same component in other bytes, and putting one into a folder.

use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::component::with_section;
use crate::folder::component_path;

/// A test component's bytes.
pub fn component(name: &str) -> Vec<u8> {
    fs::read(component_path(name)).expect("a component")
}

/// The same plugin in other bytes: a custom section that nobody reads is added.
pub fn another(bytes: &[u8], mark: &str) -> Vec<u8> {
    with_section(bytes, "mark", mark.as_bytes())
}

/// The same plugin with one text in place of another of its length: a version that makes something else.
pub fn saying(bytes: &[u8], text: &str, instead: &str) -> Vec<u8> {
    assert_eq!(text.len(), instead.len(), "nothing moves");
    let mut at = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(text.as_bytes()));
    let found = at.next().expect("it says so");
    assert!(at.next().is_none(), "once");
    let mut changed = bytes.to_vec();
    changed[found..found + text.len()].copy_from_slice(instead.as_bytes());
    changed
}

/// SHA-256 in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Replaces a file by renaming, as an installer does.
pub fn rename_in(folder: &Path, name: &str, bytes: &[u8]) {
    let partial = folder.join(format!("{name}.part"));
    fs::write(&partial, bytes).expect("a file");
    fs::rename(partial, folder.join(name)).expect("a rename");
}
