//! The mark by which a program's descendants are known, whatever group or session they went to.
//!
//! Every program gets a variable that names this installation and this run. Children inherit it, so that those of a run
//! can be found while it ends, and those of a worker that was killed can be found by the next one. Nothing is ever ended
//! by its name.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::{cgroup, locks, orphans};

/// The variable.
pub(crate) const VARIABLE: &str = "STUDIO_WORKER_JOB";
/// In the state folder; holds the installation's half of the mark.
const FILE: &str = "programs.mark";
/// Length of either half: 128 bits in hexadecimal.
const HALF: usize = 32;

/// Tries to share the lock, half a minute in all. Ending what was left takes seconds at most, as long as that where a driver
/// holds it.
const TRIES: u32 = 1500;

static INSTALLATION: OnceLock<Installation> = OnceLock::new();

struct Installation {
    id: String,
    /// Held for as long as this process lives, together with others of the installation, so that none takes our programs for
    /// orphans.
    _lock: Option<File>,
}

/// Why programs cannot be marked as this installation's.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}; programs that outlive the worker could not be found again, so check the folder's permissions", .path.display())]
pub struct MarkError {
    /// The file that holds the mark.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marked {
    /// Programs of an earlier worker were ended; so many processes.
    Ended(usize),
    /// Another process of this installation is running programs: nothing was ended.
    InUse,
}

/// Marks every program of this process as of the installation that keeps its state in `state`, and ends what an earlier
/// worker of the same installation left running. Takes the control group that was handed over, where there is one. To be
/// called once, before anything is started.
///
/// # Errors
/// When the mark cannot be kept in `state`.
pub fn mark(state: &Path) -> Result<Marked, MarkError> {
    let path = state.join(FILE);
    let error = |source| MarkError {
        path: path.clone(),
        source,
    };
    let (mut file, alone) = claim(&path).map_err(error)?;
    let known = read(&mut file).map_err(error)?;
    let id = match known {
        Some(id) => id,
        None => write(&mut file).map_err(error)?,
    };
    let ended = if alone {
        let ended = orphans::end_all(&prefix(&id));
        cgroup::take(&id, true);
        share(&file).map_err(error)?;
        Marked::Ended(ended)
    } else {
        cgroup::take(&id, false);
        Marked::InUse
    };
    let lock = Some(file);
    let _ = INSTALLATION.set(Installation { id, _lock: lock });
    Ok(ended)
}

/// Opens the file and locks it: for this process alone, where no other one has it, which then may end what was left; else together
/// with the others, so that none that comes later takes our programs for left.
fn claim(path: &Path) -> io::Result<(File, bool)> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    match file.try_lock() {
        Ok(()) => Ok((file, true)),
        Err(TryLockError::WouldBlock) => share(&file).map(|()| (file, false)),
        Err(TryLockError::Error(source)) => Err(source),
    }
}

/// Waits for one that is ending what was left.
fn share(file: &File) -> io::Result<()> {
    if locks::wait(TRIES, || file.try_lock_shared())? {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        "another worker of this installation has begun to start and does not go on; end it",
    ))
}

/// The mark that the file holds; none when it was cut short, or never written.
fn read(file: &mut File) -> io::Result<Option<String>> {
    let mut text = String::new();
    file.take(1024).read_to_string(&mut text)?;
    let id = text.trim();
    let whole = id.len() == HALF && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    Ok(whole.then(|| id.to_owned()))
}

fn write(file: &mut File) -> io::Result<String> {
    let id = random()?;
    file.set_len(0)?;
    file.write_all(id.as_bytes())?;
    file.sync_all()?;
    Ok(id)
}

fn random() -> io::Result<String> {
    let mut bytes = [0; HALF / 2];
    getrandom::fill(&mut bytes).map_err(io::Error::from)?;
    Ok(hex::encode(bytes))
}

/// How the variable of every program of an installation begins.
fn prefix(installation: &str) -> String {
    format!("{VARIABLE}={installation}:")
}

/// The mark of one run.
#[derive(Debug, Clone)]
pub(crate) struct Mark(String);

impl Mark {
    /// One that no other run has.
    pub(crate) fn new() -> io::Result<Self> {
        let installation = match INSTALLATION.get() {
            Some(installation) => installation,
            // A process that never said whose programs it runs; they are found while it lives.
            None => {
                let id = random()?;
                INSTALLATION.get_or_init(|| Installation { id, _lock: None })
            }
        };
        Ok(Self(format!("{}:{}", installation.id, random()?)))
    }

    /// For the program's environment.
    pub(crate) fn variable(&self) -> (OsString, OsString) {
        (VARIABLE.into(), self.0.clone().into())
    }

    /// For a name on the disk.
    pub(crate) fn name(&self) -> String {
        self.0.replace(':', ".")
    }

    /// As it stands among the variables of a process.
    pub(crate) fn text(&self) -> String {
        format!("{VARIABLE}={}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_ended_only_when_nobody_else_runs_programs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let (first, alone) = claim(&path).unwrap();
        assert!(alone);
        share(&first).unwrap();
        let (second, alone) = claim(&path).unwrap();
        assert!(!alone);
        // The first ends and starts again: the second still has programs.
        drop(first);
        let (again, alone) = claim(&path).unwrap();
        assert!(!alone);
        drop((second, again));
        assert!(claim(&path).unwrap().1);
    }
}
