//! What stands behind a session.

use worker_wire::{Capabilities, Claim, JobId, PluginUpdate, StudioLink, UpdateError};

pub use futures_util::future::BoxFuture;

/// What the worker makes of an offer.
pub enum Answer {
    /// Taken. The session queues `accept` and then calls the closure, which must not block; frames that it sends arrive
    /// after the `accept`. When the session ends first, the closure is dropped uncalled, and dropping it must give the
    /// job's place free again.
    Accepted(Box<dyn FnOnce() + Send>),
    /// Not taken.
    Rejected {
        /// For studios that match codes.
        code: String,
        /// For people, and for studios that match its text.
        reason: String,
    },
}

/// The worker behind a session. Its methods are called from the task that serves the session: they return at once, and
/// take long work elsewhere.
pub trait WorkerSide: Send + Sync + 'static {
    /// What the worker serves at this moment, asked for every `hello` and every heartbeat. `auto_enabled` says whether
    /// offers are welcome.
    fn capabilities(&self) -> Capabilities;

    /// The job in hand, for heartbeats.
    fn current_job(&self) -> Option<String>;

    /// A session is open. `link` sends into it and ends with it.
    fn welcomed(&self, link: StudioLink);

    /// Decides about an offer. Offers are decided one after another, in the order they came. The future is dropped
    /// when the session ends or the decision takes longer than [`crate::Timing::decision`].
    fn offer(&self, claim: Claim, link: StudioLink) -> BoxFuture<'static, Answer>;

    /// The studio wants a job stopped. A cancel that arrives while its offer is being decided comes right after the
    /// job has started.
    fn cancel(&self, job: &JobId);

    /// The studio wants a plugin to be run, or said something that is no such wish.
    fn plugin_update(&self, update: Result<PluginUpdate, UpdateError>);

    /// The studio has a job's JSON result.
    fn complete_ack(&self, job: &str);

    /// The studio has a job's failure.
    fn fail_ack(&self, job: &str);

    /// The session is over; called exactly once for each [`WorkerSide::welcomed`], after its link has ended.
    fn ended(&self);
}
