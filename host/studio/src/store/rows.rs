//! What is kept of a job, a worker and a registration request.

use serde::{Deserialize, Serialize};
use worker_wire::{Capabilities, ServedBy};

use crate::core::RolloutRow;

/// A job as it is kept. Times are milliseconds since the Unix epoch.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct JobRow {
    pub(crate) id: String,
    /// Order in the queue; never reused.
    pub(crate) seq: i64,
    /// `queued`, `running`, `done`, `failed` or `cancelled`.
    pub(crate) state: String,
    pub(crate) kind: Option<String>,
    pub(crate) engine: Option<String>,
    pub(crate) model: String,
    pub(crate) vram_gb: f32,
    pub(crate) prompt: String,
    pub(crate) attempts: u32,
    /// Who has it, or had it last.
    pub(crate) worker: Option<String>,
    /// Whether that worker speaks `resume`.
    pub(crate) resumable: bool,
    /// Which plugins of that worker have it, where it said so.
    pub(crate) served_by: Option<ServedBy>,
    pub(crate) error: Option<String>,
    pub(crate) retryable: Option<bool>,
    pub(crate) reject_code: Option<String>,
    pub(crate) reject_reason: Option<String>,
    pub(crate) ext: Option<String>,
    pub(crate) media_type: Option<String>,
    pub(crate) result_bytes: Option<u64>,
    pub(crate) queued_at: i64,
    pub(crate) started_at: Option<i64>,
    pub(crate) finished_at: Option<i64>,
}

/// An approved worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WorkerRow {
    pub(crate) id: String,
    pub(crate) install_id: String,
    /// SHA-256 of its token in hex; none until it has polled.
    pub(crate) token_hash: Option<String>,
    /// As it last described itself.
    pub(crate) capabilities: Capabilities,
    pub(crate) approved_at: i64,
}

/// A registration request, until its worker stops asking.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RequestRow {
    pub(crate) id: String,
    pub(crate) install_id: String,
    /// SHA-256 of the worker's registration secret, in hex.
    pub(crate) secret_hash: String,
    /// Address it came from.
    pub(crate) address: String,
    pub(crate) capabilities: Capabilities,
    pub(crate) user_agent: String,
    pub(crate) created_at: i64,
    /// The worker it became, when approved.
    pub(crate) worker: Option<String>,
    /// The operator's reason, when rejected.
    pub(crate) rejected: Option<String>,
}

/// What the last run left.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// In queue order, with the claim.
    pub(crate) jobs: Vec<(JobRow, String)>,
    pub(crate) workers: Vec<WorkerRow>,
    /// Oldest first.
    pub(crate) requests: Vec<RequestRow>,
    pub(crate) rollouts: Vec<RolloutRow>,
}
