//! Where everything is.

use std::io;
use std::path::{Path, PathBuf};

use crate::settings::Settings;

/// Qualifier, organisation and application, as the reference worker gives them: the same folder on every system.
const APPLICATION: (&str, &str, &str) = ("gg", "minis", "minis-studio-worker");

/// Why there is no place for the configuration.
#[derive(Debug, thiserror::Error)]
pub enum PathsError {
    /// No home directory.
    #[error("this user has no home directory; say where the configuration is with --config PATH")]
    NoHome,
    /// The current directory is gone.
    #[error("the path of the configuration cannot be made absolute: {0}")]
    Relative(io::Error),
}

/// The places of one worker. None of them is made by naming it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// `config.toml`.
    pub config: PathBuf,
    /// Held by the worker that runs on this configuration, in its folder, where the reference worker has its own: the two
    /// exclude each other.
    pub lock: PathBuf,
    /// Says where the local API is, while it runs.
    pub discovery: PathBuf,
    /// All that follows lies below it.
    pub state: PathBuf,
    /// Products that the studio does not have yet.
    pub spool: PathBuf,
    /// Products that no studio will take.
    pub aside: PathBuf,
    /// Histories of jobs.
    pub journal: PathBuf,
    /// One folder per running job.
    pub scratch: PathBuf,
    /// Native programs that were downloaded, and what is known of them.
    pub programs: PathBuf,
    /// Compiled components.
    pub compiled: PathBuf,
    /// The embedded studio's queue and uploads.
    pub studio: PathBuf,
    /// This worker's identity at the embedded studio: apart from `config.toml`, so that neither studio is ever sent the
    /// other's token.
    pub embedded_identity: PathBuf,
    /// Token of the local API.
    pub token: PathBuf,
}

impl Paths {
    /// The configuration's path: the one given, else the user's.
    pub fn config(given: Option<&Path>) -> Result<PathBuf, PathsError> {
        if let Some(path) = given {
            return std::path::absolute(path).map_err(PathsError::Relative);
        }
        let (qualifier, organisation, application) = APPLICATION;
        let own = directories::ProjectDirs::from(qualifier, organisation, application);
        Ok(own
            .ok_or(PathsError::NoHome)?
            .config_dir()
            .join("config.toml"))
    }

    /// The places that go with a configuration.
    pub fn new(config: &Path, settings: &Settings) -> Self {
        let folder = config.parent().unwrap_or_else(|| Path::new("."));
        let state = settings.state_dir.clone();
        let studio = state.join("studio");
        Self {
            config: config.to_owned(),
            lock: folder.join("daemon.lock"),
            discovery: folder.join("local-api.json"),
            spool: state.join("spool"),
            aside: state.join("aside"),
            journal: state.join("journal"),
            scratch: state.join("scratch"),
            programs: state.join("programs"),
            compiled: state.join("compiled"),
            embedded_identity: studio.join("worker-identity.toml"),
            studio,
            token: state.join("token"),
            state,
        }
    }
}
