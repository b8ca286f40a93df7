//! The journal of a job: what was offered, each effect, each outcome, how long each took, by which plugins.
//!
//! One file per job, JSON lines, private to the worker's user. Written as the job goes, so that what a crash
//! interrupted can still be read, by a thread that no job waits for. Queries and user info of URLs are left out, and bytes beyond a bound are kept as
//! length and digest only. It is never synced: a journal explains, it is not what a result depends on.

mod telling;
mod writer;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use worker_plugins::contract::{Effect, Outcome};
use worker_wire::JobId;

pub use self::telling::Teller;
pub(crate) use self::telling::{bare_url, short};
use self::writer::{Line, Page, Writer};
use crate::told;

/// Journals kept. More only takes disk; fewer leaves less to look back at.
const KEPT_FILES: usize = 500;

/// Bytes of journals kept in all.
const KEPT_BYTES: u64 = 256 * 1024 * 1024;

/// Largest journal, in bytes; what an engine asks for beyond that is left out, and the journal says so. A larger one could not
/// be replayed.
pub(crate) const MAX_JOURNAL: u64 = 64 << 20;

/// Folder, in that of the journals, of bytes kept by digest.
pub(crate) const BLOBS: &str = "by-digest";

/// Longest run of bytes kept by digest; longer ones make their journal one that cannot be replayed.
pub(crate) const MAX_BLOB: usize = 1 << 20;

/// Bytes kept by digest in all; the oldest go first.
const KEPT_BLOBS: u64 = 64 << 20;

/// Jobs between two prunings.
const PRUNE_EVERY: u32 = 50;

/// The folder of journals.
#[derive(Debug)]
pub struct JournalStore {
    folder: Arc<Folder>,
    teller: Teller,
    writer: Arc<Writer>,
    since_prune: AtomicU32,
}

/// The journal folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the journal folder {}: {source}; check its owner and the free space", path.display())]
pub struct JournalError {
    /// Which folder.
    pub path: PathBuf,
    /// Why.
    pub source: std::io::Error,
}

impl JournalStore {
    /// Opens the folder, making it where it is missing. With `prompts` off, tasks and texts are left out. What is older than
    /// `age` goes.
    pub fn open(dir: &Path, prompts: bool, age: Duration) -> Result<Self, JournalError> {
        let failed = |source| JournalError {
            path: dir.to_owned(),
            source,
        };
        fs::create_dir_all(dir).map_err(failed)?;
        private_dir(dir).map_err(failed)?;
        let blobs = dir.join(BLOBS);
        fs::create_dir_all(&blobs).map_err(failed)?;
        private_dir(&blobs).map_err(failed)?;
        let store = Self {
            folder: Arc::new(Folder {
                dir: dir.to_owned(),
                age,
            }),
            teller: Teller { blobs, prompts },
            writer: Arc::new(Writer::start().map_err(failed)?),
            since_prune: AtomicU32::new(0),
        };
        store.prune();
        Ok(store)
    }

    /// Starts the journal of a job. A journal that cannot be written is said once and costs no job.
    pub fn start(&self, job: &JobId) -> Journal {
        if self.since_prune.fetch_add(1, Ordering::Relaxed) % PRUNE_EVERY == PRUNE_EVERY - 1 {
            let folder = self.folder.clone();
            // Where too much is waiting, the next one prunes.
            self.writer.offer(move || folder.prune());
        }
        let stamp = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |d| d.as_millis());
        let job = job.as_str().to_owned();
        let name = format!("{stamp:013}-{}.jsonl", job.replace(':', "_"));
        let path = self.folder.dir.join(name);
        let page = Page::default();
        let written = page.clone();
        let journal = Journal {
            page,
            lost: Arc::default(),
            writer: self.writer.clone(),
            teller: self.teller.clone(),
            started: Instant::now(),
        };
        // The session waits for this, so it waits for nothing.
        if !self.writer.offer(move || written.open(&path, &job)) {
            journal.lost_a_line();
        }
        journal
    }

    /// Removes the oldest journals beyond the bounds. Blocks.
    pub(crate) fn prune(&self) {
        self.folder.prune();
    }
}

/// Where journals lie, and how long.
#[derive(Debug)]
struct Folder {
    dir: PathBuf,
    /// Older ones are removed.
    age: Duration,
}

impl Folder {
    /// Whether a file was last written longer ago than the operator keeps journals.
    fn is_old(&self, path: &Path) -> bool {
        let written = fs::metadata(path).and_then(|meta| meta.modified());
        let age = written.ok().and_then(|at| at.elapsed().ok());
        age.is_some_and(|age| age > self.age)
    }

    /// Removes the oldest bytes kept by digest beyond their bound.
    fn prune_blobs(&self) {
        let entries = fs::read_dir(self.dir.join(BLOBS)).into_iter().flatten();
        let mut files: Vec<(SystemTime, PathBuf, u64)> = entries
            .flatten()
            .filter_map(|entry| {
                let meta = entry.metadata().ok()?;
                Some((meta.modified().ok()?, entry.path(), meta.len()))
            })
            .collect();
        files.sort();
        let mut bytes = 0u64;
        for (_, path, size) in files.iter().rev() {
            bytes = bytes.saturating_add(*size);
            if bytes > KEPT_BLOBS || self.is_old(path) {
                // It only takes space, and is tried again at the next pruning.
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Removes the oldest journals beyond the bounds. Blocks.
    fn prune(&self) {
        self.prune_blobs();
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return;
        };
        let mut files: Vec<(PathBuf, u64)> = entries
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|ext| ext == "jsonl"))
            .filter_map(|entry| entry.metadata().ok().map(|meta| (entry.path(), meta.len())))
            .collect();
        // Names begin with the time, so the newest come last.
        files.sort();
        let (mut count, mut bytes) = (0usize, 0u64);
        for (path, size) in files.iter().rev() {
            count += 1;
            bytes = bytes.saturating_add(*size);
            let beyond = count > KEPT_FILES || bytes > KEPT_BYTES || self.is_old(path);
            if beyond && fs::remove_file(path).is_err() {
                tracing::warn!(target: "job", path = %path.display(), "an old journal cannot be removed");
            }
        }
    }
}

#[cfg(unix)]
fn private_dir(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

#[cfg(not(unix))]
fn private_dir(_: &Path) -> std::io::Result<()> {
    Ok(())
}

/// The journal of one job.
#[derive(Clone, Debug)]
pub struct Journal {
    page: Page,
    /// Set once a line was lost, which was said.
    lost: Arc<AtomicBool>,
    writer: Arc<Writer>,
    teller: Teller,
    started: Instant,
}

/// Bytes that an effect or an outcome may carry to be told by the thread that writes; a copy of it is handed over. More takes
/// memory, so that it is told at once.
const COPIED: usize = 64 * 1024;

impl Journal {
    /// Appends one line: the event, the milliseconds since the job began, and what belongs to it.
    pub fn write(&self, event: &'static str, body: Value) {
        self.tell(event, |_| body);
    }

    /// The same, of something that is yet to be told.
    pub fn tell(&self, event: &'static str, body: impl FnOnce(&Teller) -> Value + Send + 'static) {
        let line = Line {
            event,
            at: SystemTime::now(),
            since: self.started.elapsed(),
        };
        let (page, teller) = (self.page.clone(), self.teller.clone());
        if !self
            .writer
            .hand_over(move || page.append(&line, || body(&teller)))
        {
            self.lost_a_line();
        }
    }

    /// What an engine asks for.
    pub fn effect(&self, step: u32, effect: &Effect) {
        let carried = told::carried_by_effect(effect);
        self.of_step("effect", step, effect, carried, Teller::effect);
    }

    /// What came of it.
    pub fn outcome(&self, step: u32, outcome: &Outcome) {
        let carried = told::carried_by_outcome(outcome);
        self.of_step("outcome", step, outcome, carried, Teller::outcome);
    }

    /// Told by the thread that writes, of a copy, unless it carries too many bytes for that.
    fn of_step<T: Clone + Send + 'static>(
        &self,
        event: &'static str,
        step: u32,
        value: &T,
        carried: usize,
        tell: fn(&Teller, &T) -> Value,
    ) {
        let body = move |told: Value| json!({ "step": step, (event): told });
        if carried > COPIED {
            return self.write(event, body(tell(&self.teller, value)));
        }
        let value = value.clone();
        self.tell(event, move |teller| body(tell(teller, &value)));
    }

    /// A line could not even be handed over.
    fn lost_a_line(&self) {
        if !self.lost.swap(true, Ordering::Relaxed) {
            tracing::warn!(target: "job", "the journal of this job is incomplete: the disk of the worker's state does not keep up");
        }
    }

    /// Returns when all that was told so far is written, or does not get written for long. Blocks.
    pub fn wait(&self) {
        if !self.writer.wait() {
            self.lost_a_line();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::telling::keep;
    use super::*;
    use crate::told::digest;

    const AGE: Duration = Duration::from_secs(24 * 60 * 60);

    #[test]
    fn what_is_older_than_the_operator_keeps_it_goes() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(BLOBS)).unwrap();
        let at = |name: &str, age: Duration| {
            let path = dir.path().join(name);
            let file = File::create(&path).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
            path
        };
        let old = AGE + Duration::from_secs(60);
        let blob = format!("{BLOBS}/aa");
        let gone = [at("0000000000001-j.jsonl", old), at(&blob, old)];
        let kept = at("0000000000002-j.jsonl", AGE / 2);
        let again = at(&format!("{BLOBS}/{}", digest(b"help")), old);
        keep(&again, b"help").unwrap();
        JournalStore::open(dir.path(), true, AGE).unwrap();
        assert!(gone.iter().all(|path| !path.exists()), "{gone:?}");
        assert!(kept.exists());
        assert!(again.exists(), "a young journal names it");
    }

    #[test]
    fn with_prompts_off_no_text_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let store = JournalStore::open(dir.path(), false, AGE).unwrap();
        let journal = store.start(&JobId::parse("j").unwrap());
        journal.tell("offered", |teller| {
            teller.document(r#"{"prompt":"a secret koi"}"#)
        });
        journal.tell("effect", |teller| {
            teller.value(&json!({"text": "a secret koi"}))
        });
        let run = json!({"Run": {"backend": "draw", "arguments": [
            {"Flag": "--fast"}, {"Flag": "koi"}, {"Positional": [{"Text": "koi"}]},
            {"Setting": {"name": "--words", "value": [{"Text": "koi"}]}},
        ]}});
        journal.tell("effect", move |teller| teller.value(&run));
        journal.wait();
        let file = fs::read_dir(dir.path())
            .unwrap()
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.is_file())
            .unwrap();
        let text = fs::read_to_string(file).unwrap();
        assert_eq!(text.lines().count(), 3);
        assert!(!text.contains("koi"), "{text}");
        for kept in ["\"draw\"", "--fast", "--words"] {
            assert!(text.contains(kept), "{kept}: {text}");
        }
    }

    #[test]
    fn the_folder_stays_bounded() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..KEPT_FILES + 20 {
            fs::write(dir.path().join(format!("{n:013}-j.jsonl")), "{}").unwrap();
        }
        JournalStore::open(dir.path(), true, AGE).unwrap();
        assert_eq!(
            fs::read_dir(dir.path())
                .unwrap()
                .flatten()
                .filter(|entry| entry.path().is_file())
                .count(),
            KEPT_FILES
        );
        assert!(
            !dir.path().join("0000000000000-j.jsonl").exists(),
            "the oldest go first"
        );
    }
}
