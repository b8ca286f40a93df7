//! The local log: standard error, filtered as the configuration says.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt};

/// Starts the log. A filter that cannot be read is said, and a plain one serves.
pub(crate) fn start(filter: &str) {
    let (filter, bad) = match EnvFilter::try_new(filter) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let log = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second start in one process would be a defect of the caller, and costs only the second.
    let _ = log.try_init();
    if let Some(error) = bad {
        tracing::warn!(target: "worker", %error, "the log's filter cannot be read; everything from info on is shown");
    }
}
