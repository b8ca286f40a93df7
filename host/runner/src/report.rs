//! One line for each change of state and each failure, to the local log and to the studio.

use std::sync::Arc;

use worker_wire::{JobId, LogEntry, LogLevel};

/// Takes log lines that the studio's operators are to see.
pub type LogSink = Arc<dyn Fn(LogEntry) + Send + Sync>;

/// Category of every shipped line about jobs: the one that studios know.
const CATEGORY: &str = "ws";

/// Writes a line to the local log and ships it.
#[derive(Clone)]
pub struct Reporter {
    sink: LogSink,
}

impl Reporter {
    /// A reporter that ships through `sink`.
    pub fn new(sink: LogSink) -> Self {
        Self { sink }
    }

    /// What happened.
    pub fn info(&self, job: Option<&JobId>, message: String) {
        tracing::info!(target: "job", job = job.map(JobId::as_str), "{message}");
        self.ship(LogLevel::Info, job, message);
    }

    /// Something to look at.
    pub fn warn(&self, job: Option<&JobId>, message: String) {
        tracing::warn!(target: "job", job = job.map(JobId::as_str), "{message}");
        self.ship(LogLevel::Warn, job, message);
    }

    /// Something failed.
    pub fn error(&self, job: Option<&JobId>, message: String) {
        tracing::error!(target: "job", job = job.map(JobId::as_str), "{message}");
        self.ship(LogLevel::Error, job, message);
    }

    fn ship(&self, level: LogLevel, job: Option<&JobId>, message: String) {
        (self.sink)(LogEntry::now(
            level,
            CATEGORY,
            message,
            job.map(ToString::to_string),
        ));
    }
}
