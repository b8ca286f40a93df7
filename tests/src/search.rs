//! Looking for words where they must not be.

use std::fs;
use std::path::{Path, PathBuf};

use crate::media::holds;

/// All regular files below a folder.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let (mut folders, mut found) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path()),
                // A link, or gone meanwhile.
                _ => {}
            }
        }
    }
    found
}

/// Those whose bytes hold a word.
pub fn files_with(folder: &Path, word: &str) -> Vec<PathBuf> {
    let mut found = files(folder);
    found.retain(|path| holds(&fs::read(path).unwrap_or_default(), word));
    found
}
