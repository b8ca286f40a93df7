//! One roll-out of a plugin: what is kept of it, and how far each worker is.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use worker_wire::plugin_state as word;

/// States of one worker that are remembered, the last ones. More makes each write of the record longer.
const STORY: usize = 16;
/// How often an update is sent again to a worker that could not fetch it, or was interrupted. More only delays the stop.
const TRIES: u32 = 3;

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
    /// A worker ended badly: nobody else gets it.
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
    /// Seconds on probation after which it has passed, jobs or not.
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
    pub(crate) reason: String,
    /// The worker that is the canary, once there is one.
    pub(crate) canary: Option<String>,
    pub(crate) created_at: i64,
    pub(crate) ended_at: Option<i64>,
    /// By worker.
    pub(crate) shares: BTreeMap<String, Share>,
}

/// What one worker makes of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Share {
    /// `sent`, then the worker's own words.
    pub(crate) state: String,
    pub(crate) reason: String,
    /// Where it was refused: the rule that it broke.
    pub(crate) rule: Option<String>,
    pub(crate) at: i64,
    /// How often it was sent again after the worker could not fetch it.
    pub(crate) tries: u32,
    pub(crate) probation_since: Option<i64>,
    pub(crate) jobs_left: Option<u32>,
    /// Jobs that its probation began with.
    pub(crate) jobs_first: Option<u32>,
    /// Every state it came to, oldest first.
    pub(crate) story: Vec<Told>,
    /// The session that it was sent in.
    #[serde(skip)]
    pub(crate) session: Option<u64>,
}

/// A state that a worker came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) state: String,
    pub(crate) reason: String,
    pub(crate) at: i64,
}

/// What a worker's state means for the roll-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// It is on its way.
    UnderWay,
    /// It serves there.
    Serves,
    /// It can be sent again.
    Again,
    /// It does not serve there, and sending it again would not help.
    Failed,
}

impl Share {
    /// It was sent in a session.
    pub(crate) fn send(&mut self, now: i64, session: u64) {
        self.tell("sent", "", now);
        self.session = Some(session);
    }

    /// Comes to a state. Whether that is news.
    pub(crate) fn tell(&mut self, state: &str, reason: &str, now: i64) -> bool {
        if self.state == state && self.reason == reason {
            return false;
        }
        // A state that is only explained anew goes on since it began.
        if self.state != state {
            self.at = now;
        }
        self.state = state.to_owned();
        self.reason = reason.to_owned();
        if state == word::PROBATION {
            self.probation_since.get_or_insert(now);
        } else {
            self.probation_since = None;
            self.jobs_left = None;
            self.jobs_first = None;
        }
        self.story.push(Told {
            state: self.state.clone(),
            reason: self.reason.clone(),
            at: now,
        });
        let surplus = self.story.len().saturating_sub(STORY);
        self.story.drain(..surplus);
        true
    }

    /// Takes in how many jobs of its probation are left. Whether that is news.
    pub(crate) fn left(&mut self, jobs: Option<u32>) -> bool {
        if self.state != word::PROBATION || jobs.is_none() || self.jobs_left == jobs {
            return false;
        }
        self.jobs_left = jobs;
        self.jobs_first = self.jobs_first.max(jobs);
        true
    }

    /// What its state means.
    pub(crate) fn meaning(&self) -> Meaning {
        match self.state.as_str() {
            word::ACTIVE | word::PROBATION => Meaning::Serves,
            word::UNFETCHED | word::INTERRUPTED if self.tries < TRIES => Meaning::Again,
            word::UNFETCHED
            | word::INTERRUPTED
            | word::SUPERSEDED
            | word::WAITING
            | word::REFUSED
            | word::ROLLED_BACK
            | word::QUARANTINED
            | word::DRAINING
            | word::REMOVED
            | word::PINNED
            | word::NOT_ALLOWED => Meaning::Failed,
            // A later worker's word is neither a reason to go on nor one to stop; what is waited for is said.
            _ => Meaning::UnderWay,
        }
    }

    /// Whether the canary has passed; else what it waits for.
    pub(crate) fn passed(&self, rules: &Rules, now: i64) -> Result<(), String> {
        if self.state == word::ACTIVE {
            return Ok(());
        }
        let since = match self.probation_since {
            Some(since) if self.state == word::PROBATION => since,
            _ => return Err(format!("is {}", self.state)),
        };
        let mut waits = Vec::new();
        if let Some(seconds) = rules.soak_seconds {
            let passed = Duration::from_millis(u64::try_from(now - since).unwrap_or_default());
            match Duration::from_secs(seconds).checked_sub(passed) {
                None | Some(Duration::ZERO) => return Ok(()),
                Some(left) => waits.push(format!("{} s of soaking", left.as_secs().max(1))),
            }
        }
        let left = match (rules.canary_jobs, self.jobs_left.zip(self.jobs_first)) {
            (Some(0), _) => Some(0),
            (Some(wanted), Some((left, first))) => {
                Some(wanted.saturating_sub(first - left).min(left))
            }
            (Some(wanted), None) => Some(wanted),
            (None, Some((left, _))) => Some(left),
            (None, None) => None,
        };
        match left {
            Some(0) => return Ok(()),
            Some(1) => waits.push("1 more job".to_owned()),
            Some(left) => waits.push(format!("{left} more jobs")),
            None => waits.push("the end of its probation".to_owned()),
        }
        Err(format!("is on probation and needs {}", waits.join(", or ")))
    }
}

/// A roll-out while the studio runs.
#[derive(Debug)]
pub(crate) struct Rollout {
    pub(crate) row: RolloutRow,
    version: watch::Sender<u64>,
}

impl Rollout {
    pub(crate) fn new(row: RolloutRow) -> Self {
        Self {
            row,
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

    /// The first worker that ended badly, and how.
    pub(crate) fn failed(&self) -> Option<String> {
        let mut shares = self.row.shares.iter();
        let (worker, share) = shares.find(|(_, share)| share.meaning() == Meaning::Failed)?;
        let reason = match share.reason.as_str() {
            "" => String::new(),
            reason => format!(": {reason}"),
        };
        Some(format!("worker {worker} ended in {}{reason}", share.state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canary_passes_by_its_jobs_by_time_or_by_the_end_of_its_probation() {
        let mut share = Share::default();
        share.send(0, 1);
        let rules = Rules::default();
        assert!(share.passed(&rules, 0).is_err());
        share.tell(word::PROBATION, "", 1_000);
        let waits = share.passed(&rules, 2_000).unwrap_err();
        assert!(waits.contains("end of its probation"), "{waits}");
        share.left(Some(10));
        share.left(Some(8));
        let waits = share.passed(&rules, 2_000).unwrap_err();
        assert!(waits.contains("8 more jobs"), "{waits}");
        let jobs = |count| Rules {
            canary_jobs: Some(count),
            ..Rules::default()
        };
        assert!(share.passed(&jobs(0), 2_000).is_ok());
        assert!(share.passed(&jobs(2), 2_000).is_ok());
        let waits = share.passed(&jobs(3), 2_000).unwrap_err();
        assert!(waits.contains("1 more job"), "{waits}");
        let soak = Rules {
            soak_seconds: Some(5),
            ..Rules::default()
        };
        let waits = share.passed(&soak, 2_000).unwrap_err();
        assert!(waits.contains("4 s of soaking, or 8 more jobs"), "{waits}");
        assert!(share.passed(&soak, 6_000).is_ok());
        share.tell(word::ROLLED_BACK, "it trapped", 6_000);
        assert!(share.passed(&soak, 9_000).is_err());
        assert_eq!(share.meaning(), Meaning::Failed);
    }

    #[test]
    fn what_could_not_be_fetched_is_sent_again_a_few_times() {
        let mut share = Share::default();
        share.send(0, 1);
        share.tell(word::UNFETCHED, "no route", 1);
        assert_eq!(share.meaning(), Meaning::Again);
        share.tries = TRIES;
        assert_eq!(share.meaning(), Meaning::Failed);
    }
}
