//! Plugin components that are pushed, each in a file named after its SHA-256.
//!
//! A file appears whole or not at all: temporary name, sync, rename, sync of the folder. How many there may be and how large they
//! may be together is bounded; what no roll-out needs any more makes room for what comes.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use crate::secrets;
use crate::store::{OpenError, private_dir};
use crate::wire::create_private;

/// Largest component, in bytes: what an operator can let a plugin have at most. Less would keep plugins from being pushed that
/// workers take; more only takes memory.
pub const COMPONENT_BYTES: usize = 128 << 20;

/// Beginning of a name that is not in place yet.
const PART: &str = ".component-";

/// Why a component is not kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ComponentError {
    #[error("the bytes have SHA-256 {found}, not {wanted}: send the file as it is")]
    Digest { wanted: String, found: String },
    #[error("the component is empty, or larger than {COMPONENT_BYTES} bytes")]
    Size,
    #[error(
        "{count} components of {bytes} bytes are kept and all are in use; cancel a roll-out, or let one end"
    )]
    Full { count: usize, bytes: u64 },
    #[error("the component cannot be kept: {0}; check the disk's free space")]
    Disk(std::io::Error),
}

/// How many are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) count: usize,
    pub(crate) bytes: u64,
}

/// The folder.
#[derive(Clone, Debug)]
pub(crate) struct Components {
    dir: PathBuf,
    room: Room,
    /// Digests that somebody is about to need, and how many do.
    held: Arc<Mutex<HashMap<String, usize>>>,
}

/// While it is there, the component of its digest is not removed.
#[derive(Debug)]
pub(crate) struct Hold {
    digest: String,
    held: Arc<Mutex<HashMap<String, usize>>>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = lock(&self.held);
        let left = held.get(&self.digest).map_or(0, |held| held - 1);
        match left {
            0 => held.remove(&self.digest),
            _ => held.insert(self.digest.clone(), left),
        };
    }
}

fn lock(held: &Mutex<HashMap<String, usize>>) -> MutexGuard<'_, HashMap<String, usize>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Found {
    digest: String,
    path: PathBuf,
    bytes: u64,
    since: SystemTime,
}

impl Components {
    /// Opens the folder and removes what an interrupted write left. Blocks.
    pub(crate) fn open(dir: PathBuf, room: Room) -> Result<Self, OpenError> {
        private_dir(&dir)?;
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(PART) {
                // One that cannot be removed has no name that is ever read.
                let _ = fs::remove_file(entry.path());
            }
        }
        let held = Arc::default();
        Ok(Self { dir, room, held })
    }

    /// Where the component of a digest is, or would be. `digest` must be sound.
    pub(crate) fn path(&self, digest: &str) -> PathBuf {
        self.dir.join(format!("{digest}.wasm"))
    }

    /// Its size, where it is here.
    pub(crate) fn size(&self, digest: &str) -> Option<u64> {
        let meta = fs::metadata(self.path(digest)).ok()?;
        meta.is_file().then_some(meta.len())
    }

    /// Keeps the component of a digest, if it is here, for as long as the answer is kept: between the look for it and the record
    /// of a roll-out that needs it, another one may come and need room.
    pub(crate) fn hold(&self, digest: &str) -> Hold {
        *lock(&self.held).entry(digest.to_owned()).or_default() += 1;
        Hold {
            digest: digest.to_owned(),
            held: Arc::clone(&self.held),
        }
    }

    /// Keeps bytes under their digest; `needed` says which digests must stay, and is asked before each removal. Blocks.
    pub(crate) fn put(
        &self,
        digest: &str,
        bytes: &[u8],
        needed: &dyn Fn() -> HashSet<String>,
    ) -> Result<(), ComponentError> {
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if bytes.is_empty() || bytes.len() > COMPONENT_BYTES {
            return Err(ComponentError::Size);
        }
        let found = hex::encode(Sha256::digest(bytes));
        if found != digest {
            return Err(ComponentError::Digest {
                wanted: digest.to_owned(),
                found,
            });
        }
        self.make_room(digest, size, needed)?;
        self.write(digest, bytes).map_err(ComponentError::Disk)
    }

    fn write(&self, digest: &str, bytes: &[u8]) -> std::io::Result<()> {
        let part = self
            .dir
            .join(secrets::id(PART).map_err(std::io::Error::other)?);
        let written = (|| {
            let mut file = create_private(&part)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&part, self.path(digest))?;
            fs::File::open(&self.dir)?.sync_all()
        })();
        if written.is_err() {
            let _ = fs::remove_file(&part);
        }
        written
    }

    /// Removes the oldest that nobody needs until one of `size` bytes fits in.
    fn make_room(
        &self,
        digest: &str,
        size: u64,
        needed: &dyn Fn() -> HashSet<String>,
    ) -> Result<(), ComponentError> {
        let mut kept = list(&self.dir).map_err(ComponentError::Disk)?;
        kept.retain(|one| one.digest != digest);
        kept.sort_by_key(|one| std::cmp::Reverse(one.since));
        loop {
            let bytes: u64 = kept.iter().map(|one| one.bytes).sum();
            if kept.len() < self.room.count && bytes.saturating_add(size) <= self.room.bytes {
                return Ok(());
            }
            // Nobody begins to need one between the look and the removal.
            let held = lock(&self.held);
            let needed = needed();
            let unneeded =
                |one: &Found| !needed.contains(&one.digest) && !held.contains_key(&one.digest);
            let Some(at) = kept.iter().rposition(unneeded) else {
                return Err(ComponentError::Full {
                    count: kept.len(),
                    bytes,
                });
            };
            let old = kept.remove(at);
            fs::remove_file(&old.path).map_err(ComponentError::Disk)?;
        }
    }
}

fn list(dir: &Path) -> std::io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        let digest = path.file_stem().map(|stem| stem.to_string_lossy());
        let Some(digest) = digest.filter(|digest| worker_wire::is_digest(digest)) else {
            continue;
        };
        let meta = entry.metadata()?;
        found.push(Found {
            digest: digest.into_owned(),
            bytes: meta.len(),
            since: meta.modified()?,
            path: path.clone(),
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_stays_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let room = Room {
            count: 2,
            bytes: 100,
        };
        let kept = Components::open(dir.path().join("components"), room).unwrap();
        let digest = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
        let (one, two, three) = (b"one".as_slice(), b"two".as_slice(), b"three".as_slice());
        let needed = || HashSet::from([digest(one)]);
        kept.put(&digest(one), one, &needed).unwrap();
        kept.put(&digest(two), two, &needed).unwrap();
        kept.put(&digest(two), two, &needed).unwrap();
        kept.put(&digest(three), three, &needed).unwrap();
        assert_eq!(kept.size(&digest(one)), Some(3));
        assert_eq!(kept.size(&digest(two)), None, "it made room");
        let needed = || HashSet::from([digest(one), digest(three)]);
        assert!(matches!(
            kept.put(&digest(two), two, &needed),
            Err(ComponentError::Full { count: 2, .. })
        ));
        assert!(matches!(
            kept.put(&digest(two), one, &needed),
            Err(ComponentError::Digest { .. })
        ));
        assert!(matches!(
            kept.put(&digest(b""), b"", &needed),
            Err(ComponentError::Size)
        ));
        fs::write(dir.path().join("components/.component-x"), "half").unwrap();
        Components::open(dir.path().join("components"), room).unwrap();
        assert_eq!(
            fs::read_dir(dir.path().join("components")).unwrap().count(),
            2
        );
    }

    #[test]
    fn what_a_roll_out_is_about_to_need_stays() {
        let dir = tempfile::tempdir().unwrap();
        let room = Room {
            count: 1,
            bytes: 100,
        };
        let kept = Components::open(dir.path().join("components"), room).unwrap();
        let digest = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
        let (one, two) = (b"one".as_slice(), b"two".as_slice());
        let nothing = HashSet::new;
        kept.put(&digest(one), one, &nothing).unwrap();
        let (hold, again) = (kept.hold(&digest(one)), kept.hold(&digest(one)));
        drop(again);
        let refused = kept.put(&digest(two), two, &nothing);
        assert!(matches!(refused, Err(ComponentError::Full { .. })));
        assert_eq!(kept.size(&digest(one)), Some(3));
        drop(hold);
        kept.put(&digest(two), two, &nothing).unwrap();
        assert_eq!(kept.size(&digest(one)), None);
    }
}
