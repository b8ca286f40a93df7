//! The commands as they are meant: everything optional decided, everything that belongs together in one value.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::Value;
use worker_wire::{ApiBase, JobId};

use super::pushing::Pushing;

/// One call of the program.
#[derive(Debug)]
pub(crate) struct Invocation {
    /// Configuration file, where one was named.
    pub(crate) config: Option<PathBuf>,
    pub(crate) command: Command,
}

#[derive(Debug)]
pub(crate) enum Command {
    Run {
        plugins: Option<PathBuf>,
    },
    Studio {
        listen: Option<SocketAddr>,
        plugins: Option<PathBuf>,
        approval: Approval,
    },
    Pushing(Pushing),
    Submit(Submission),
    Cancel {
        job: JobId,
    },
    Workers {
        action: Workers,
        json: bool,
    },
    Results {
        action: Results,
        json: bool,
    },
    Models {
        action: Models,
        json: bool,
    },
    Pause,
    Resume,
    Register(Registration),
    Status {
        json: bool,
    },
    Config {
        json: bool,
    },
    SetThreshold {
        gigabytes: f64,
    },
    Plugin(Plugins),
    Programs {
        /// Digest of an archive to trust; none lists them.
        accept: Option<String>,
        json: bool,
    },
    Doctor {
        plugins: Option<PathBuf>,
        json: bool,
    },
    Plan {
        offer: PathBuf,
        plugins: Option<PathBuf>,
        json: bool,
    },
}

/// Who may register at a studio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Approval {
    /// Every worker on this machine; others wait.
    Automatic,
    /// Those that its operator approves.
    Manual,
}

/// A job to queue.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) work: Work,
    /// Where the result goes.
    pub(crate) output: Option<PathBuf>,
    pub(crate) json: bool,
    /// Whether to stay until the job has ended.
    pub(crate) wait: bool,
}

/// What a job is made of.
#[derive(Debug, PartialEq)]
pub(crate) enum Work {
    /// An engine composes the task.
    Compose {
        kind: String,
        text: String,
        model: Option<String>,
        /// Fields of the task, in the order given.
        settings: Vec<(String, Value)>,
        model_source: Option<PathBuf>,
        /// GPU memory that the job takes, in GiB; none: as far as the sizes of its model's files tell.
        vram_gb: Option<f32>,
    },
    /// A file with a claim, sent as it is.
    Offer(PathBuf),
}

/// What to do about the workers of a studio. The ids have a shape that can stand in a URL.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Workers {
    List,
    Approve(JobId),
    Reject { request: JobId, reason: String },
    Remove(JobId),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Results {
    List,
    Show {
        wanted: String,
        output: Option<PathBuf>,
    },
    Remove {
        wanted: String,
    },
    RemoveAll,
}

/// What to do about the model cache.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Models {
    List,
    Verify {
        wanted: Vec<String>,
    },
    Remove {
        wanted: String,
    },
    /// `limit` in bytes; none: the budget.
    Gc {
        limit: Option<u64>,
    },
    Pin {
        wanted: String,
        pinned: bool,
    },
    Pull {
        offer: PathBuf,
        plugins: Option<PathBuf>,
    },
}

#[derive(Debug)]
pub(crate) struct Registration {
    pub(crate) studio: Option<ApiBase>,
    pub(crate) reset: bool,
}

#[derive(Debug)]
pub(crate) enum Plugins {
    List {
        folder: Option<PathBuf>,
        json: bool,
    },
    Inspect {
        file: PathBuf,
        json: bool,
    },
    Validate {
        files: Vec<PathBuf>,
        json: bool,
    },
    Add {
        from: Source,
    },
    /// `remove`, `rollback`, `pin` or `unpin`, by the name that the local API has for it.
    Act {
        action: &'static str,
        name: String,
    },
    Grant {
        name: String,
        /// What was looked at; none takes what waits.
        digest: Option<String>,
        json: bool,
    },
    /// Lift a quarantine.
    Forgive {
        /// All of the digest, or its first digits.
        digest: String,
    },
    Keygen {
        secret: PathBuf,
        public: PathBuf,
        password: Password,
    },
    Sign {
        files: Vec<PathBuf>,
        secret: PathBuf,
        password: Password,
        /// Digest of the version that is to be replaced whatever its number.
        replaces: Option<String>,
    },
    Verify {
        file: PathBuf,
        key_files: Vec<PathBuf>,
        keys: Vec<String>,
        signature: Option<PathBuf>,
        json: bool,
    },
    History {
        name: Option<String>,
        json: bool,
    },
    Diff {
        old: PathBuf,
        new: PathBuf,
        json: bool,
    },
    Replay {
        job: String,
        with: Option<PathBuf>,
        json: bool,
    },
}

/// Where a plugin is to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A file of this machine.
    File(PathBuf),
    /// `https://…` or `oci://…`.
    Address(String),
}

/// Where the password of a secret key comes from. Never from the command line, which every user of a machine can read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Password {
    /// Whoever sits there is asked.
    Asked,
    /// The first line of a file.
    File(PathBuf),
    /// There is to be none.
    None,
}
