//! What a plugin asked for: checked first, then done by the part whose work it is.
//!
//! A refusal is an outcome like any other: the plugin hears `failed` with the reason, nothing was done, and it
//! decides what that means for its job.

mod arguments;
mod call;
mod command;
mod environment;
mod fetch;
mod http;
mod meter;
pub(crate) mod models;
mod perform;
mod request;
mod rules;
mod urls;

pub(crate) use perform::{Performer, Tools, Waited, Withheld};
pub use rules::ProgramRules;
pub(crate) use urls::OfferTexts;

#[cfg(test)]
mod tests;

use std::time::Duration;

use worker_plugins::contract::{Failure, Outcome};

/// Why an effect was not even tried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error(
        "the plugin asked for a download that is neither in the offer nor on a host granted to it ({url}); grant the host in plugins.toml"
    )]
    ForeignUrl { url: String },
    #[error(
        "the plugin asked for a request to a host that is not granted to it ({url}); grant the host in plugins.toml"
    )]
    ForeignHost { url: String },
    #[error(
        "the plugin named secret `{name}`, which is not granted to it for that host and path; grant it in plugins.toml"
    )]
    ForeignSecret { name: String },
    #[error(
        "secret `{name}` of plugin `{plugin}` has no value on this machine; put it into network.toml beside config.toml"
    )]
    MissingSecret { name: String, plugin: String },
    #[error("{0}")]
    Environment(String),
    #[error("the plugin asked for program `{name}`, which it did not declare")]
    UndeclaredBackend { name: String },
    #[error("program `{name}` is not on this machine; {help}")]
    MissingProgram { name: String, help: String },
    #[error("the plugin named file {id}, which does not exist in this job")]
    NoSuchFile { id: u32 },
    #[error("the plugin named output {index}, but the command has {count}")]
    NoSuchOutput { index: u32, count: usize },
    #[error("output {index} of the command is what it prints, so it has no path")]
    OutputWithoutPath { index: u32 },
    #[error("an argument holds a NUL byte")]
    Nul,
    #[error("the command has {count} arguments; at most {limit} are allowed")]
    TooManyArguments { count: usize, limit: usize },
    #[error("the command's arguments take {bytes} bytes; at most {limit} are allowed")]
    ArgumentsTooLong { bytes: usize, limit: usize },
    #[error(
        "`{name}` is not the name of an option: it must begin with `-` and hold no space, `=` or control character"
    )]
    OptionName { name: String },
    #[error("a positional argument begins with `-`; an option must be named as one")]
    PositionalOption,
    #[error(
        "{program} does not know option {option}{release}; use the plugin for this release, or the release that the plugin is for"
    )]
    UnknownOption {
        program: String,
        option: String,
        release: String,
    },
    #[error("`{name}` is not a bare file name")]
    FileName { name: String },
    #[error("`{extension}` is not a file extension: 1 to 16 letters and digits")]
    Extension { extension: String },
    #[error("`{text}` is not a SHA-256 digest: 64 hex digits")]
    Digest { text: String },
    #[error("{what}: {asked} asked for, at most {limit} allowed")]
    TooMuch {
        what: &'static str,
        asked: u64,
        limit: u64,
    },
    #[error("a file cannot be shown to the program: {0}")]
    Files(String),
    #[error(
        "programs cannot be kept in a sandbox here ({why}), so only plugins that came with the worker run any; programs_without_sandbox = true lets this one"
    )]
    NoSandbox { why: String },
    #[error("the plugin calls program `{name}` as a server, but declared no `serves` for it")]
    NoServer { name: String },
    #[error("the plugin's call names `{target}`, which {why}")]
    Target {
        target: String,
        why: worker_servers::BadTarget,
    },
    #[error(
        "a header of the call is a secret; secrets are for the hosts that they are bound to, never for a server"
    )]
    ServerSecret,
    #[error(
        "file {id} is of this job only; a server is launched with files of the model cache, so fetch it with a name to keep it under"
    )]
    NotCached { id: u32 },
    #[error("a server's launch arguments name an output; what a server makes is in its answers")]
    ServerOutput,
    #[error("effect `{name}` is not available in this version of the worker")]
    NotAvailable { name: String },
}

impl Refused {
    /// Of a name, of which the beginning is shown.
    fn file_name(name: &str) -> Self {
        Self::FileName {
            name: name.chars().take(80).collect(),
        }
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        // A program that went missing under the job may be there again, or at another worker: this one offers its engine no more
        // meanwhile. None of the others passes by itself: the plugin, its grants or the machine must change first.
        let retryable = matches!(refused, Refused::MissingProgram { .. });
        Self {
            message: refused.to_string(),
            retryable,
        }
    }
}

/// Why an effect has no result.
#[derive(Debug)]
enum Undone {
    /// The host could not or would not do it.
    Failed(Failure),
    /// No answer came within the time that it had.
    Late(Duration, Failure),
}

impl Undone {
    fn failure(&self) -> &Failure {
        match self {
            Self::Failed(failure) | Self::Late(_, failure) => failure,
        }
    }
}

impl From<Failure> for Undone {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Refused> for Undone {
    fn from(refused: Refused) -> Self {
        Self::Failed(refused.into())
    }
}

impl From<Undone> for Outcome {
    fn from(undone: Undone) -> Self {
        match undone {
            Undone::Failed(failure) => Self::Failed(failure),
            Undone::Late(time, failure) => Self::TimedOut((milliseconds(time), failure)),
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
