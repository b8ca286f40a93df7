//! One job as the studio holds it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;
use worker_wire::JobId;

use super::Rejected;
use crate::store::JobRow;

/// Where a job is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum JobState {
    /// Waiting for a worker.
    Queued {
        /// Kept for the worker that had it when the studio stopped, until then.
        reserved: Option<Instant>,
    },
    /// One worker has been asked.
    Offered {
        /// Which session.
        session: u64,
        /// Since when.
        since: Instant,
    },
    /// A worker has it.
    Running {
        /// Which session; none while that worker is away.
        session: Option<u64>,
        /// When the claim of a worker that is away ends.
        until: Option<Instant>,
    },
    /// Its result is here.
    Done,
    /// It failed for good.
    Failed,
    /// A person stopped it.
    Cancelled,
}

/// How far a job is, as its worker last said.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub(crate) struct Progress {
    /// Steps done.
    pub(crate) done: u32,
    /// Steps in all; 0 where unknown.
    pub(crate) total: u32,
    /// What is going on.
    pub(crate) note: Option<String>,
}

/// A job.
pub(crate) struct Job {
    pub(crate) id: JobId,
    /// What is kept of it; `state` is written by [`Job::row`].
    pub(crate) row: JobRow,
    pub(crate) state: JobState,
    /// The claim, until the job is finished.
    pub(crate) claim: Option<Arc<str>>,
    pub(crate) progress: Option<Progress>,
    /// Sessions that rejected it for good.
    pub(crate) refused_by: HashSet<u64>,
    /// When a person asked to stop it.
    pub(crate) cancelled_at: Option<Instant>,
    /// Uploads of its result that are being read.
    pub(crate) uploads: u32,
    /// Whether the end that its worker sent is on its way into the record. Until it is there, people are told that the job
    /// runs: an end that cannot be recorded is none. Ends that no worker sent need no acknowledgement, and show at once.
    pub(crate) recording: bool,
    version: watch::Sender<u64>,
}

impl Job {
    /// A job of a row, in a state.
    pub(crate) fn new(id: JobId, row: JobRow, state: JobState, claim: Option<Arc<str>>) -> Self {
        Self {
            id,
            row,
            state,
            claim,
            progress: None,
            refused_by: HashSet::new(),
            cancelled_at: None,
            uploads: 0,
            recording: false,
            version: watch::Sender::new(1),
        }
    }

    /// What is kept of it.
    pub(crate) fn row(&self) -> JobRow {
        let mut row = self.row.clone();
        row.state = match self.state {
            // An offer is no claim: the next start offers it again.
            JobState::Queued { .. } | JobState::Offered { .. } => "queued",
            _ => self.state_word(),
        }
        .to_owned();
        row
    }

    /// Its state, for people.
    pub(crate) fn shown_state(&self) -> &'static str {
        if self.recording {
            "running"
        } else {
            self.state_word()
        }
    }

    /// Whether its result can be had.
    pub(crate) fn has_result(&self) -> bool {
        self.state == JobState::Done && !self.recording
    }

    /// Its state in a word.
    pub(crate) fn state_word(&self) -> &'static str {
        match self.state {
            JobState::Queued { .. } => "queued",
            JobState::Offered { .. } => "offered",
            JobState::Running { .. } => "running",
            JobState::Done => "done",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
        }
    }

    /// Whether it has ended.
    pub(crate) fn is_finished(&self) -> bool {
        matches!(
            self.state,
            JobState::Done | JobState::Failed | JobState::Cancelled
        )
    }

    /// Whether `worker` has it, or had it last and may come back for it.
    pub(crate) fn was_with(&self, worker: &str) -> bool {
        self.row.worker.as_deref() == Some(worker)
    }

    /// Counts a change and wakes who waits for one.
    pub(crate) fn bump(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// Number of the last change.
    pub(crate) fn version(&self) -> u64 {
        *self.version.borrow()
    }

    /// Follows the changes.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Where its uploaded result is, if it has one.
    pub(crate) fn file(&self, results: &Path) -> Option<PathBuf> {
        let ext = self.row.ext.as_deref()?;
        Some(results.join(format!("{}.{ext}", self.id)))
    }

    /// Its last reject.
    pub(crate) fn last_reject(&self) -> Option<Rejected> {
        Some(Rejected {
            code: self.row.reject_code.clone(),
            reason: self.row.reject_reason.clone()?,
        })
    }
}
