//! Bounds of all servers.

use std::time::Duration;

/// Bounds of all servers, the same for each.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long a server is kept that nobody asks. Larger holds memory that other programs could use; smaller loads again
    /// what was loaded a moment ago.
    pub idle: Duration,
    /// From the request to end until the group is killed.
    pub grace: Duration,
    /// How long a server may take to answer that it stopped working for a cancelled job. Larger holds the slot; smaller
    /// ends servers that were about to answer, and what they had loaded with them.
    pub on_cancel: Duration,
    /// How often a server may die within `window` before it is not started any more. Larger wastes minutes of loading;
    /// smaller gives up on one that was ended once by accident.
    pub crashes: usize,
    /// See `crashes`.
    pub window: Duration,
    /// Wait before the first new start after a death; it doubles with each, up to `longest_backoff`, half of it random.
    pub backoff: Duration,
    /// See `backoff`.
    pub longest_backoff: Duration,
    /// How many calls may wait for one server. Larger lets one plugin pile up work that will be late anyway.
    pub queue: usize,
    /// Longest from the start of a server to its readiness, whatever its plugin says.
    pub longest_start: Duration,
    /// How long a server may answer nothing but 404 or 410 on its ready path before it is taken for one that has no such path.
    /// Larger keeps the job waiting for what will not come; smaller ends servers that listen first and add their paths once
    /// they have loaded.
    pub absent: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(5 * 60),
            grace: Duration::from_secs(5),
            on_cancel: Duration::from_secs(5),
            crashes: 3,
            window: Duration::from_secs(10 * 60),
            backoff: Duration::from_millis(500),
            longest_backoff: Duration::from_secs(30),
            queue: 16,
            longest_start: Duration::from_secs(30 * 60),
            absent: Duration::from_secs(5),
        }
    }
}
