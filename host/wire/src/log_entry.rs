//! Log lines as they are shipped.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// Severity of a shipped line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What happened.
    Info,
    /// Something to look at.
    Warn,
    /// Something failed.
    Error,
}

/// One shipped log line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogEntry {
    /// RFC 3339, UTC, milliseconds.
    pub ts: String,
    /// Severity.
    pub level: LogLevel,
    /// Which part speaks: `ws` for all that concerns sessions and jobs.
    pub category: String,
    /// One line, without secrets.
    pub message: String,
    /// The job it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
}

impl LogEntry {
    /// A line of now.
    pub fn now(level: LogLevel, category: &str, message: String, job_id: Option<String>) -> Self {
        Self {
            ts: timestamp(SystemTime::now()),
            level,
            category: category.to_owned(),
            message,
            job_id,
        }
    }
}

/// A time as the protocol writes it: `2026-01-01T00:00:00.000Z`.
pub fn timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}
