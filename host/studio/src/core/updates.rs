//! Roll-outs: how they begin, what workers say of them, and how they are ended.

use std::collections::HashSet;

use worker_wire::{Extension, PluginStatus, is_digest, is_plugin_name, plugin_state};

use super::rollout::{Phase, Rollout, RolloutRow, Rules};
use super::share::{GONE, Meaning};
use super::{Core, now_ms};
use crate::secrets;
use crate::store::{Change, JobRow, Receipt};

/// Roll-outs that are kept. More costs memory and a longer list.
const KEPT: usize = 100;
/// Workers that may be under way at a time where nothing is said. More lets a defect reach more of them before it shows;
/// fewer makes a large fleet slow.
const AT_ONCE: u32 = 8;
/// Longest signature that is taken, in bytes; a worker reads no longer ones.
const SIGNATURE_BYTES: usize = 16 * 1024;
/// Longest soak, in seconds: a year.
const SOAK_SECONDS: u64 = 365 * 24 * 3600;

/// What a roll-out is begun with.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Push {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) digest: String,
    pub(crate) signature: String,
    #[serde(flatten)]
    pub(crate) rules: Rules,
}

/// Why a roll-out is not begun, or not cancelled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PushError {
    #[error("`{0}` is missing or not sound")]
    Malformed(&'static str),
    #[error(
        "there is no signature: workers take only what a key that they trust has signed; see `studio-worker plugin sign`"
    )]
    Unsigned,
    #[error("the component is not here: send it first")]
    NoComponent,
    #[error("there is no worker `{0}`; `studio-worker workers` lists all")]
    UnknownWorker(String),
    #[error("roll-out {0} of this plugin is under way; cancel it first")]
    Running(String),
    #[error("there is no such roll-out")]
    Unknown,
    #[error("the roll-out has ended; what later workers get is decided by the next one")]
    Ended,
    #[error("the system gave no randomness")]
    NoRandomness,
}

impl Core {
    /// Begins a roll-out of a component of this size that is here.
    pub(crate) fn push(&mut self, push: Push, size: u64) -> Result<(String, Receipt), PushError> {
        let Push {
            name,
            version,
            digest,
            signature,
            mut rules,
        } = push;
        if !is_plugin_name(&name) {
            return Err(PushError::Malformed("name"));
        }
        if !is_digest(&digest) {
            return Err(PushError::Malformed("digest"));
        }
        if version.len() > 100 || !version.chars().all(|c| c.is_ascii_graphic()) {
            return Err(PushError::Malformed("version"));
        }
        if signature.trim().is_empty() {
            return Err(PushError::Unsigned);
        }
        if signature.len() > SIGNATURE_BYTES {
            return Err(PushError::Malformed("signature"));
        }
        if rules.soak_seconds.is_some_and(|soak| soak > SOAK_SECONDS) {
            return Err(PushError::Malformed("soakSeconds"));
        }
        if let Some(canary) = &rules.canary
            && !self.workers.contains_key(canary)
        {
            return Err(PushError::UnknownWorker(canary.clone()));
        }
        if rules.at_once == 0 {
            rules.at_once = AT_ONCE;
        }
        let running = self.rollouts.values().map(|one| &one.row);
        if let Some(other) = { running }.find(|row| row.name == name && row.phase.runs()) {
            return Err(PushError::Running(other.id.clone()));
        }
        let id = secrets::id("u-").map_err(|_| PushError::NoRandomness)?;
        let seq = self.rollouts.values().map(|one| one.row.seq).max();
        let row = RolloutRow {
            id: id.clone(),
            seq: seq.unwrap_or_default() + 1,
            name,
            version,
            digest,
            size,
            signature,
            rules,
            created_at: now_ms(),
            ..RolloutRow::default()
        };
        let receipt = self.store.commit(Change::Rollout(Box::new(row.clone())));
        self.rollouts.insert(id.clone(), Rollout::new(row));
        self.forget_old_rollouts();
        Ok((id, receipt))
    }

    /// Takes back a roll-out that could not be recorded.
    pub(crate) fn unpush(&mut self, id: &str) {
        self.rollouts.remove(id);
    }

    /// Gives it to nobody else. Workers that have it keep it.
    pub(crate) fn cancel_rollout(&mut self, id: &str) -> Result<(), PushError> {
        let rollout = self.rollouts.get_mut(id).ok_or(PushError::Unknown)?;
        if !rollout.row.phase.runs() {
            return Err(PushError::Ended);
        }
        rollout.end(Phase::Cancelled, "by the operator", now_ms());
        self.record_rollout(id);
        Ok(())
    }

    /// Digests that a roll-out may still send.
    pub(crate) fn needed_components(&self) -> HashSet<String> {
        self.rollouts
            .values()
            .filter(|one| one.row.phase.runs() || self.is_current(&one.row))
            .map(|one| one.row.digest.clone())
            .collect()
    }

    /// Whether it is the one that workers get for its plugin: the latest, but for those that ended with their canary.
    pub(super) fn is_current(&self, row: &RolloutRow) -> bool {
        row.phase.sends()
            && !self.rollouts.values().any(|other| {
                other.row.name == row.name && other.row.seq > row.seq && other.row.decides()
            })
    }

    fn forget_old_rollouts(&mut self) {
        while self.rollouts.len() > KEPT {
            let ended = self
                .rollouts
                .values()
                .filter(|one| !one.row.phase.runs() && !self.is_current(&one.row));
            let Some(id) = ended
                .min_by_key(|one| one.row.seq)
                .map(|one| one.row.id.clone())
            else {
                return;
            };
            self.rollouts.remove(&id);
            self.store.record(Change::NoRollout(id));
        }
    }

    pub(super) fn record_rollout(&self, id: &str) {
        if let Some(rollout) = self.rollouts.get(id) {
            rollout.bump();
            self.store
                .record(Change::Rollout(Box::new(rollout.row.clone())));
        }
    }

    /// A worker says how a plugin stands.
    pub(crate) fn plugin_status(&mut self, no: u64, status: PluginStatus) {
        let Some(session) = self.sessions.get_mut(&no) else {
            return;
        };
        let status = status.bounded();
        // One word is the studio's own.
        let sound = is_plugin_name(&status.name) && status.state != GONE;
        if !session.speaks(Extension::PluginStatus) || !sound {
            return;
        }
        let worker = session.worker.clone();
        session.told(status.clone());
        let of = |row: &RolloutRow| {
            row.name == status.name
                && match &status.update_id {
                    Some(id) => *id == row.id,
                    None => status.digest == row.digest,
                }
        };
        let found = self.rollouts.values_mut().filter(|one| of(&one.row));
        let Some(rollout) = found.max_by_key(|one| one.row.seq) else {
            return;
        };
        let id = rollout.row.id.clone();
        // A worker can say nothing of what it was not sent.
        let Some(share) = rollout.row.shares.get_mut(&worker) else {
            return;
        };
        if share.meaning() == Meaning::Serves && status.state == plugin_state::PINNED {
            // The operator keeps it: it serves as before.
            return;
        }
        share.rule = status.rule;
        if share.tell(&status.state, &status.reason, now_ms()) {
            tracing::info!(
                worker,
                plugin = status.name,
                state = status.state,
                reason = status.reason,
                "a pushed plugin"
            );
            self.record_rollout(&id);
        }
        self.advance();
    }

    /// Takes in what a heartbeat says of plugins: jobs left, and states whose frame was lost.
    pub(crate) fn plugins_seen(&mut self, no: u64) {
        let Some(session) = self.sessions.get(&no) else {
            return;
        };
        let mut changed = Vec::new();
        for rollout in self.rollouts.values_mut() {
            let Some(share) = rollout.row.shares.get_mut(&session.worker) else {
                continue;
            };
            let Some(seen) = session.serves(&rollout.row.digest) else {
                continue;
            };
            let mut news = false;
            if seen.state != share.state {
                news = share.tell(&seen.state, "", now_ms());
            }
            if share.left(seen.jobs_left) || news {
                changed.push(rollout.row.id.clone());
            }
        }
        for id in changed {
            self.record_rollout(&id);
        }
    }

    /// Counts a job that is done for the canary that did it on the pushed version.
    pub(crate) fn count_for_canary(&mut self, job: &JobRow) {
        let (Some(worker), Some(by)) = (&job.worker, &job.served_by) else {
            return;
        };
        let mut counted = Vec::new();
        for rollout in self.rollouts.values_mut() {
            let row = &mut rollout.row;
            let on_it = |row: &RolloutRow| by.plugins.iter().any(|one| one.digest == row.digest);
            if row.phase != Phase::Canary || !on_it(row) {
                continue;
            }
            let share = row.shares.get_mut(worker);
            if let Some(share) = share.filter(|share| share.meaning() == Meaning::Serves) {
                share.jobs_done = share.jobs_done.saturating_add(1);
                counted.push(row.id.clone());
            }
        }
        for id in &counted {
            self.record_rollout(id);
        }
        if !counted.is_empty() {
            self.advance();
        }
    }

    /// A deleted worker has no part in anything.
    pub(crate) fn forget_shares(&mut self, worker: &str) {
        let ids: Vec<String> = self.rollouts.keys().cloned().collect();
        for id in ids {
            let Some(rollout) = self.rollouts.get_mut(&id) else {
                continue;
            };
            let row = &mut rollout.row;
            let had = row.shares.remove(worker).is_some();
            if row.canary.as_deref() == Some(worker) && row.phase == Phase::Canary {
                rollout.end(Phase::Stopped, "its canary was deleted", now_ms());
            } else if !had {
                continue;
            }
            self.record_rollout(&id);
        }
        self.advance();
    }
}
