//! The thread that writes journals.
//!
//! A job waits for nothing that merely explains it: it hands over what is to be said, and a thread makes it into JSON and
//! writes it. All lines go the same way, so they stand in the order in which they were handed over.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use worker_wire::timestamp;

use super::MAX_JOURNAL;

/// What waits to be written. A job that is further ahead waits for the disk: more would be held in memory, and lost with the
/// process; less makes jobs wait.
const WAITING: usize = 64;

type Task = Box<dyn FnOnce() + Send>;

/// The thread, which ends with the last that can give it something to do.
#[derive(Debug)]
pub(super) struct Writer {
    tasks: Option<SyncSender<Task>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start() -> std::io::Result<Self> {
        let (tasks, inbox) = sync_channel::<Task>(WAITING);
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || inbox.into_iter().for_each(|task| task()))?;
        Ok(Self {
            tasks: Some(tasks),
            thread: Some(thread),
        })
    }

    /// Has it done after all that was handed over before. Waits where much is waiting.
    pub(super) fn hand_over(&self, task: impl FnOnce() + Send + 'static) {
        // The thread lives as long as this does, and does not end by a panic: nothing in a task can.
        if let Some(tasks) = &self.tasks {
            let _ = tasks.send(Box::new(task));
        }
    }
}

impl Drop for Writer {
    /// What was handed over is written first.
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The file of one journal.
///
/// Nothing is written before [`Page::open`] made it.
#[derive(Clone, Debug, Default)]
pub(super) struct Page(Arc<Mutex<Written>>);

#[derive(Debug, Default)]
struct Written {
    file: Option<File>,
    /// It is incomplete, which was said.
    broken: bool,
    bytes: u64,
    full: bool,
}

/// One line.
pub(super) struct Line {
    pub(super) event: &'static str,
    pub(super) at: SystemTime,
    /// Since the job began.
    pub(super) since: Duration,
}

impl Page {
    /// Makes the file. One that cannot be made is said, and costs no job.
    pub(super) fn open(&self, path: &Path, job: &str) {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        match options.open(path) {
            Ok(file) => self.lock().file = Some(file),
            Err(error) => {
                tracing::warn!(target: "job", job, %error, "no journal for this job");
            }
        }
    }

    /// Appends one line.
    pub(super) fn append(&self, line: &Line, body: impl FnOnce() -> Value) {
        let Line { event, at, since } = line;
        let mut page = self.lock();
        let asked = matches!(*event, "effect" | "outcome");
        if page.file.is_none() || asked && page.full {
            return;
        }
        let mut line = json!({
            "event": event,
            "at": timestamp(*at),
            "ms": u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            "body": body(),
        })
        .to_string();
        line.push('\n');
        page.bytes = page.bytes.saturating_add(line.len() as u64);
        if asked && page.bytes > MAX_JOURNAL {
            page.full = true;
            line = json!({ "event": "full", "body": { "bytes": MAX_JOURNAL } }).to_string();
            line.push('\n');
        }
        let written = page
            .file
            .as_mut()
            .map(|file| file.write_all(line.as_bytes()));
        if let Some(Err(error)) = written
            && !page.broken
        {
            page.broken = true;
            tracing::warn!(target: "job", %error, "the journal of this job is incomplete");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Written> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
