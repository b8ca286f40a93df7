//! What the studio says of its roll-outs.

use serde::Serialize;
use worker_wire::Extension;

use super::Core;
use super::rollout::{Phase, RolloutRow, Rules};
use super::share::{Meaning, Share, Told};
use super::status::stamp;

/// One roll-out, for people and scripts.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RolloutStatus {
    update_id: String,
    /// Number of the last change.
    change: u64,
    name: String,
    version: String,
    digest: String,
    size: u64,
    state: Phase,
    reason: String,
    waiting: Option<String>,
    canary: Option<String>,
    rules: Rules,
    created_at: String,
    ended_at: Option<String>,
    workers: Vec<ShareStatus>,
}

/// One worker's part.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ShareStatus {
    worker_id: String,
    machine_name: String,
    connected: bool,
    /// `not-sent` and `no-extension` are the studio's own words.
    state: String,
    /// What that means for the roll-out.
    #[serde(skip_serializing_if = "Option::is_none")]
    meaning: Option<Meaning>,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jobs_left: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    story: Vec<StoryLine>,
}

#[derive(Clone, Debug, Serialize)]
struct StoryLine {
    at: String,
    state: String,
    reason: String,
}

impl Core {
    /// What is said of one roll-out.
    pub(crate) fn rollout_status(&self, id: &str) -> Option<RolloutStatus> {
        let rollout = self.rollouts.get(id)?;
        let row = &rollout.row;
        let mut ids: Vec<&String> = row.shares.keys().chain(self.workers.keys()).collect();
        ids.sort();
        ids.dedup();
        Some(RolloutStatus {
            update_id: row.id.clone(),
            change: rollout.version(),
            name: row.name.clone(),
            version: row.version.clone(),
            digest: row.digest.clone(),
            size: row.size,
            state: row.phase,
            reason: row.reason.clone(),
            waiting: self.rollout_waits(row),
            canary: row.canary.clone(),
            rules: row.rules.clone(),
            created_at: stamp(row.created_at),
            ended_at: row.ended_at.map(stamp),
            workers: ids
                .into_iter()
                .map(|worker| self.share_status(row, worker))
                .collect(),
        })
    }

    /// All of them, the newest first.
    pub(crate) fn rollout_statuses(&self) -> Vec<RolloutStatus> {
        let mut rows: Vec<&RolloutRow> = self.rollouts.values().map(|one| &one.row).collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.seq));
        rows.into_iter()
            .filter_map(|row| self.rollout_status(&row.id))
            .collect()
    }

    /// Follows the changes of one.
    pub(crate) fn watch_rollout(&self, id: &str) -> Option<tokio::sync::watch::Receiver<u64>> {
        self.rollouts.get(id).map(super::rollout::Rollout::watch)
    }

    fn share_status(&self, row: &RolloutRow, worker: &str) -> ShareStatus {
        let session = self
            .session_of(worker)
            .and_then(|no| self.sessions.get(&no));
        let known = self.workers.get(worker);
        let share = row.shares.get(worker);
        let state = match (share, session) {
            (Some(share), _) => share.state.clone(),
            (None, Some(session)) if !session.takes_updates() => "no-extension".to_owned(),
            (None, _) => "not-sent".to_owned(),
        };
        let line = |told: &Told| StoryLine {
            at: stamp(told.at),
            state: told.state.clone(),
            reason: told.reason.clone(),
        };
        ShareStatus {
            worker_id: worker.to_owned(),
            machine_name: known
                .map_or_else(String::new, |known| known.capabilities.machine_name.clone()),
            connected: session.is_some(),
            state,
            meaning: share.map(Share::meaning),
            reason: share.map_or_else(String::new, |share| share.reason.clone()),
            rule: share.and_then(|share| share.rule.clone()),
            jobs_left: share.and_then(|share| share.jobs_left),
            since: share.map(|share| stamp(share.at)),
            story: share.map_or_else(Vec::new, |share| share.story.iter().map(line).collect()),
        }
    }

    /// What a roll-out that is under way waits for.
    fn rollout_waits(&self, row: &RolloutRow) -> Option<String> {
        match row.phase {
            Phase::Canary => Some(self.canary_waits(row)),
            Phase::Rolling => {
                let under_way = self.under_way(row);
                Some(match under_way.len() {
                    0 => "the next workers".to_owned(),
                    _ => format!("{} to have taken it in", under_way.join(", ")),
                })
            }
            Phase::Done | Phase::Stopped | Phase::Cancelled => None,
        }
    }

    fn canary_waits(&self, row: &RolloutRow) -> String {
        let canary = row.canary.as_ref();
        let Some(canary) = canary.filter(|canary| row.may_begin_with(canary)) else {
            return self.no_canary(row);
        };
        let session = self
            .session_of(canary)
            .and_then(|no| self.sessions.get(&no));
        let share = row.shares.get(canary);
        let state = match share {
            Some(share) => match share.passed(&row.rules, share.soaked()) {
                Ok(()) => "has passed".to_owned(),
                Err(waits) => waits,
            },
            None => "has not got it yet".to_owned(),
        };
        let away = match session {
            None => self.until_gone(row, canary, "is not connected"),
            Some(session) if !session.takes_updates() => {
                self.until_gone(row, canary, "does not take updates")
            }
            Some(_) => String::new(),
        };
        let on_probation = |share: &Share| share.meaning() == Meaning::Serves;
        let idle = match share.is_some_and(on_probation) && row.rules.soak_seconds.is_none() {
            true => "; an idle canary waits for jobs (--soak and --canary-jobs let it pass sooner)",
            false => "",
        };
        format!("the canary {canary}, which {state}{away}{idle}")
    }

    /// That the canary is away, and what comes of it.
    fn until_gone(&self, row: &RolloutRow, canary: &str, how: &str) -> String {
        let served = row.shares.get(canary).is_some_and(|share| share.served);
        let next = match served || row.rules.canary.as_deref() == Some(canary) {
            true => "the roll-out stops",
            false => "another one is the canary",
        };
        let limit = self.timing.gone.as_secs();
        format!("; it {how}, and where that lasts for {limit} s {next}")
    }

    /// What is waited for while nobody can be the canary.
    fn no_canary(&self, row: &RolloutRow) -> String {
        let listed = [Extension::PluginUpdate, Extension::PluginStatus].map(Extension::as_wire);
        let able = format!("a worker that lists `{}`", listed.join("` and `"));
        let out = row.first(Meaning::Declined);
        match out.or_else(|| row.first(Meaning::Gone)) {
            Some(out) => format!("{able} and takes it: {out}"),
            None => format!("{able}: none is connected"),
        }
    }
}
