//! Roll-outs: who gets a pushed plugin when, and what comes of it.
//!
//! Nothing here waits. Whatever may move a roll-out on (a status, a heartbeat, a worker that comes or goes, the alarm) calls
//! [`Core::advance`], which looks at the whole of it and does what can be done now.

use std::collections::HashSet;

use worker_wire::{
    Extension, PluginStatus, PluginUpdate, ServerFrame, is_digest, is_plugin_name, plugin_state,
};

use super::rollout::{Meaning, Phase, Rollout, RolloutRow, Rules, Share};
use super::{Core, now_ms};
use crate::secrets;
use crate::store::{Change, Receipt};

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
        end(rollout, Phase::Cancelled, "by the operator");
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

    /// Whether it is the one that workers get for its plugin: the latest that was not stopped or cancelled.
    fn is_current(&self, row: &RolloutRow) -> bool {
        row.phase.sends()
            && !self.rollouts.values().any(|other| {
                other.row.name == row.name && other.row.seq > row.seq && other.row.phase.sends()
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

    fn record_rollout(&self, id: &str) {
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
        if !session.speaks(Extension::PluginStatus) || !is_plugin_name(&status.name) {
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
            let plugins = session.capabilities.plugins.iter();
            let serving = [plugin_state::PROBATION, plugin_state::ACTIVE];
            let Some(seen) = { plugins }.find(|one| {
                one.digest == rollout.row.digest && serving.contains(&one.state.as_str())
            }) else {
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

    /// Moves every roll-out on as far as it goes now.
    pub(crate) fn advance(&mut self) {
        let current: Vec<String> = self
            .rollouts
            .values()
            .filter(|one| self.is_current(&one.row))
            .map(|one| one.row.id.clone())
            .collect();
        for id in current {
            // Each step leads to a later phase, so this ends.
            while self.step(&id) {}
        }
    }

    /// One step. Whether it led to another phase.
    fn step(&mut self, id: &str) -> bool {
        let Some(rollout) = self.rollouts.get_mut(id) else {
            return false;
        };
        if let Some(why) = rollout.failed() {
            tracing::warn!(
                rollout = id,
                plugin = rollout.row.name,
                "the roll-out is stopped: {why}"
            );
            end(rollout, Phase::Stopped, &why);
            self.record_rollout(id);
            return false;
        }
        match rollout.row.phase {
            Phase::Canary => self.step_canary(id),
            Phase::Rolling => self.step_rolling(id),
            Phase::Done => {
                let late = self.lacking(id);
                self.send_to(id, late);
                false
            }
            Phase::Stopped | Phase::Cancelled => false,
        }
    }

    fn step_canary(&mut self, id: &str) -> bool {
        let Some(rollout) = self.rollouts.get(id) else {
            return false;
        };
        let row = &rollout.row;
        let Some(canary) = row.canary.clone().or_else(|| self.choose_canary(row)) else {
            return false;
        };
        if row.canary.is_none() {
            if let Some(rollout) = self.rollouts.get_mut(id) {
                rollout.row.canary = Some(canary.clone());
            }
            self.record_rollout(id);
        }
        let lacks = self.lacking(id).contains(&canary);
        if lacks {
            self.send_to(id, vec![canary.clone()]);
        }
        let session = self.session_of(&canary);
        let session = session.and_then(|no| self.sessions.get(&no));
        let Some(rollout) = self.rollouts.get_mut(id) else {
            return false;
        };
        let share = rollout.row.shares.get(&canary);
        // On probation time passes for a worker that crashed as well: it has to be there.
        let lives = session.is_some_and(|session| session.says_it_serves(&rollout.row.digest));
        let passed = share.is_some_and(|share| {
            (lives || share.state == plugin_state::ACTIVE)
                && share.passed(&rollout.row.rules, now_ms()).is_ok()
        });
        if passed {
            rollout.row.phase = Phase::Rolling;
            self.record_rollout(id);
        }
        passed
    }

    fn step_rolling(&mut self, id: &str) -> bool {
        let lacking = self.lacking(id);
        let Some(rollout) = self.rollouts.get(id) else {
            return false;
        };
        let under_way = self.under_way(&rollout.row).len();
        let most = usize::try_from(rollout.row.rules.at_once).unwrap_or(usize::MAX);
        let free = most.saturating_sub(under_way);
        if lacking.is_empty() && under_way == 0 {
            if let Some(rollout) = self.rollouts.get_mut(id) {
                end(rollout, Phase::Done, "");
            }
            self.record_rollout(id);
            return true;
        }
        self.send_to(id, lacking.into_iter().take(free).collect());
        false
    }

    /// Connected workers that are at it.
    pub(crate) fn under_way(&self, row: &RolloutRow) -> Vec<String> {
        let at_it = |worker: &str| {
            let share = row.shares.get(worker);
            share.is_some_and(|share| share.meaning() != Meaning::Serves)
        };
        self.sessions
            .values()
            .filter(|session| at_it(&session.worker))
            .map(|session| session.worker.clone())
            .collect()
    }

    /// Connected workers that are to be sent the update now, the earliest first.
    fn lacking(&self, id: &str) -> Vec<String> {
        let Some(rollout) = self.rollouts.get(id) else {
            return Vec::new();
        };
        let retry = i64::try_from(self.timing.retry.as_millis()).unwrap_or(i64::MAX);
        self.sessions
            .iter()
            .filter(|(_, session)| session.takes_updates())
            .filter(
                |(no, session)| match rollout.row.shares.get(&session.worker) {
                    None => true,
                    Some(share) => match share.meaning() {
                        // Sent into a session that is over, so that nobody knows whether it arrived.
                        Meaning::UnderWay => share.session != Some(**no),
                        Meaning::Again => now_ms() - share.at >= retry,
                        Meaning::Serves | Meaning::Failed => false,
                    },
                },
            )
            .map(|(_, session)| session.worker.clone())
            .collect()
    }

    /// Sends it to workers; those that run it already only get their place in the table.
    fn send_to(&mut self, id: &str, workers: Vec<String>) {
        for worker in workers {
            let (Some(no), Some(rollout)) = (self.session_of(&worker), self.rollouts.get_mut(id))
            else {
                continue;
            };
            let Some(session) = self.sessions.get(&no) else {
                continue;
            };
            let row = &mut rollout.row;
            let before = row.shares.get(&worker);
            let again = before.is_some_and(|share| share.meaning() == Meaning::Again);
            let tries = before.map_or(0, |share| share.tries) + u32::from(again);
            if let Some(serves) = session.serves(&row.digest) {
                let mut share = Share::default();
                share.tell(&serves.state, "it served there already", now_ms());
                share.left(serves.jobs_left);
                row.shares.insert(worker, share);
            } else {
                let update = PluginUpdate {
                    update_id: row.id.clone(),
                    name: row.name.clone(),
                    version: row.version.clone(),
                    digest: row.digest.clone(),
                    size: row.size,
                    url: format!("/graphics/api/workers/{worker}/plugins/{}", row.digest),
                    signature: row.signature.clone(),
                };
                session
                    .out
                    .frame(ServerFrame::PluginUpdate(update.to_text()));
                tracing::info!(
                    worker,
                    plugin = row.name,
                    digest = row.digest,
                    rollout = id,
                    "plugin pushed"
                );
                let share = row.shares.entry(worker).or_default();
                share.send(now_ms(), no);
                share.tries = tries;
            }
            self.record_rollout(id);
        }
    }

    /// The worker to begin with: the operator's; else, of the connected ones that have the plugin, the one that finished a job
    /// last, because it will soon do another; else the one that has been connected for longest. One that lacks the new version
    /// goes before one that runs it.
    fn choose_canary(&self, row: &RolloutRow) -> Option<String> {
        if let Some(wanted) = &row.rules.canary {
            return Some(wanted.clone());
        }
        let able = self
            .sessions
            .iter()
            .filter(|(_, session)| session.takes_updates());
        let best = able.max_by_key(|(no, session)| {
            let mut plugins = session.capabilities.plugins.iter();
            (
                session.serves(&row.digest).is_none(),
                plugins.any(|one| one.name == row.name),
                session.freed,
                std::cmp::Reverse(**no),
            )
        });
        best.map(|(_, session)| session.worker.clone())
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
                end(rollout, Phase::Stopped, "its canary was deleted");
            } else if !had {
                continue;
            }
            self.record_rollout(&id);
        }
        self.advance();
    }
}

fn end(rollout: &mut Rollout, phase: Phase, reason: &str) {
    rollout.row.phase = phase;
    rollout.row.reason = reason.to_owned();
    rollout.row.ended_at = Some(now_ms());
}
