//! Roll-outs: who gets a pushed plugin when.
//!
//! Nothing here waits. Whatever may move a roll-out on (a status, a heartbeat, a worker that comes or goes, the alarm) calls
//! [`Core::advance`], which looks at the whole of it and does what can be done now.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use worker_wire::{PluginUpdate, ServerFrame};

use super::rollout::{Phase, RolloutRow};
use super::session::Session;
use super::share::{GONE, Meaning, Share};
use super::{Core, now_ms};

impl Core {
    /// Moves every roll-out on as far as it goes now.
    pub(crate) fn advance(&mut self) {
        let current: Vec<String> = self
            .rollouts
            .values()
            .filter(|one| self.is_current(&one.row))
            .map(|one| one.row.id.clone())
            .collect();
        for id in current {
            // Each step leads to a later phase, or takes one more worker out of those that can be the canary, so this ends.
            while self.step(&id) {}
        }
    }

    /// One step. Whether there may be another.
    fn step(&mut self, id: &str) -> bool {
        let Some(rollout) = self.rollouts.get(id) else {
            return false;
        };
        let phase = rollout.row.phase;
        if phase.runs() {
            self.look(id);
            if let Some(why) = self.failed(id) {
                self.stop_rollout(id, &why);
                return false;
            }
        }
        match phase {
            Phase::Canary => self.step_canary(id),
            Phase::Rolling => self.step_rolling(id),
            Phase::Done => {
                // Proven where it was: one that comes late ends well or badly for itself.
                let late = self.lacking(id);
                self.send_to(id, late);
                false
            }
            Phase::Stopped | Phase::Cancelled => false,
        }
    }

    fn failed(&self, id: &str) -> Option<String> {
        self.rollouts.get(id)?.row.first(Meaning::Failed)
    }

    fn stop_rollout(&mut self, id: &str, why: &str) {
        if let Some(rollout) = self.rollouts.get_mut(id) {
            let plugin = &rollout.row.name;
            tracing::warn!(rollout = id, plugin, "the roll-out is stopped: {why}");
            rollout.end(Phase::Stopped, why, now_ms());
        }
        self.record_rollout(id);
    }

    /// Notes of each worker whether it is there and says that the version serves. One that has been away for too long since its
    /// first jobs on the version is told as gone.
    fn look(&mut self, id: &str) {
        let (limit, now) = (self.timing.gone, now_ms());
        let Some(rollout) = self.rollouts.get_mut(id) else {
            return;
        };
        let row = &mut rollout.row;
        let there: HashMap<&str, (u64, &Session)> = self
            .sessions
            .iter()
            .map(|(no, session)| (session.worker.as_str(), (*no, session)))
            .collect();
        let mut news = false;
        for (worker, share) in &mut row.shares {
            let session = there.get(worker.as_str());
            share.seen(session.map(|(no, session)| (*no, session.says_it_serves(&row.digest))));
            let long = share.away.is_some_and(|since| since.elapsed() >= limit);
            if share.is_missed() && long {
                let told = format!("not heard of for {} since it serves there", seconds(limit));
                news |= share.tell(GONE, &told, now);
            }
        }
        if news {
            self.record_rollout(id);
        }
    }

    fn step_canary(&mut self, id: &str) -> bool {
        let Some(rollout) = self.rollouts.get(id) else {
            return false;
        };
        let row = &rollout.row;
        let before = row.canary.clone().filter(|one| row.may_begin_with(one));
        let Some(canary) = before.or_else(|| self.choose_canary(row)) else {
            return self.without_canary(id);
        };
        if row.canary.as_ref() != Some(&canary) {
            if let Some(rollout) = self.rollouts.get_mut(id) {
                rollout.row.canary = Some(canary.clone());
                rollout.without = None;
            }
            self.record_rollout(id);
        }
        if !self.takes_updates(&canary) {
            return self.canary_is_away(id, &canary);
        }
        if self.lacking(id).contains(&canary) {
            self.send_to(id, vec![canary.clone()]);
            self.look(id);
        }
        let Some(rollout) = self.rollouts.get_mut(id) else {
            return false;
        };
        rollout.without = None;
        let share = rollout.row.shares.get(&canary);
        let passed =
            share.is_some_and(|share| share.passed(&rollout.row.rules, share.soaked()).is_ok());
        if passed {
            rollout.row.phase = Phase::Rolling;
            rollout.row.passed = true;
            self.record_rollout(id);
        }
        passed
    }

    /// Nobody can be the canary. Whether there may be another step.
    fn without_canary(&mut self, id: &str) -> bool {
        let limit = self.timing.gone;
        let Some(rollout) = self.rollouts.get_mut(id) else {
            return false;
        };
        let row = &rollout.row;
        let out = row.first(Meaning::Declined);
        let Some(out) = out.or_else(|| row.first(Meaning::Gone)) else {
            // The first worker that comes is the canary.
            return false;
        };
        let since = *rollout.without.get_or_insert_with(Instant::now);
        let there: HashSet<&str> = self.sessions.values().map(|s| s.worker.as_str()).collect();
        let open = |share: &Share| share.meaning() == Meaning::Gone;
        let may_come =
            |id: &String| row.shares.get(id).is_none_or(open) && !there.contains(id.as_str());
        if since.elapsed() < limit && self.workers.keys().any(may_come) {
            return false;
        }
        self.stop_rollout(id, &format!("no worker takes it: {out}"));
        false
    }

    /// The canary is not there, or cannot be sent plugins. Whether there may be another step.
    fn canary_is_away(&mut self, id: &str, canary: &str) -> bool {
        let limit = self.timing.gone;
        let Some(rollout) = self.rollouts.get_mut(id) else {
            return false;
        };
        let row = &mut rollout.row;
        let since = *rollout.without.get_or_insert_with(Instant::now);
        let share = row.shares.get(canary);
        if share.is_some_and(|share| share.meaning() == Meaning::Serves) {
            // Trusted there already; or told as gone in time, which stops it.
            let passed = share.is_some_and(|share| share.passed(&row.rules, None).is_ok());
            if passed {
                row.phase = Phase::Rolling;
                row.passed = true;
                self.record_rollout(id);
            }
            return passed;
        }
        if since.elapsed() < limit {
            return false;
        }
        if row.rules.canary.as_deref() == Some(canary) {
            // Whoever named it wants no other worker to be the first.
            let why = format!("its canary {canary} did not come for {}", seconds(limit));
            self.stop_rollout(id, &why);
            return false;
        }
        let told = format!("not heard of for {}", seconds(limit));
        let share = row.shares.entry(canary.to_owned()).or_default();
        share.tell(GONE, &told, now_ms());
        rollout.without = None;
        self.record_rollout(id);
        true
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
                rollout.end(Phase::Done, "", now_ms());
            }
            self.record_rollout(id);
            return true;
        }
        self.send_to(id, lacking.into_iter().take(free).collect());
        false
    }

    /// Workers that are at it, and those that went away while their first jobs on it were watched.
    pub(crate) fn under_way(&self, row: &RolloutRow) -> Vec<String> {
        let there: HashSet<&str> = self.sessions.values().map(|s| s.worker.as_str()).collect();
        let at_it = |worker: &str, share: &Share| match share.meaning() {
            Meaning::UnderWay | Meaning::Again => there.contains(worker),
            Meaning::Serves => share.is_missed(),
            Meaning::Declined | Meaning::Gone | Meaning::Failed => false,
        };
        let shares = row.shares.iter();
        shares
            .filter(|(worker, share)| at_it(worker, share))
            .map(|(worker, _)| worker.clone())
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
                        // It is here again.
                        Meaning::Gone => true,
                        Meaning::Serves | Meaning::Declined | Meaning::Failed => false,
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
    /// goes before one that runs it, and one that did not take it is not asked again.
    fn choose_canary(&self, row: &RolloutRow) -> Option<String> {
        let wanted = row.rules.canary.as_ref();
        if let Some(wanted) = wanted.filter(|wanted| row.may_begin_with(wanted)) {
            return Some(wanted.clone());
        }
        let meaning = |worker: &str| row.shares.get(worker).map(Share::meaning);
        let able = self.sessions.iter().filter(|(_, session)| {
            let out = [Some(Meaning::Declined), Some(Meaning::Failed)];
            session.takes_updates() && !out.contains(&meaning(&session.worker))
        });
        let best = able.max_by_key(|(no, session)| {
            let mut plugins = session.capabilities.plugins.iter();
            (
                meaning(&session.worker) != Some(Meaning::Gone),
                session.serves(&row.digest).is_none(),
                plugins.any(|one| one.name == row.name),
                session.freed,
                std::cmp::Reverse(**no),
            )
        });
        best.map(|(_, session)| session.worker.clone())
    }

    fn takes_updates(&self, worker: &str) -> bool {
        let session = self.session_of(worker);
        let session = session.and_then(|no| self.sessions.get(&no));
        session.is_some_and(Session::takes_updates)
    }
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs())
}
