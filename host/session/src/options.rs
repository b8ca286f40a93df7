//! What a session is started with.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use worker_wire::ApiBase;

use crate::{IdentityStore, LogShipper, States, Transport, WorkerSide};

/// Everything that [`crate::run`] needs.
#[derive(Clone)]
pub struct SessionOptions {
    /// Where the studio is.
    pub base: ApiBase,
    /// Where the worker's identity is kept.
    pub identity: Arc<dyn IdentityStore>,
    /// The worker behind the session.
    pub worker: Arc<dyn WorkerSide>,
    /// Lines for the studio's operators.
    pub log: LogShipper,
    /// Where the session tells how it stands.
    pub states: States,
    /// HTTP and TLS clients.
    pub transport: Transport,
    /// Failed connections in a row before giving up; `None` means never.
    pub reconnect_attempts: Option<NonZeroU32>,
    /// Periods and limits.
    pub timing: Timing,
    /// Version of the worker; registration says `studio-worker/<version>`.
    pub agent_version: String,
}

/// Every period and limit of a session. The defaults are the protocol's; tests shorten them.
#[derive(Clone, Debug)]
pub struct Timing {
    /// Name lookup, TCP, TLS and upgrade together, 15 s. Longer leaves a worker hanging on a dead address; shorter
    /// fails over slow links.
    pub connect: Duration,
    /// Between heartbeats, 5 s. A studio calls a worker offline after 10 s and drops it after 30 s.
    pub heartbeat: Duration,
    /// Between log batches, 1 s. Longer makes the studio's view lag; shorter makes more and smaller frames.
    pub log_flush: Duration,
    /// Without a frame from the studio, 20 s. Shorter than a few heartbeats would cut healthy sessions; longer keeps a
    /// half-open socket alive.
    pub read_idle: Duration,
    /// For the socket to take what is written, 30 s. Longer is pointless, since no heartbeat gets through meanwhile;
    /// shorter breaks large results over slow links.
    pub write: Duration,
    /// For the last frames and the close, 5 s. Longer delays a stop when the studio hangs.
    pub close: Duration,
    /// For the studio to answer a close, within `close`, 1 s. Without it, frames that the studio has not read yet could
    /// be lost to a reset.
    pub linger: Duration,
    /// For the worker to decide about one offer, 20 s. Longer blocks the offers behind it; shorter gives up on a
    /// machine that is merely slow.
    pub decision: Duration,
    /// Between registration requests, 30 s. A studio allows ten a minute from one address.
    pub poll: Duration,
    /// Pause after the first failed connection, 1 s; it doubles with each further one.
    pub backoff_first: Duration,
    /// Longest pause, 30 s. Longer makes a worker slow to come back; shorter hammers a studio that is down.
    pub backoff_cap: Duration,
    /// Pause after another process took this worker's place, 60 s. Shorter makes two instances push each other out
    /// over and over.
    pub duplicate: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            heartbeat: Duration::from_secs(5),
            log_flush: Duration::from_secs(1),
            read_idle: Duration::from_secs(20),
            write: Duration::from_secs(30),
            close: Duration::from_secs(5),
            linger: Duration::from_secs(1),
            decision: Duration::from_secs(20),
            poll: Duration::from_secs(30),
            backoff_first: Duration::from_secs(1),
            backoff_cap: Duration::from_secs(30),
            duplicate: Duration::from_secs(60),
        }
    }
}
