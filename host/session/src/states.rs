//! How the session stands, for status pages and for whoever waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use tokio::sync::watch;

/// The session, in the words of the status page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(
    tag = "state",
    rename_all = "snake_case",
    rename_all_fields = "camelCase"
)]
pub enum SessionState {
    /// An operator has to approve this worker.
    WaitingForApproval {
        /// When the wait began, RFC 3339.
        since: String,
    },
    /// The socket is being opened, or `welcome` is awaited.
    Connecting,
    /// Welcomed.
    Connected,
    /// Waiting before the next attempt.
    Reconnecting {
        /// Number of the next attempt since the last welcome.
        attempt: u32,
    },
    /// The token is not accepted; the session is over for good.
    AuthFailed {
        /// How it was refused.
        reason: String,
    },
    /// The session is over for good.
    Fatal {
        /// Why, and what to do.
        reason: String,
    },
    /// Told to stop, or not started yet.
    Stopped,
}

/// The registration, in the words of the status page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(
    tag = "state",
    rename_all = "snake_case",
    rename_all_fields = "camelCase"
)]
pub enum RegistrationState {
    /// Nothing was asked yet.
    Pristine,
    /// An operator has to decide.
    Pending {
        /// What to look for in the dashboard.
        request_id: String,
        /// When this request was first seen pending, RFC 3339.
        since: String,
    },
    /// There is an identity.
    Approved,
    /// The operator said no.
    Rejected {
        /// In the operator's words.
        reason: String,
    },
}

/// The last heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HeartbeatMark {
    /// `ok`, or what went wrong.
    pub outcome: String,
    /// RFC 3339.
    pub last_attempt_at: String,
}

/// Publishes the states of one session. Clones publish to the same watchers.
#[derive(Clone, Debug)]
pub struct States {
    session: watch::Sender<SessionState>,
    registration: watch::Sender<RegistrationState>,
    heartbeat: watch::Sender<Option<HeartbeatMark>>,
    counts: Arc<(AtomicU64, AtomicU64)>,
}

impl Default for States {
    fn default() -> Self {
        Self {
            session: watch::Sender::new(SessionState::Stopped),
            registration: watch::Sender::new(RegistrationState::Pristine),
            heartbeat: watch::Sender::new(None),
            counts: Arc::default(),
        }
    }
}

impl States {
    /// States of a session that has not started.
    pub fn new() -> Self {
        Self::default()
    }

    /// Watches the session.
    pub fn session(&self) -> watch::Receiver<SessionState> {
        self.session.subscribe()
    }

    /// Watches the registration.
    pub fn registration(&self) -> watch::Receiver<RegistrationState> {
        self.registration.subscribe()
    }

    /// Watches the heartbeats.
    pub fn heartbeat(&self) -> watch::Receiver<Option<HeartbeatMark>> {
        self.heartbeat.subscribe()
    }

    /// Sessions that were welcomed so far.
    pub fn sessions(&self) -> u64 {
        self.counts.0.load(Ordering::Relaxed)
    }

    /// Times that a connection was lost, or could not be made, and another try was waited for.
    pub fn retries(&self) -> u64 {
        self.counts.1.load(Ordering::Relaxed)
    }

    pub(crate) fn set_session(&self, state: SessionState) {
        match state {
            SessionState::Connected => {
                self.counts.0.fetch_add(1, Ordering::Relaxed);
            }
            SessionState::Reconnecting { .. } => {
                self.counts.1.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
        self.session.send_replace(state);
    }

    pub(crate) fn set_registration(&self, state: RegistrationState) {
        self.registration.send_replace(state);
    }

    pub(crate) fn set_heartbeat(&self, mark: HeartbeatMark) {
        self.heartbeat.send_replace(Some(mark));
    }
}
