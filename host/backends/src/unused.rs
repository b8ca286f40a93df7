//! Folders that are kept for a next use, and go when it does not come: a worker that runs for years sees many releases.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use worker_files::remove_tree;

/// How long a folder waits for its next use. Shorter downloads or compiles again what an operator goes back to; longer keeps a
/// gigabyte for each release that there ever was.
const WAITS: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// How old the note of the last use may be. Shorter writes to the disk at each look.
const NOTED: Duration = Duration::from_secs(24 * 60 * 60);

/// Notes that a folder is used now. One that cannot be noted is only kept for a shorter time.
pub fn note_use(folder: &Path) {
    let is_fresh = age(folder).is_some_and(|age| age < NOTED);
    if !is_fresh && let Ok(folder) = File::open(folder) {
        let _ = folder.set_modified(SystemTime::now());
    }
}

/// Removes the folders in `dir` that nobody used for long. What fails is tried again the next time.
pub fn remove_unused(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && age(&path).is_some_and(|age| age > WAITS) {
            match remove_tree(&path) {
                Ok(()) => {
                    tracing::info!(target: "job", folder = %path.display(), "removed what no program used for three months");
                }
                Err(error) => {
                    tracing::warn!(target: "job", folder = %path.display(), %error, "what no program uses cannot be removed");
                }
            }
        }
    }
}

/// A clock that was set back makes it none, and nothing old.
fn age(folder: &Path) -> Option<Duration> {
    fs::metadata(folder).ok()?.modified().ok()?.elapsed().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_what_is_not_goes() {
        let dir = tempfile::tempdir().unwrap();
        let folder = |name: &str, days: u64| {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("file"), "").unwrap();
            let then = SystemTime::now() - Duration::from_secs(days * 24 * 60 * 60);
            File::open(&path).unwrap().set_modified(then).unwrap();
            path
        };
        let (new, old, used) = (folder("new", 80), folder("old", 100), folder("used", 100));
        let file = dir.path().join("a-file");
        fs::write(&file, "").unwrap();
        note_use(&used);
        remove_unused(dir.path());
        assert!(new.exists() && used.exists() && file.exists());
        assert!(!old.exists());
    }
}
