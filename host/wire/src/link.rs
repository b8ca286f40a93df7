//! The outgoing side of one session, as the parts behind it hold it.
//!
//! A link belongs to one session and dies with it: a frame for a job of an earlier session cannot be sent through
//! it by mistake, which is what studios punish with a protocol violation.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::{StudioAccount, WorkerFrame};

/// Frames waiting for the socket. More would let a stalled socket pile up work; fewer would stall short bursts.
const QUEUE: usize = 256;

/// A frame, or a rule, beyond the protocol, used only with a side that listed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Worker to studio: `progress` frames.
    Progress,
    /// Studio to worker: `jobCancel` frames.
    JobCancel,
    /// Results of an earlier session are welcome.
    Resume,
    /// Studio to worker: `pluginUpdate` frames.
    PluginUpdate,
    /// Worker to studio: `pluginStatus` frames.
    PluginStatus,
    /// Worker to studio: `servedBy` frames.
    ServedBy,
}

impl Extension {
    /// All that this worker knows.
    pub const ALL: [Self; 6] = [
        Self::Progress,
        Self::JobCancel,
        Self::Resume,
        Self::PluginUpdate,
        Self::PluginStatus,
        Self::ServedBy,
    ];

    /// Its name on the wire.
    pub fn as_wire(self) -> &'static str {
        match self {
            Self::Progress => "progress",
            Self::JobCancel => "jobCancel",
            Self::Resume => "resume",
            Self::PluginUpdate => "pluginUpdate",
            Self::PluginStatus => "pluginStatus",
            Self::ServedBy => "servedBy",
        }
    }
}

/// The extensions that the other side listed and this one knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions([bool; Extension::ALL.len()]);

impl Extensions {
    /// Takes from a list what is known.
    pub fn from_wire(names: &[String]) -> Self {
        Self(Extension::ALL.map(|known| names.iter().any(|name| name == known.as_wire())))
    }

    /// Whether the other side listed it.
    pub fn has(self, extension: Extension) -> bool {
        Extension::ALL
            .iter()
            .zip(self.0)
            .any(|(known, listed)| *known == extension && listed)
    }
}

/// The session is over; nothing can be sent through this link any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session with the studio ended")]
pub struct SessionEnded;

/// Sends frames into one welcomed session. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StudioLink {
    account: Arc<StudioAccount>,
    extensions: Extensions,
    session: u64,
    frames: mpsc::Sender<WorkerFrame>,
}

/// The end of a link that the socket drains.
pub type LinkOutlet = mpsc::Receiver<WorkerFrame>;

impl StudioLink {
    /// Opens the link of session number `session`, which only ever grows within a process.
    pub fn open(
        account: Arc<StudioAccount>,
        extensions: Extensions,
        session: u64,
    ) -> (Self, LinkOutlet) {
        let (frames, outlet) = mpsc::channel(QUEUE);
        (
            Self {
                account,
                extensions,
                session,
                frames,
            },
            outlet,
        )
    }

    /// Queues a frame; waits while the queue is full, and ends with the session.
    pub async fn send(&self, frame: WorkerFrame) -> Result<(), SessionEnded> {
        self.frames.send(frame).await.map_err(|_| SessionEnded)
    }

    /// Queues a frame unless the queue is full: for what may be lost, such as progress.
    pub fn offer(&self, frame: WorkerFrame) {
        // Full or ended: the next one says more.
        let _ = self.frames.try_send(frame);
    }

    /// Whether the session is over.
    pub fn ended(&self) -> bool {
        self.frames.is_closed()
    }

    /// Resolves when the session is over.
    pub async fn closed(&self) {
        self.frames.closed().await;
    }

    /// Whether the studio listed an extension.
    pub fn speaks(&self, extension: Extension) -> bool {
        self.extensions.has(extension)
    }

    /// Number of the session.
    pub fn session(&self) -> u64 {
        self.session
    }

    /// The identity that the session runs under.
    pub fn account(&self) -> &Arc<StudioAccount> {
        &self.account
    }
}
