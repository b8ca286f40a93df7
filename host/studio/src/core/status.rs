//! What the studio says of its jobs and workers.

use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;
use worker_wire::{Capabilities, JobId, PluginStatus, ServedBy};

use super::job::Progress;
use super::{Core, Job, Rejected};

/// Characters of prompt that a list shows. The whole is in the job itself.
const PREVIEW: usize = 200;

/// One job, for people and scripts.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JobStatus {
    job_id: String,
    version: u64,
    state: &'static str,
    kind: Option<String>,
    engine: Option<String>,
    model: String,
    /// What its claim says that it takes of a GPU's memory, in GiB; 0 where that is not known.
    vram_gb_estimate: f32,
    prompt: String,
    progress: Option<Progress>,
    attempts: u32,
    cancelling: bool,
    waiting: Option<String>,
    error: Option<String>,
    retryable: Option<bool>,
    last_reject: Option<Rejected>,
    ext: Option<String>,
    media_type: Option<String>,
    result_bytes: Option<u64>,
    worker: Option<String>,
    served_by: Option<ServedBy>,
    queued_at: String,
    started_at: Option<String>,
    finished_at: Option<String>,
}

/// One approved worker.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WorkerView {
    worker_id: String,
    install_id: String,
    connected: bool,
    current_job_id: Option<String>,
    last_heartbeat_at: Option<String>,
    approved_at: String,
    /// The last that it said of each plugin in this session.
    plugin_status: Vec<PluginStatus>,
    capabilities: Capabilities,
}

/// One registration request that waits for an operator.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PendingView {
    request_id: String,
    install_id: String,
    address: String,
    user_agent: String,
    created_at: String,
    capabilities: Capabilities,
}

impl Core {
    /// A job, to be looked at.
    pub(crate) fn job(&self, id: &JobId) -> Option<&Job> {
        self.jobs.get(id)
    }

    /// The engine that a job's claim names, and its model.
    pub(crate) fn meant_for(&self, id: &JobId) -> Option<(Option<String>, String)> {
        let row = &self.job(id)?.row;
        Some((row.engine.clone(), row.model.clone()))
    }

    /// What the studio says of one job.
    pub(crate) fn status(&self, id: &JobId) -> Option<JobStatus> {
        self.jobs.get(id).map(|job| self.status_of(job))
    }

    /// The newest jobs first, at most `limit`, in one state or in any.
    pub(crate) fn statuses(&self, state: Option<&str>, limit: usize) -> Vec<JobStatus> {
        let mut jobs: Vec<&Job> = self
            .jobs
            .values()
            .filter(|job| state.is_none_or(|state| job.shown_state() == state))
            .collect();
        jobs.sort_by_key(|job| std::cmp::Reverse(job.row.seq));
        jobs.truncate(limit);
        let preview = |job| {
            let mut status = self.status_of(job);
            if let Some((end, _)) = status.prompt.char_indices().nth(PREVIEW) {
                status.prompt.truncate(end);
            }
            status
        };
        jobs.into_iter().map(preview).collect()
    }

    fn status_of(&self, job: &Job) -> JobStatus {
        let row = &job.row;
        // Of an end that is not recorded yet nothing is shown.
        let shown = !job.recording;
        let ended = job.is_finished() && shown;
        JobStatus {
            job_id: row.id.clone(),
            version: job.version(),
            state: job.shown_state(),
            kind: row.kind.clone(),
            engine: row.engine.clone(),
            model: row.model.clone(),
            vram_gb_estimate: row.vram_gb,
            prompt: row.prompt.clone(),
            progress: job.progress.clone(),
            attempts: row.attempts,
            cancelling: job.cancelled_at.is_some() && !ended,
            waiting: self.waiting_for(job),
            error: row.error.clone().filter(|_| shown),
            retryable: row.retryable.filter(|_| shown),
            last_reject: job.last_reject(),
            ext: row.ext.clone().filter(|_| shown),
            media_type: row.media_type.clone().filter(|_| shown),
            result_bytes: row.result_bytes.filter(|_| shown),
            worker: row.worker.clone(),
            served_by: row.served_by.clone(),
            queued_at: stamp(row.queued_at),
            started_at: row.started_at.map(stamp),
            finished_at: row.finished_at.filter(|_| shown).map(stamp),
        }
    }

    /// Every approved worker.
    pub(crate) fn workers(&self) -> Vec<WorkerView> {
        let mut views: Vec<WorkerView> = self
            .workers
            .values()
            .map(|row| {
                let session = self
                    .session_of(&row.id)
                    .and_then(|no| self.sessions.get(&no));
                WorkerView {
                    worker_id: row.id.clone(),
                    install_id: row.install_id.clone(),
                    connected: session.is_some(),
                    current_job_id: session
                        .and_then(|session| session.job.as_ref())
                        .map(ToString::to_string),
                    last_heartbeat_at: session.and_then(|s| s.beat_at).map(stamp),
                    approved_at: stamp(row.approved_at),
                    plugin_status: session
                        .map(|session| session.plugins_told.values().cloned().collect())
                        .unwrap_or_default(),
                    capabilities: session
                        .map_or_else(|| row.capabilities.clone(), |s| s.capabilities.clone()),
                }
            })
            .collect();
        views.sort_by(|a, b| a.worker_id.cmp(&b.worker_id));
        views
    }

    /// Every request that waits for an operator, oldest first.
    pub(crate) fn pending(&self) -> Vec<PendingView> {
        let mut rows: Vec<_> = self
            .requests
            .values()
            .filter(|row| row.worker.is_none() && row.rejected.is_none())
            .collect();
        rows.sort_by_key(|row| row.created_at);
        rows.into_iter()
            .map(|row| PendingView {
                request_id: row.id.clone(),
                install_id: row.install_id.clone(),
                address: row.address.clone(),
                user_agent: row.user_agent.clone(),
                created_at: stamp(row.created_at),
                capabilities: row.capabilities.clone(),
            })
            .collect()
    }
}

pub(super) fn stamp(ms: i64) -> String {
    let age = Duration::from_millis(u64::try_from(ms).unwrap_or_default());
    worker_wire::timestamp(UNIX_EPOCH + age)
}
