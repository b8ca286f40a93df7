//! Why there is no server, and why a call has no answer.

use std::io;
use std::time::Duration;

use worker_backends::RunError;

/// Why a server cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// It died too often.
    #[error(
        "{program} as a server died {count} times within {} s and is not started again before that time has passed; run it once per job instead. Last it said: {said}",
        .window.as_secs()
    )]
    CrashLoop {
        /// The program's bare name.
        program: String,
        /// How often.
        count: usize,
        /// Within what time.
        window: Duration,
        /// Its last lines.
        said: String,
    },
    /// It did not get ready in time.
    #[error("{program} as a server was not ready within {} ms; it said: {said}", .limit.as_millis())]
    NotReady {
        /// The program's bare name.
        program: String,
        /// The time that it had.
        limit: Duration,
        /// Its last lines.
        said: String,
    },
    /// It listens and has no ready path.
    #[error(
        "{program} as a server answers {status} on {path}, where it should say that it is ready, and was ended: it is of a release, or another program, without that path. Install a release that its plugin is for; it said: {said}"
    )]
    NoReadyPath {
        /// The program's bare name.
        program: String,
        /// The path that it was asked for.
        path: String,
        /// 404 or 410.
        status: u16,
        /// Its last lines.
        said: String,
    },
    /// It ended while it was starting.
    #[error("{program} as a server ended while it started ({how}); it said: {said}")]
    DiedStarting {
        /// The program's bare name.
        program: String,
        /// Its exit.
        how: String,
        /// Its last lines.
        said: String,
    },
    /// Its port is served by somebody else, each time.
    #[error(
        "{program} as a server got no port of its own in {tries} tries: another process listened on it"
    )]
    Port {
        /// The program's bare name.
        program: String,
        /// How often it was tried.
        tries: u32,
    },
    /// It listens for other machines too.
    #[error(
        "{program} listens beyond this machine although it was told {host}; it was ended. Use a release that heeds its listen options"
    )]
    Open {
        /// The program's bare name.
        program: String,
        /// The address that it was told.
        host: &'static str,
    },
    /// Too many calls wait for it.
    #[error("{limit} calls wait for {program} already")]
    Busy {
        /// The program's bare name.
        program: String,
        /// Most that may.
        limit: usize,
    },
    /// It was not had in time.
    #[error("{program} as a server was not free in time")]
    Late {
        /// The program's bare name.
        program: String,
    },
    /// The program cannot be started.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Its folder cannot be made, or no port be had.
    #[error(
        "a server's folder or port cannot be had: {0}; check the disk and the state folder's permissions"
    )]
    System(#[from] io::Error),
    /// The job is over.
    #[error("the job was cancelled")]
    Cancelled,
    /// The worker stops.
    #[error("the worker is stopping")]
    Stopping,
}

impl ServerError {
    /// Whether the same call may come to something when it is made again.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::NotReady { .. }
            | Self::DiedStarting { .. }
            | Self::Port { .. }
            | Self::Busy { .. }
            | Self::Late { .. }
            | Self::System(_)
            | Self::Stopping => true,
            Self::Run(error) => error.is_passing(),
            Self::NoReadyPath { .. }
            | Self::CrashLoop { .. }
            | Self::Open { .. }
            | Self::Cancelled => false,
        }
    }
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The server died while it was asked.
    #[error("{program} as a server died during the call ({how}); it said: {said}")]
    Died {
        /// The program's bare name.
        program: String,
        /// Its exit.
        how: String,
        /// Its last lines.
        said: String,
    },
    /// It did not answer in time; it stopped the work or was ended.
    #[error("{program} as a server did not answer within {} ms", .limit.as_millis())]
    TimedOut {
        /// The program's bare name.
        program: String,
        /// The time that it had.
        limit: Duration,
    },
    /// Its answer is longer than allowed.
    #[error("the answer of {program} is longer than the {limit} bytes that the call allows")]
    TooLarge {
        /// The program's bare name.
        program: String,
        /// Most bytes.
        limit: u64,
    },
    /// Its answer is no HTTP, or broke off. It was ended.
    #[error("{program} as a server did not answer in HTTP, or broke off: {reason}; it was ended")]
    Garbled {
        /// The program's bare name.
        program: String,
        /// What the reader of it said.
        reason: String,
    },
    /// The answer cannot be kept.
    #[error("the server's answer cannot be kept: {0}; check the disk")]
    Store(io::Error),
    /// The job is over; the server stopped the work or was ended.
    #[error("the job was cancelled")]
    Cancelled,
}

impl CallError {
    /// Whether the same call may come to something when it is made again.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Died { .. } | Self::TimedOut { .. } | Self::Garbled { .. } | Self::Store(_)
        )
    }
}
