//! What one worker makes of a roll-out: how far it is, and what that means for the others.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use worker_wire::plugin_state as word;

use super::rollout::Rules;

/// The studio's own word for a worker that was not heard of for too long.
pub(crate) const GONE: &str = "gone";
/// States of one worker that are remembered, the last ones. More makes each write of the record longer.
const STORY: usize = 16;
/// How often an update is sent again to a worker that could not fetch it, or was interrupted. More only delays the end.
const TRIES: u32 = 3;
/// Rules of a worker whose breach says nothing against the component: the operator's word there, or the machine. What is not
/// named here lies with the component.
const OF_THE_WORKER: [&str; 9] = [
    "locked",
    "pinned",
    "granted",
    "unknown-key",
    "older",
    "programs",
    "contract-version",
    "readable",
    "stored",
];

/// What one worker makes of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Share {
    /// `sent`, then the worker's own words; `gone` where none came for too long.
    pub(crate) state: String,
    pub(crate) reason: String,
    /// Where it was refused: the rule that it broke.
    pub(crate) rule: Option<String>,
    pub(crate) at: i64,
    /// How often it was sent again after the worker could not fetch it.
    pub(crate) tries: u32,
    /// Whether it has served there.
    pub(crate) served: bool,
    pub(crate) jobs_left: Option<u32>,
    /// Jobs that its probation began with, as far as a heartbeat said.
    pub(crate) jobs_first: Option<u32>,
    /// Jobs that it has done since the version serves there, as the studio counts them.
    pub(crate) jobs_done: u32,
    /// Every state it came to, oldest first.
    pub(crate) story: Vec<Told>,
    /// The session that it was sent in.
    #[serde(skip)]
    pub(crate) session: Option<u64>,
    /// The session that says that the version serves there, and since when.
    #[serde(skip)]
    pub(crate) serving: Option<(u64, Instant)>,
    /// Since when it has had no session.
    #[serde(skip)]
    pub(crate) away: Option<Instant>,
}

/// A state that a worker came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) state: String,
    pub(crate) reason: String,
    pub(crate) at: i64,
}

/// What a worker's state means for the roll-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Meaning {
    /// It is on its way.
    UnderWay,
    /// It serves there.
    Serves,
    /// It can be sent again.
    Again,
    /// It is not taken there, for a reason of that worker: no success, and nothing against the component.
    Declined,
    /// Its worker went away before it served there.
    Gone,
    /// It does not serve there, and the component may be at fault.
    Failed,
}

impl Share {
    /// It was sent in a session.
    pub(crate) fn send(&mut self, now: i64, session: u64) {
        self.tell("sent", "", now);
        self.served = false;
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
        if self.meaning() == Meaning::Serves {
            self.served = true;
        } else {
            self.jobs_done = 0;
        }
        if state != word::PROBATION {
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

    /// Takes in what a look at the worker's session shows: its number, and whether it says that the version serves there.
    pub(crate) fn seen(&mut self, session: Option<(u64, bool)>) {
        self.away = match session {
            Some(_) => None,
            None => self.away.or_else(|| Some(Instant::now())),
        };
        self.serving = match (session, self.serving) {
            (Some((no, true)), Some(serving)) if serving.0 == no => Some(serving),
            (Some((no, true)), _) => Some((no, Instant::now())),
            _ => None,
        };
    }

    /// What its state means.
    pub(crate) fn meaning(&self) -> Meaning {
        let of_the_worker = || {
            let rule = self.rule.as_deref();
            rule.is_some_and(|rule| OF_THE_WORKER.contains(&rule))
        };
        match self.state.as_str() {
            word::ACTIVE | word::PROBATION => Meaning::Serves,
            word::UNFETCHED | word::INTERRUPTED if self.tries < TRIES => Meaning::Again,
            word::REFUSED if of_the_worker() => Meaning::Declined,
            word::WAITING
            | word::PINNED
            | word::NOT_ALLOWED
            | word::REMOVED
            | word::SUPERSEDED
            | word::DRAINING
            | word::UNFETCHED => Meaning::Declined,
            GONE if !self.served => Meaning::Gone,
            GONE | word::INTERRUPTED | word::REFUSED | word::ROLLED_BACK | word::QUARANTINED => {
                Meaning::Failed
            }
            // A later worker's word is neither a reason to go on nor one to stop; what is waited for is said.
            _ => Meaning::UnderWay,
        }
    }

    /// Whether it is of no use as a canary.
    pub(crate) fn is_out(&self) -> bool {
        matches!(
            self.meaning(),
            Meaning::Declined | Meaning::Gone | Meaning::Failed
        )
    }

    /// Whether its worker went away while the first jobs on the version were watched: they end that way where it does harm.
    pub(crate) fn is_missed(&self) -> bool {
        self.state == word::PROBATION && self.away.is_some()
    }

    /// For how long the session that is open now has said that the version serves there.
    pub(crate) fn soaked(&self) -> Option<Duration> {
        self.serving.map(|(_, since)| since.elapsed())
    }

    /// How it ended, in words.
    pub(crate) fn ended(&self) -> String {
        match self.reason.as_str() {
            "" => self.state.clone(),
            reason => format!("{}: {reason}", self.state),
        }
    }

    /// Whether the canary has passed; else what it waits for. `soaked` is none while no session says that it serves.
    pub(crate) fn passed(&self, rules: &Rules, soaked: Option<Duration>) -> Result<(), String> {
        if self.state == word::ACTIVE {
            return Ok(());
        }
        if self.state != word::PROBATION {
            return Err(format!("is {}", self.state));
        }
        let Some(soaked) = soaked else {
            // Its time passes for a worker that crashed as well.
            return Err("is on probation and has to say that it serves".to_owned());
        };
        let mut waits = Vec::new();
        if let Some(seconds) = rules.soak_seconds {
            match Duration::from_secs(seconds).checked_sub(soaked) {
                None | Some(Duration::ZERO) => return Ok(()),
                Some(left) => waits.push(format!("{} s of soaking", left.as_secs().max(1))),
            }
        }
        match self.jobs_to_do(rules) {
            Some(0) => return Ok(()),
            Some(1) => waits.push("1 more job".to_owned()),
            Some(left) => waits.push(format!("{left} more jobs")),
            None => waits.push("the end of its probation".to_owned()),
        }
        Err(format!("is on probation and needs {}", waits.join(", or ")))
    }

    /// Jobs that the canary has yet to do, where that is known.
    fn jobs_to_do(&self, rules: &Rules) -> Option<u32> {
        let Some(wanted) = rules.canary_jobs else {
            return self.jobs_left;
        };
        // A heartbeat may be the first to say what is left only after some were done, and a worker may not say which plugins
        // have a job: whichever knows of more.
        let told = self.jobs_left.zip(self.jobs_first);
        let told = told.map_or(0, |(left, first)| first.saturating_sub(left));
        let to_do = wanted.saturating_sub(told.max(self.jobs_done));
        Some(to_do.min(self.jobs_left.unwrap_or(u32::MAX)))
    }
}

#[cfg(test)]
mod tests;
