//! What programs answered, kept on disk by digest and question.
//!
//! Asking a program for help may load a GPU driver and takes seconds; a worker that starts again need not ask what a file
//! of the same content has told before. An answer that cannot be read is asked for again, and one that cannot be written
//! costs a question at the next start: neither is a failure.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest, Sha256};

/// How long an answer counts. A program may tell of more than itself (voices that are installed, devices that are there), which
/// changes without it; shorter asks each program more often, which may load a driver.
pub(crate) const COUNTS: Duration = Duration::from_secs(24 * 60 * 60);
/// Most answers kept; the oldest go first. A worker has some dozen programs.
const KEPT: usize = 256;

/// A folder of answers; none where nothing is kept.
#[derive(Debug, Default)]
pub(crate) struct Answers(Option<PathBuf>);

impl Answers {
    pub(crate) fn new(dir: Option<PathBuf>) -> Self {
        Self(dir)
    }

    /// What was answered and how long ago, when it was written down and is no longer than `most` bytes.
    pub(crate) fn get(
        &self,
        digest: &str,
        question: &[OsString],
        most: usize,
    ) -> Option<(String, Duration)> {
        let path = self.0.as_ref()?.join(name(digest, question));
        let found = fs::symlink_metadata(&path)
            .ok()
            .filter(fs::Metadata::is_file)?;
        if found.len() > most as u64 {
            return None;
        }
        // One from the future was written under another clock: it is of no known age.
        let age = found.modified().ok()?.elapsed().unwrap_or(COUNTS);
        Some((fs::read_to_string(path).ok()?, age))
    }

    pub(crate) fn put(&self, digest: &str, question: &[OsString], answer: &str) {
        let Some(dir) = &self.0 else { return };
        let written = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .and_then(|()| tempfile::NamedTempFile::new_in(dir))
            .and_then(|mut file| file.write_all(answer.as_bytes()).map(|()| file));
        match written {
            Ok(file) => {
                if let Err(error) = file.persist(dir.join(name(digest, question))) {
                    tracing::debug!(error = %error.error, "a program's answer is not kept");
                }
            }
            Err(error) => tracing::debug!(%error, "a program's answer is not kept"),
        }
        self.bound();
    }

    fn bound(&self) {
        let entries = self
            .0
            .iter()
            .filter_map(|dir| fs::read_dir(dir).ok())
            .flatten()
            .flatten();
        let mut aged: Vec<_> = entries
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        aged.sort();
        for (_, path) in aged.iter().take(aged.len().saturating_sub(KEPT)) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Digest and question in one name. Each part ends with a NUL, which none can hold.
fn name(digest: &str, question: &[OsString]) -> String {
    let mut hasher = Sha256::new();
    hasher.update(digest);
    for word in question {
        hasher.update([0]);
        hasher.update(word.as_encoded_bytes());
    }
    hex::encode(hasher.finalize())
}
