//! Token of the local API: the file's `local_api_token` where it has one, as the reference worker's scripts read it
//! there, else one made once and kept in the state folder. It is not written into `config.toml`, because running a
//! worker must not create or change the operator's file.

use std::io;
use std::path::PathBuf;

use worker_wire::Secret;

use crate::paths::Paths;
use crate::private_file::{self, WriteError};
use crate::settings::Settings;

/// Bytes of randomness in a token.
const RANDOM_BYTES: usize = 32;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The token file cannot be read.
    #[error("cannot read the token of the local API in {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The token file holds something else.
    #[error("{path} is not a token of 64 hex digits; remove it and start the worker again", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The operating system has no randomness; there is no substitute.
    #[error("no token can be made: {0}")]
    Randomness(getrandom::Error),
}

/// The token, made on first use.
pub fn local_api_token(paths: &Paths, settings: &Settings) -> Result<Secret, TokenError> {
    if let Some(token) = &settings.local_api_token {
        return Ok(token.clone());
    }
    let path = &paths.token;
    let read = private_file::read(path, 1024).map_err(|source| TokenError::Read {
        path: path.clone(),
        source,
    })?;
    if let Some(content) = read {
        return String::from_utf8(content)
            .ok()
            .map(|text| text.trim().to_owned())
            .filter(|text| hex::decode(text).is_ok_and(|bytes| bytes.len() == RANDOM_BYTES))
            .map(Secret::new)
            .ok_or_else(|| TokenError::Malformed { path: path.clone() });
    }
    let mut bytes = [0; RANDOM_BYTES];
    getrandom::fill(&mut bytes).map_err(TokenError::Randomness)?;
    let token = hex::encode(bytes);
    private_file::replace(path, token.as_bytes())?;
    Ok(Secret::new(token))
}
