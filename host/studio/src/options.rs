//! What an embedded studio is opened with, and every bound it works under.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use worker_wire::Secret;

/// Everything [`crate::Studio::open`] needs.
pub struct StudioOptions {
    /// Folder of the database and the results; made with mode 0700 when it is not there.
    pub dir: PathBuf,
    /// Bearer token of the `/api` routes.
    pub token: Secret,
    /// Who approves workers that register.
    pub approve: Approval,
    /// Bounds on what is kept and taken in.
    pub limits: Limits,
    /// Bounds on what is waited for.
    pub timing: Timing,
    /// Turns a person's words into a task.
    pub compose: Arc<dyn Compose>,
}

/// Who approves workers that register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approval {
    /// Every worker on this machine at once; others wait for an operator.
    Auto,
    /// Only the install named by [`crate::Studio::install_own_worker`], and only from this machine; others wait.
    OwnInstall,
    /// Every worker waits for an operator.
    Manual,
}

/// Bounds on what the studio keeps and takes in.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest upload of one result, in bytes. Smaller refuses long videos, larger lets one job fill the disk.
    pub upload_bytes: u64,
    /// Largest claim, in bytes. It goes out as one WebSocket frame, so more than
    /// [`worker_wire::MAX_FRAME_BYTES`] less its envelope would end the worker's session.
    pub claim_bytes: usize,
    /// Jobs that may wait or run at a time. More costs memory and a longer look at each heartbeat.
    pub queue: usize,
    /// Finished jobs that are kept, with their results. Fewer loses results that nobody has fetched yet.
    pub history: usize,
    /// Shipped log lines that are kept in memory.
    pub log_lines: usize,
    /// Attempts before a job has failed for good. More repeats work that cannot succeed.
    pub attempts: u32,
    /// Registration requests that may wait for an operator; beyond it, 429.
    pub pending: usize,
    /// Register requests that one address may send within a minute; the own worker's do not count.
    pub register_per_minute: usize,
    /// Pushed components that are kept. Fewer leaves no old one to push again.
    pub components: usize,
    /// Bytes of pushed components that are kept.
    pub component_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            upload_bytes: 4 << 30,
            claim_bytes: worker_wire::MAX_FRAME_BYTES - 4096,
            queue: 10_000,
            history: 1_000,
            log_lines: 1_000,
            attempts: 3,
            pending: 256,
            register_per_minute: 10,
            components: 64,
            component_bytes: 1 << 30,
        }
    }
}

/// Bounds on what the studio waits for.
#[derive(Clone, Debug)]
pub struct Timing {
    /// How often stale sessions and expired claims are looked for.
    pub alarm: Duration,
    /// Silence after which a session is closed and its claim released.
    pub stale: Duration,
    /// Age of the last heartbeat up to which a worker gets offers: three missed ones. Longer offers jobs to the dead.
    pub fresh: Duration,
    /// How long a dropped worker that speaks `resume` keeps its claim. Shorter renders twice, longer leaves the job of
    /// a worker that never returns lying.
    pub grace: Duration,
    /// How long such a worker may be back without naming the job before the claim is released all the same: time to
    /// begin delivering what it has on disk.
    pub settle: Duration,
    /// How long an offer may stay unanswered.
    pub answer: Duration,
    /// How long a worker may take to end a cancelled job before the job counts as cancelled without it.
    pub cancel: Duration,
    /// How long an upgraded socket may take to say `hello`.
    pub hello: Duration,
    /// Longest wait for the next bytes of an upload.
    pub stall: Duration,
    /// Longest wait for a socket to take a frame.
    pub write: Duration,
    /// How long the other side may take to answer a close. Longer only delays the end of a session's task, shorter
    /// may reset the connection before the error before the close is read.
    pub goodbye: Duration,
    /// How long a worker that could not fetch a pushed plugin is left alone before it is sent again.
    pub retry: Duration,
    /// How long a roll-out waits for a worker that is away before it counts as gone. Longer keeps a roll-out waiting for a
    /// machine that never returns; shorter stops one over a machine that starts anew.
    pub gone: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            alarm: Duration::from_secs(10),
            stale: Duration::from_secs(30),
            fresh: Duration::from_secs(15),
            grace: Duration::from_secs(60),
            settle: Duration::from_secs(8),
            answer: Duration::from_secs(15),
            cancel: Duration::from_secs(60),
            hello: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            write: Duration::from_secs(10),
            goodbye: Duration::from_secs(1),
            retry: Duration::from_secs(10),
            gone: Duration::from_secs(600),
        }
    }
}

/// What composing a task resolves to.
pub type ComposeFuture = Pin<Box<dyn Future<Output = Result<Composed, ComposeError>> + Send>>;

/// Turns a kind and a person's words into a task: the engines of the plugins that are loaded do it.
pub trait Compose: Send + Sync {
    /// Composes a task of `kind` from `text`, for `model` or the kind's first one.
    fn compose(
        &self,
        kind: String,
        text: String,
        model: Option<String>,
        options: Value,
    ) -> ComposeFuture;
}

/// A composed task, as an offer carries it.
#[derive(Clone, Debug)]
pub struct Composed {
    /// The model it is for.
    pub model: String,
    /// Memory it will need, in GiB.
    pub vram_gb_estimate: f32,
    /// The `task` object, as JSON.
    pub task: String,
    /// The `modelSource` object, as JSON.
    pub model_source: String,
}

/// Why nothing could be composed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ComposeError {
    /// No engine serves that kind.
    #[error("no engine here serves this kind; served: {}", known.join(", "))]
    UnknownKind {
        /// The kinds that are served.
        known: Vec<String>,
    },
    /// No engine serves that model.
    #[error("no engine here serves this model for this kind; served: {}", known.join(", "))]
    UnknownModel {
        /// The models that are served.
        known: Vec<String>,
    },
    /// The engine said no.
    #[error("{message}")]
    Failed {
        /// In its words.
        message: String,
    },
}
