//! One roll-out of a plugin: what is kept of it, and what it is begun with.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::share::{Meaning, Share};

/// Where a roll-out is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    /// One worker has it, and the others wait for what comes of it.
    #[default]
    Canary,
    /// The others get it.
    Rolling,
    /// Every connected worker has it; those that connect later get it.
    Done,
    /// A worker ended badly, or none takes it: nobody else gets it.
    Stopped,
    /// By the operator's word: nobody else gets it.
    Cancelled,
}

impl Phase {
    /// Whether workers may still get it.
    pub(crate) fn sends(self) -> bool {
        matches!(self, Self::Canary | Self::Rolling | Self::Done)
    }

    /// Whether it is under way.
    pub(crate) fn runs(self) -> bool {
        matches!(self, Self::Canary | Self::Rolling)
    }
}

/// What lets a roll-out go on after its canary, and how fast.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Rules {
    /// The worker to begin with; none: the studio chooses.
    pub(crate) canary: Option<String>,
    /// Jobs of its probation that the canary has to do. None: all.
    pub(crate) canary_jobs: Option<u32>,
    /// Seconds that it serves in one session after which it has passed, jobs or not.
    pub(crate) soak_seconds: Option<u64>,
    /// Workers that may be under way at a time.
    pub(crate) at_once: u32,
}

/// A roll-out as it is kept. Times are milliseconds since the Unix epoch.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RolloutRow {
    pub(crate) id: String,
    /// Order in which they were begun.
    pub(crate) seq: i64,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    pub(crate) signature: String,
    pub(crate) rules: Rules,
    pub(crate) phase: Phase,
    /// Whether it went beyond its canary. From then on workers get no earlier one, however it ends.
    pub(crate) passed: bool,
    pub(crate) reason: String,
    /// The worker that is the canary, once there is one.
    pub(crate) canary: Option<String>,
    pub(crate) created_at: i64,
    pub(crate) ended_at: Option<i64>,
    /// By worker.
    pub(crate) shares: BTreeMap<String, Share>,
}

/// A roll-out while the studio runs.
#[derive(Debug)]
pub(crate) struct Rollout {
    pub(crate) row: RolloutRow,
    /// Since when no worker that could be the canary is there.
    pub(crate) without: Option<Instant>,
    version: watch::Sender<u64>,
}

impl Rollout {
    pub(crate) fn new(row: RolloutRow) -> Self {
        Self {
            row,
            without: None,
            version: watch::Sender::new(1),
        }
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

    /// Ends it.
    pub(crate) fn end(&mut self, phase: Phase, reason: &str, now: i64) {
        self.row.phase = phase;
        self.row.reason = reason.to_owned();
        self.row.ended_at = Some(now);
    }
}

impl RolloutRow {
    /// Whether it decides what workers get, so that no earlier one of its plugin does.
    pub(crate) fn decides(&self) -> bool {
        self.phase.sends() || self.passed
    }

    /// The first worker whose part has come to this meaning, and how, in words.
    pub(crate) fn first(&self, meaning: Meaning) -> Option<String> {
        let mut shares = self.shares.iter();
        let (worker, share) = shares.find(|(_, share)| share.meaning() == meaning)?;
        Some(format!("worker {worker} ended in {}", share.ended()))
    }

    /// Whether a worker can be its canary as far as is known.
    pub(crate) fn may_begin_with(&self, worker: &str) -> bool {
        !self.shares.get(worker).is_some_and(Share::is_out)
    }
}
