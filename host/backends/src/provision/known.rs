//! Which archive an address gave when it was first used.
//!
//! A plugin may pin an archive by its digest. Where it does not, the first download is trusted and its digest written
//! down here; another digest from the same address later is refused until the operator agrees. The file is small, read
//! anew at each look (a command may have changed it meanwhile) and replaced by a rename.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::locks;

/// Most addresses remembered. Reaching it means that something makes up addresses; the oldest are forgotten.
const REMEMBERED: usize = 256;
/// Longest file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// Tries for the lock, ten seconds in all. A change takes milliseconds, on a full disk seconds.
const TRIES: u32 = if cfg!(test) { 5 } else { 500 };

/// What is known of one address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KnownArchive {
    /// The address, without query and user name, which may hold a token.
    pub url: String,
    /// The release that it was downloaded as, where that is known.
    pub release: Option<String>,
    /// SHA-256 of the archive that is trusted, in hexadecimal.
    pub sha256: String,
    /// Another digest that the address gave later: refused until the operator accepts it.
    pub refused: Option<String>,
    /// When it was first used, in seconds since 1970.
    pub first_used: u64,
}

/// Why the record cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KnownError {
    /// The system refused.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not what this worker writes.
    #[error("{} cannot be read ({why}): move it away, and each archive is trusted anew at its next download", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Another one holds it and does not let go.
    #[error("{} is held by another studio-worker command, which hangs or was stopped: end it", .path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// No address gave this digest.
    #[error(
        "no archive with SHA-256 {sha256} was refused: `studio-worker programs` lists those that were"
    )]
    NothingRefused {
        /// The digest.
        sha256: String,
    },
}

impl KnownError {
    /// Whether trying again can help without anybody changing this record: a disk that was full, another command that held it.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Io { .. } | Self::Busy { .. } => true,
            Self::Malformed { .. } | Self::NothingRefused { .. } => false,
        }
    }
}

type Records = BTreeMap<String, KnownArchive>;

/// The record on disk. Cheap to make; nothing is kept in memory.
#[derive(Debug, Clone)]
pub(super) struct Known {
    path: PathBuf,
}

impl Known {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            path: dir.join("archives.json"),
        }
    }

    /// What is known of an address.
    pub(super) fn get(&self, url: &str) -> Result<Option<KnownArchive>, KnownError> {
        Ok(self.read()?.remove(&key(url)))
    }

    /// Everything that is known, in no order that means anything.
    pub(super) fn all(&self) -> Result<Vec<KnownArchive>, KnownError> {
        Ok(self.read()?.into_values().collect())
    }

    /// Writes down the first archive of an address. One that is known already is left as it is.
    pub(super) fn trust(
        &self,
        url: &str,
        release: Option<&str>,
        sha256: &str,
    ) -> Result<(), KnownError> {
        self.change(|records| {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            records.entry(key(url)).or_insert_with(|| KnownArchive {
                url: worker_egress::shown_url(url),
                release: release.map(str::to_owned),
                sha256: sha256.to_owned(),
                refused: None,
                first_used: now.as_secs(),
            });
            Ok(())
        })
    }

    /// Notes that an address gave something else.
    pub(super) fn refuse(&self, url: &str, sha256: &str) -> Result<(), KnownError> {
        self.change(|records| {
            if let Some(record) = records.get_mut(&key(url)) {
                record.refused = Some(sha256.to_owned());
            }
            Ok(())
        })
    }

    /// The operator agrees with a digest that was refused; gives the addresses that it is trusted for now.
    pub(super) fn accept(&self, sha256: &str) -> Result<Vec<KnownArchive>, KnownError> {
        self.change(|records| {
            let mut accepted = Vec::new();
            for record in records.values_mut() {
                let asked = |digest: &str| digest == sha256;
                if record
                    .refused
                    .as_deref()
                    .is_some_and(|refused| asked(refused) || asked(&record.sha256))
                {
                    record.sha256 = sha256.to_owned();
                    record.refused = None;
                    accepted.push(record.clone());
                }
            }
            if accepted.is_empty() {
                return Err(KnownError::NothingRefused {
                    sha256: sha256.to_owned(),
                });
            }
            Ok(accepted)
        })
    }

    fn read(&self) -> Result<Records, KnownError> {
        let malformed = |why: String| KnownError::Malformed {
            path: self.path.clone(),
            why,
        };
        match fs::metadata(&self.path) {
            Ok(metadata) if metadata.len() > MAX_BYTES => {
                Err(malformed("it is too long".to_owned()))
            }
            Ok(_) => {
                let text = fs::read(&self.path).map_err(|source| self.io(source))?;
                serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Records::new()),
            Err(source) => Err(self.io(source)),
        }
    }

    /// Reads, changes and replaces the file while holding its lock: a command and the worker may both be at it.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Records) -> Result<T, KnownError>,
    ) -> Result<T, KnownError> {
        let io = |source| self.io(source);
        let dir = self.path.parent().unwrap_or_else(|| Path::new("."));
        super::private_folder(dir).map_err(io)?;
        let lock = File::create(dir.join("archives.lock")).map_err(io)?;
        self.wait_for(&lock)?;
        let mut records = self.read()?;
        let answer = change(&mut records)?;
        while records.len() > REMEMBERED {
            let oldest = records.iter().min_by_key(|(_, record)| record.first_used);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else {
                break;
            };
            records.remove(&oldest);
        }
        let text = serde_json::to_vec_pretty(&records).map_err(|error| io(error.into()))?;
        let mut file = tempfile::NamedTempFile::new_in(dir).map_err(io)?;
        file.write_all(&text)
            .and_then(|()| file.as_file().sync_all())
            .map_err(io)?;
        file.persist(&self.path).map_err(|error| io(error.error))?;
        Ok(answer)
    }

    /// Blocks while another one is at it, as long as that is no longer than a change takes.
    fn wait_for(&self, lock: &File) -> Result<(), KnownError> {
        if locks::wait(TRIES, || lock.try_lock()).map_err(|source| self.io(source))? {
            return Ok(());
        }
        Err(KnownError::Busy {
            path: self.path.clone(),
        })
    }

    fn io(&self, source: io::Error) -> KnownError {
        KnownError::Io {
            path: self.path.clone(),
            source,
        }
    }
}

/// The whole address, hidden: its query may hold a token.
pub(super) fn key(url: &str) -> String {
    hex::encode(Sha256::digest(url.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_somebody_does_not_let_go_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let known = Known::new(dir.path());
        let held = File::create(dir.path().join("archives.lock")).unwrap();
        held.lock().unwrap();
        let refused = known.trust("https://h/a.zip", None, "00");
        assert!(
            matches!(refused, Err(KnownError::Busy { .. })),
            "{refused:?}"
        );
        // Whoever holds it lets go some time, and a full disk is emptied: neither fails a job for good.
        let provision = |error: KnownError| crate::ProvisionError::from(error);
        assert!(provision(refused.unwrap_err()).retryable());
        let path = dir.path().to_owned();
        let source = io::Error::from(io::ErrorKind::StorageFull);
        assert!(provision(KnownError::Io { path, source }).retryable());
        let (path, why) = (dir.path().to_owned(), "no JSON".to_owned());
        assert!(!provision(KnownError::Malformed { path, why }).retryable());
        assert!(known.all().unwrap().is_empty());
        drop(held);
        known.trust("https://h/a.zip", None, "00").unwrap();
        assert_eq!(known.all().unwrap().len(), 1);
    }
}
