//! What delivery tells whoever started it, for the shipped log.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Receives events; called from delivery's tasks, so it must not block.
pub type Events = Arc<dyn Fn(Event) + Send + Sync>;

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// All is well.
    Info,
    /// Something to look at.
    Warn,
    /// Something failed.
    Error,
}

/// Something that happened to one product. It displays as one line without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The studio has the media.
    Uploaded {
        /// The job.
        job: String,
        /// Attempts that it took in this session.
        attempts: u32,
        /// Whether it is a result of an earlier session.
        earlier: bool,
    },
    /// A frame with a result was sent, and not acknowledged yet.
    Sent {
        /// The job.
        job: String,
        /// Whether the frame says that the job failed.
        failure: bool,
        /// Whether it is a result of an earlier session.
        earlier: bool,
    },
    /// The studio acknowledged a frame.
    Acknowledged {
        /// The job.
        job: String,
    },
    /// An attempt failed and will be repeated.
    Retrying {
        /// The job.
        job: String,
        /// Why it failed.
        cause: String,
        /// How long until the next attempt; `None`: when the other results of earlier sessions have had theirs.
        pause: Option<Duration>,
    },
    /// It stays in the spool until the next welcome.
    Later {
        /// The job.
        job: String,
    },
    /// It went to the aside.
    KeptAside {
        /// The job.
        job: String,
        /// Why.
        reason: String,
    },
    /// The oldest of the aside made room.
    Dropped {
        /// The job.
        job: String,
        /// Which limit.
        reason: String,
    },
    /// The disk failed; the product stays where it is.
    Trouble {
        /// The job, where it is known.
        job: Option<String>,
        /// What failed.
        what: String,
    },
}

impl Event {
    /// The job it is about.
    pub fn job(&self) -> Option<&str> {
        match self {
            Self::Uploaded { job, .. }
            | Self::Sent { job, .. }
            | Self::Acknowledged { job }
            | Self::Retrying { job, .. }
            | Self::Later { job }
            | Self::KeptAside { job, .. }
            | Self::Dropped { job, .. } => Some(job),
            Self::Trouble { job, .. } => job.as_deref(),
        }
    }

    /// How much it matters.
    pub fn severity(&self) -> Severity {
        match self {
            Self::Uploaded { .. } | Self::Sent { .. } | Self::Acknowledged { .. } => Severity::Info,
            Self::Retrying { .. }
            | Self::Later { .. }
            | Self::KeptAside { .. }
            | Self::Dropped { .. } => Severity::Warn,
            Self::Trouble { .. } => Severity::Error,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uploaded {
                job,
                attempts,
                earlier,
            } => write!(
                f,
                "binary upload ok: {job}{}, attempt {attempts}",
                of_earlier(*earlier)
            ),
            Self::Sent {
                job,
                failure,
                earlier,
            } => {
                let what = if *failure { "failure" } else { "json result" };
                write!(f, "{what} sent: {job}{}", of_earlier(*earlier))
            }
            Self::Acknowledged { job } => write!(f, "the studio acknowledged {job}"),
            Self::Retrying { job, cause, pause } => {
                write!(
                    f,
                    "result of {job} not delivered yet: {cause}; next attempt "
                )?;
                match pause {
                    Some(pause) => write!(f, "in {} ms", pause.as_millis()),
                    None => f.write_str("soon"),
                }
            }
            Self::Later { job } => write!(
                f,
                "result of {job} stays on disk and is delivered after the next welcome"
            ),
            Self::KeptAside { job, reason } => write!(
                f,
                "result of {job} kept aside: {reason}; see `studio-worker results`"
            ),
            Self::Dropped { job, reason } => {
                write!(f, "result of {job} removed from those kept aside: {reason}")
            }
            Self::Trouble { job, what } => match job {
                Some(job) => write!(f, "result of {job}: {what}"),
                None => f.write_str(what),
            },
        }
    }
}

fn of_earlier(earlier: bool) -> &'static str {
    if earlier {
        " of an earlier session"
    } else {
        ""
    }
}
