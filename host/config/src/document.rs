//! The file itself: read with its lines known, changed without losing what else it says.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use toml_edit::{Document, DocumentMut, Item, TableLike};

use crate::error::ConfigError;
use crate::keys;
use crate::private_file::{self, WriteError};

/// Largest configuration, in bytes. A larger file is a mistake in the path.
const MAX_BYTES: u64 = 1024 * 1024;

/// How long a change waits for another process's change, which takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// A `config.toml` as it was read; one that does not exist reads as an empty one.
#[derive(Clone)]
pub struct ConfigFile {
    path: PathBuf,
    document: Option<Document<String>>,
}

impl std::fmt::Debug for ConfigFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConfigFile")
            .field("path", &self.path)
            .field("exists", &self.exists())
            .finish_non_exhaustive()
    }
}

impl ConfigFile {
    /// Reads a file. Nothing is written.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let document = match text(path)? {
            Some(text) => Some(parse(path, text)?),
            None => None,
        };
        Ok(Self {
            path: path.to_owned(),
            document,
        })
    }

    /// Where it is, or would be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is one.
    pub fn exists(&self) -> bool {
        self.document.is_some()
    }

    /// Names of the keys that this version does not know. They are kept.
    pub fn unknown_keys(&self) -> Vec<String> {
        let Some(document) = &self.document else {
            return Vec::new();
        };
        let names = document.as_table().iter().map(|(name, _)| name.to_owned());
        names.filter(|name| keys::find(name).is_none()).collect()
    }

    /// What is set for a key, with its line.
    pub(crate) fn get(&self, name: &str) -> Option<(&Item, usize)> {
        let document = self.document.as_ref()?;
        let (key, item) = document.as_table().get_key_value(name)?;
        let span = key.span().or_else(|| item.span());
        let line = span.map_or(1, |span| position(document.raw(), span.start).0);
        Some((item, line))
    }
}

/// Changes a file: reads it anew, lets `edit` work on its table, and replaces it at once. Two processes that change it
/// do so one after the other. Without a change nothing is written.
pub(crate) fn change(
    path: &Path,
    edit: impl FnOnce(&mut dyn TableLike),
) -> Result<(), ConfigError> {
    let _turn = turn(path)?;
    let before = text(path)?.unwrap_or_default();
    // Parsed twice because only this form knows the place of an error.
    parse(path, before.clone())?;
    let mut document: DocumentMut = before.parse().map_err(|_| ConfigError::Syntax {
        path: path.to_owned(),
        line: 1,
        column: 1,
        key: None,
    })?;
    edit(document.as_table_mut());
    let after = document.to_string();
    if after != before {
        private_file::replace(path, after.as_bytes())?;
    }
    Ok(())
}

fn text(path: &Path) -> Result<Option<String>, ConfigError> {
    let read = private_file::read(path, MAX_BYTES).map_err(|source| match source.kind() {
        io::ErrorKind::FileTooLarge => ConfigError::TooLarge {
            path: path.to_owned(),
            limit: MAX_BYTES,
        },
        _ => ConfigError::Read {
            path: path.to_owned(),
            source,
        },
    })?;
    let not_text = |_| ConfigError::NotText {
        path: path.to_owned(),
    };
    read.map(String::from_utf8).transpose().map_err(not_text)
}

fn parse(path: &Path, text: String) -> Result<Document<String>, ConfigError> {
    let copy = text.clone();
    Document::parse(text).map_err(|error| {
        // The parser's own message quotes the file.
        let start = error.span().map_or(0, |span| span.start);
        let (line, column) = position(&copy, start);
        ConfigError::Syntax {
            path: path.to_owned(),
            line,
            column,
            key: key_of_line(&copy, line),
        }
    })
}

/// Line and column of a byte, both from 1.
fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte.min(text.len())).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    (line, column)
}

/// The key at the start of a line, if it is one of the table's: anything else may be a secret in the wrong place.
fn key_of_line(text: &str, line: usize) -> Option<&'static str> {
    let (name, _) = text.lines().nth(line - 1)?.split_once('=')?;
    keys::find(name.trim()).map(|key| key.name)
}

/// This process's turn to change a file, until it is dropped.
fn turn(path: &Path) -> Result<File, WriteError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock = PathBuf::from(name);
    let failed = |source| WriteError {
        doing: "lock",
        path: lock.clone(),
        source,
    };
    if let Some(folder) = path.parent() {
        private_file::private_folder(folder)?;
    }
    let file = open_lock(&lock).map_err(failed)?;
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
            Err(TryLockError::WouldBlock) if started.elapsed() > PATIENCE => {
                return Err(failed(io::ErrorKind::TimedOut.into()));
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Opens a lock file, private, made when it is missing.
pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
