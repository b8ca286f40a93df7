//! How jobs end, for whoever decides whether a new plugin stays.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use worker_plugins::{CallError, Engine, Generation};

/// How a job, or the routing of an offer, ended.
#[derive(Clone, Debug)]
pub enum JobEnd {
    /// There is a product.
    Done,
    /// The engine, or a finisher, said that it cannot be done.
    Failed {
        /// Its words.
        message: String,
    },
    /// A call of a plugin gave no answer.
    Fault(CallError),
    /// A plugin wanted what no plugin may want.
    Invalid {
        /// Which plugin.
        plugin: String,
        /// What it wanted.
        what: String,
    },
    /// It was stopped, or this worker, a host or the network failed it: no plugin's fault.
    Other,
}

/// One ended job.
#[derive(Clone, Debug)]
pub struct JobReport {
    /// What served it.
    pub generation: Arc<Generation>,
    /// The engine that had it; none while it was only routed.
    pub engine: Option<Arc<Engine>>,
    /// Programs of that engine and their digests.
    pub programs: Vec<(String, String)>,
    /// How it ended.
    pub end: JobEnd,
    /// Whether it could begin anew: no program, call or request was started, and the session lives.
    pub untouched: bool,
}

/// What a witness answers: the plugins to run the job on once more, where that is worth it.
pub type Again = Pin<Box<dyn Future<Output = Option<Arc<Generation>>> + Send>>;

/// Hears of each job's end before its result is handed over.
pub trait Witness: Send + Sync {
    /// A job has ended.
    fn ended(&self, report: JobReport) -> Again;
}

/// Nobody watches.
#[derive(Clone, Copy, Debug)]
pub struct NoWitness;

impl Witness for NoWitness {
    fn ended(&self, _: JobReport) -> Again {
        Box::pin(std::future::ready(None))
    }
}
