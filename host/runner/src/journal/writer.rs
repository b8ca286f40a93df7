//! The thread that writes journals.
//!
//! A job waits for nothing that merely explains it: it hands over what is to be said, and a thread makes it into JSON and
//! writes it. All lines go the same way, so they stand in the order in which they were handed over.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use worker_wire::timestamp;

use super::MAX_JOURNAL;

/// What waits to be written. More would be held in memory, and lost with the process; less loses lines of a job that says much at once.
const WAITING: usize = 256;

/// How long the thread waits for more when it has something to do: woken for each line, it would take turns with the job on one core.
/// A process that is killed loses the lines of this time.
const LINGER: Duration = Duration::from_millis(5);

/// How long a job waits for the disk where so much is waiting already. Longer holds up jobs on a disk that hangs; shorter loses
/// lines on one that is slow.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long the end of a job, or of the worker, waits for what was handed over. Longer holds up a worker that stops, on a disk that
/// hangs.
const WRITTEN_WITHIN: Duration = Duration::from_secs(10);

type Task = Box<dyn FnOnce() + Send>;

/// Why a task was not taken.
enum Refused {
    /// Too much waits already.
    Full(Task),
    /// The thread has ended.
    Ended,
}

/// The thread, which ends with the last that can give it something to do.
#[derive(Debug)]
pub(super) struct Writer {
    tasks: Option<SyncSender<Task>>,
    /// Ends when the thread does.
    ended: Mutex<Receiver<()>>,
    /// Set while the disk does not keep up: nobody waits for it then.
    stuck: AtomicBool,
}

impl Writer {
    pub(super) fn start() -> std::io::Result<Self> {
        let (tasks, inbox) = sync_channel::<Task>(WAITING);
        let (ends, ended) = sync_channel(0);
        std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || {
                let _ends: SyncSender<()> = ends;
                while let Ok(first) = inbox.recv() {
                    std::thread::sleep(LINGER);
                    std::iter::once(first)
                        .chain(inbox.try_iter())
                        .for_each(carry_out);
                }
            })?;
        Ok(Self {
            tasks: Some(tasks),
            ended: Mutex::new(ended),
            stuck: AtomicBool::new(false),
        })
    }

    /// Has it done after all that was handed over before, unless too much is waiting. Whether it will be done.
    pub(super) fn offer(&self, task: impl FnOnce() + Send + 'static) -> bool {
        self.put(Box::new(task)).is_ok()
    }

    /// The same, but waits a moment for the disk where too much is waiting.
    pub(super) fn hand_over(&self, task: impl FnOnce() + Send + 'static) -> bool {
        let mut task: Task = Box::new(task);
        let until = Instant::now() + PATIENCE;
        loop {
            match self.put(task) {
                Ok(()) => {
                    self.stuck.store(false, Ordering::Relaxed);
                    return true;
                }
                Err(Refused::Full(back)) => task = back,
                // Waiting brings no thread back.
                Err(Refused::Ended) => return false,
            }
            if self.stuck.load(Ordering::Relaxed) || Instant::now() > until {
                self.stuck.store(true, Ordering::Relaxed);
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn put(&self, task: Task) -> Result<(), Refused> {
        let tasks = self.tasks.as_ref().ok_or(Refused::Ended)?;
        tasks.try_send(task).map_err(|refused| match refused {
            TrySendError::Full(task) => Refused::Full(task),
            TrySendError::Disconnected(_) => Refused::Ended,
        })
    }

    /// Returns when all that was handed over is done, or is not for long; whether it is.
    pub(super) fn wait(&self) -> bool {
        let (done, written) = sync_channel(1);
        let handed = self.hand_over(move || {
            // Whoever asked may have lost patience.
            let _ = done.send(());
        });
        handed && written.recv_timeout(WRITTEN_WITHIN).is_ok()
    }
}

/// A panic in a task is a defect of the worker's own; it must not take the thread from the lines to come.
fn carry_out(task: Task) {
    if catch_unwind(AssertUnwindSafe(task)).is_err() {
        tracing::error!(target: "job", "the thread that writes journals panicked; what it was to do then is lost");
    }
}

impl Drop for Writer {
    /// What was handed over is written first, if the disk takes it.
    fn drop(&mut self) {
        self.tasks = None;
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = ended.recv_timeout(WRITTEN_WITHIN);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_loses_one_task_and_no_thread() {
        let writer = Writer::start().unwrap();
        assert!(writer.hand_over(|| panic!("on purpose")));
        assert!(writer.wait(), "what comes after it is done");
    }

    #[test]
    fn nobody_waits_for_a_thread_that_has_ended() {
        let (tasks, inbox) = sync_channel(1);
        let (_, ended) = sync_channel(0);
        let writer = Writer {
            tasks: Some(tasks),
            ended: Mutex::new(ended),
            stuck: AtomicBool::new(false),
        };
        drop(inbox);
        assert!(!writer.hand_over(|| {}));
        let stuck = writer.stuck.load(Ordering::Relaxed);
        assert!(!stuck, "it is not the disk that does not keep up");
    }
}
