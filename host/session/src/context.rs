//! What every step of a session shares: the options, and one voice for both logs.

use worker_wire::{Capabilities, Extension, LogEntry, LogLevel, timestamp};

use crate::{Identity, SaveError, SessionOptions};

/// Category of all that this crate ships.
const CATEGORY: &str = "ws";

pub(crate) struct Context {
    pub(crate) options: SessionOptions,
}

impl Context {
    /// Says a line locally and to the studio.
    pub(crate) fn say(&self, level: LogLevel, message: String) {
        self.say_of(level, message, None);
    }

    /// Says a line about a job.
    pub(crate) fn say_of(&self, level: LogLevel, message: String, job: Option<&str>) {
        match level {
            LogLevel::Info => tracing::info!(job, "{message}"),
            LogLevel::Warn => tracing::warn!(job, "{message}"),
            LogLevel::Error => tracing::error!(job, "{message}"),
        }
        let entry = LogEntry::now(level, CATEGORY, message, job.map(str::to_owned));
        self.options.log.push(entry);
    }

    pub(crate) fn info(&self, message: String) {
        self.say(LogLevel::Info, message);
    }

    pub(crate) fn warn(&self, message: String) {
        self.say(LogLevel::Warn, message);
    }

    pub(crate) fn error(&self, message: String) {
        self.say(LogLevel::Error, message);
    }

    /// What the worker serves now, with the extensions that this side of the wire takes part in.
    pub(crate) fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.options.worker.capabilities();
        for extension in Extension::ALL {
            let name = extension.as_wire();
            if !capabilities.extensions.iter().any(|listed| listed == name) {
                capabilities.extensions.push(name.to_owned());
            }
        }
        capabilities
    }

    /// Saves the identity away from the threads that serve the network.
    pub(crate) async fn save(&self, identity: &Identity) -> Result<(), SaveError> {
        let (store, identity) = (self.options.identity.clone(), identity.clone());
        tokio::task::spawn_blocking(move || store.save(&identity))
            .await
            .unwrap_or_else(|ended| Err(SaveError(Box::new(ended))))
    }
}

/// This moment, as the protocol writes it.
pub(crate) fn now() -> String {
    timestamp(std::time::SystemTime::now())
}
