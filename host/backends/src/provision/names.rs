//! The names in an archive, which become the names of files here and perhaps on another file system later.

use std::collections::{HashMap, HashSet};

use super::archive::ArchiveError;

/// Longest name of an entry, and the most folders in it. Longer ones break some file system or tool.
const NAME_BYTES: usize = 512;
const NAME_PARTS: usize = 16;

/// The names of an archive, none of which may hide behind another on any file system.
#[derive(Default)]
pub(super) struct Names {
    /// Folders, by their name in lower case.
    folders: HashMap<String, String>,
    files: HashSet<String>,
}

impl Names {
    /// Checks one name; gives it as a relative path, and whether it is a folder's.
    pub(super) fn take(&mut self, raw: &[u8]) -> Result<(String, bool), ArchiveError> {
        let shown = || {
            String::from_utf8_lossy(raw)
                .chars()
                .take(80)
                .flat_map(char::escape_default)
                .collect::<String>()
        };
        let wrong = |why| ArchiveError::Name { name: shown(), why };
        let text = std::str::from_utf8(raw).map_err(|_| wrong("is not in UTF-8"))?;
        if text.len() > NAME_BYTES {
            return Err(wrong("is too long"));
        }
        if text.contains('\\') || text.contains(':') || text.chars().any(char::is_control) {
            return Err(wrong("holds a backslash, a colon or a control character"));
        }
        if text.starts_with('/') {
            return Err(wrong("is absolute"));
        }
        let (path, is_folder) = match text.strip_suffix('/') {
            Some(path) => (path, true),
            None => (text, false),
        };
        let parts: Vec<&str> = path.split('/').collect();
        if parts.len() > NAME_PARTS {
            return Err(wrong("lies too deep"));
        }
        if parts.iter().any(|part| matches!(*part, "" | "." | "..")) {
            return Err(wrong("leads out of the folder"));
        }
        let collides =
            || wrong("differs from another by nothing but case, or is both file and folder");
        let folders = if is_folder {
            parts.len()
        } else {
            parts.len() - 1
        };
        for depth in 1..=folders {
            let folder = parts
                .iter()
                .take(depth)
                .copied()
                .collect::<Vec<_>>()
                .join("/");
            let lower = folder.to_lowercase();
            if self.files.contains(&lower) {
                return Err(collides());
            }
            if *self.folders.entry(lower).or_insert_with(|| folder.clone()) != folder {
                return Err(collides());
            }
        }
        if !is_folder {
            let lower = path.to_lowercase();
            if self.folders.contains_key(&lower) || !self.files.insert(lower) {
                return Err(collides());
            }
        }
        Ok((path.to_owned(), is_folder))
    }
}
