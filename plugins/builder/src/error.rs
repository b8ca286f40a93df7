//! Why a build or a check did not come to its end.

use std::path::PathBuf;
use std::process::{Command, Output};

/// What failed, why, and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    #[error("{usage}")]
    Usage { usage: &'static str },
    #[error("no component is called {name}; there are: {}", known.join(", "))]
    NoSuchComponent { name: String, known: Vec<String> },
    #[error("{}: {source}", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("could not start {program}: {source}; is it installed?")]
    Start {
        program: String,
        source: std::io::Error,
    },
    #[error("{what} failed:\n{stderr}")]
    Failed { what: String, stderr: String },
    #[error("{what} answered something unreadable: {detail}")]
    Unreadable { what: String, detail: String },
    #[error("{package}: {detail}; mend [package.metadata.studio-worker] of its Cargo.toml")]
    Manifest { package: String, detail: String },
    #[error("{component}: the module makes no component: {detail}")]
    Encode { component: String, detail: String },
    #[error("{component}: exports {found}, and its manifest says {expected}")]
    World {
        component: String,
        expected: String,
        found: String,
    },
    #[error(
        "this machine cannot compile for wasm32-unknown-unknown ({detail})\n\
         add the target:   rustup target add wasm32-unknown-unknown\n\
         or, on Debian:    apt-get install rustc-web rust-web-src"
    )]
    NoTarget { detail: String },
    #[error(
        "the patch for {file} does not fit: {detail}; make it anew from the source as it is now"
    )]
    Patch { file: String, detail: String },
    #[error("{} of the components are not what their sources make; run `cargo plugins build` and commit what it writes:\n  {}", stale.len(), stale.join("\n  "))]
    Stale { stale: Vec<String> },
}

impl BuildError {
    /// For `map_err` on anything that touches a file.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}

/// Runs a program to its end; its standard output.
pub(crate) fn output(command: &mut Command, what: &str) -> Result<String, BuildError> {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().map_err(|source| BuildError::Start {
        program: command.get_program().to_string_lossy().into_owned(),
        source,
    })?;
    if !status.success() {
        return Err(BuildError::Failed {
            what: what.to_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        });
    }
    String::from_utf8(stdout).map_err(|error| BuildError::Unreadable {
        what: what.to_owned(),
        detail: error.to_string(),
    })
}
