//! The studio's state in memory: the truth while it runs.
//!
//! One mutex around one struct. Every method is short, touches no disk but the sending of a change to the store's
//! thread (a rename of a finished upload is the one exception), and leaves the state whole: what a frame, a request or
//! the alarm does is one call.

mod advance;
mod claims;
mod dispatch;
mod job;
mod outcome;
mod recovery;
mod registration;
mod rollout;
mod session;
mod share;
mod status;
mod submit;
mod sweep;
mod updates;
mod updates_status;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use worker_wire::{JobId, LogEntry};

pub(crate) use claims::{TakeError, UploadRefusal};
pub(crate) use job::{Job, JobState};
pub(crate) use outcome::{JsonVerdict, Rejected};
pub(crate) use recovery::PART_PREFIX;
pub(crate) use registration::{ApprovalError, Poll, RegisterRefusal};
use rollout::Rollout;
pub(crate) use rollout::RolloutRow;
pub(crate) use session::{Outbox, Outgoing, Session};
pub(crate) use status::{JobStatus, PendingView, WorkerView};
pub(crate) use submit::{CancelError, Submission, SubmitError};
pub(crate) use updates::{Push, PushError};
pub(crate) use updates_status::RolloutStatus;

use crate::options::{Approval, Limits, Timing};
use crate::store::{Change, RequestRow, Store, WorkerRow};

/// A frame that breaks the protocol; the text says how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation(pub(crate) String);

/// A shipped log line with its place in the ring.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LogLine {
    pub(crate) seq: u64,
    pub(crate) worker_id: String,
    #[serde(flatten)]
    pub(crate) entry: LogEntry,
}

/// All that the studio knows.
pub(crate) struct Core {
    pub(crate) limits: Limits,
    pub(crate) timing: Timing,
    pub(crate) approve: Approval,
    pub(crate) own_install: Option<String>,
    results: PathBuf,
    store: Store,
    jobs: HashMap<JobId, Job>,
    /// Jobs in state queued, in the order they came.
    queue: BTreeMap<i64, JobId>,
    /// Finished jobs, oldest first.
    finished: VecDeque<JobId>,
    /// Bytes of prompt that the finished jobs hold.
    finished_prompts: usize,
    next_seq: i64,
    /// Welcomed sessions, in the order they connected.
    sessions: BTreeMap<u64, Session>,
    next_session: u64,
    workers: HashMap<String, WorkerRow>,
    requests: HashMap<String, RequestRow>,
    /// By id.
    rollouts: HashMap<String, Rollout>,
    /// When each address sent its last register requests.
    callers: HashMap<std::net::IpAddr, VecDeque<Instant>>,
    logs: VecDeque<LogLine>,
    next_log: u64,
}

impl Core {
    /// The session of a worker, if it is connected.
    fn session_of(&self, worker: &str) -> Option<u64> {
        self.sessions
            .iter()
            .find(|(_, session)| session.worker == worker)
            .map(|(no, _)| *no)
    }

    /// Changes a job, records it and wakes who waits for it.
    fn update(&mut self, id: &JobId, change: impl FnOnce(&mut Job)) {
        if let Some(job) = self.jobs.get_mut(id) {
            change(job);
            job.bump();
            self.store.record(Change::Job(Box::new(job.row())));
        }
    }

    /// Keeps shipped log lines, newest last.
    pub(crate) fn log(&mut self, worker: &str, entries: Vec<LogEntry>) {
        /// Longer messages are cut: a ring of them must stay small.
        const MESSAGE: usize = 2_000;
        // Lines beyond the ring would push each other out.
        let skip = entries.len().saturating_sub(self.limits.log_lines);
        for mut entry in entries.into_iter().skip(skip) {
            cut(&mut entry.message, MESSAGE);
            cut(&mut entry.category, 100);
            cut(&mut entry.ts, 40);
            self.next_log += 1;
            self.logs.push_back(LogLine {
                seq: self.next_log,
                worker_id: worker.to_owned(),
                entry,
            });
        }
        while self.logs.len() > self.limits.log_lines {
            self.logs.pop_front();
        }
    }

    /// Shipped lines after a place in the ring, and the newest place.
    pub(crate) fn logs_after(&self, after: u64) -> (Vec<LogLine>, u64) {
        let lines = self.logs.iter().filter(|line| line.seq > after);
        (lines.cloned().collect(), self.next_log)
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|age| i64::try_from(age.as_millis()).ok())
        .unwrap_or_default()
}

/// Shortens a text to at most `bytes`, at a character's border.
pub(crate) fn cut(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        let end = (0..=bytes).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or_default());
    }
}
