//! The file that tells other commands where the running worker's API is, and its token.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use url::Url;
use worker_wire::Secret;

use crate::private_file::{self, WriteError};

/// Largest discovery file, in bytes; it is two short texts.
const MAX_BYTES: u64 = 64 * 1024;

/// Where the API is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discovery {
    /// Its base URL, without a slash at the end.
    pub url: String,
    /// Its bearer token.
    pub token: Secret,
}

/// Why a discovery file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not what a worker writes.
    #[error("{path} does not say where the worker's API is; remove it and start the worker again", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

impl Discovery {
    /// Reads it. `Ok(None)`: no worker runs here, or it has not come that far.
    pub fn read(path: &Path) -> Result<Option<Self>, DiscoveryError> {
        let content =
            private_file::read(path, MAX_BYTES).map_err(|source| DiscoveryError::Read {
                path: path.to_owned(),
                source,
            })?;
        let Some(content) = content else {
            return Ok(None);
        };
        let malformed = || DiscoveryError::Malformed {
            path: path.to_owned(),
        };
        let found: Self = serde_json::from_slice(&content).map_err(|_| malformed())?;
        match Url::parse(&found.url) {
            Ok(url) if url.scheme() == "http" && url.has_host() => Ok(Some(found)),
            _ => Err(malformed()),
        }
    }

    /// Writes it, for as long as the answer lives.
    pub fn announce(self, path: &Path) -> Result<Announced, WriteError> {
        let content = serde_json::to_vec(&self).map_err(|e| WriteError {
            doing: "write",
            path: path.to_owned(),
            source: io::Error::other(e),
        })?;
        private_file::replace(path, &content)?;
        Ok(Announced {
            path: path.to_owned(),
            found: self,
        })
    }
}

/// A discovery file that is removed when this is dropped, unless another worker has replaced it.
#[derive(Debug)]
pub struct Announced {
    path: PathBuf,
    found: Discovery,
}

impl Drop for Announced {
    fn drop(&mut self) {
        if Discovery::read(&self.path).is_ok_and(|now| now.as_ref() == Some(&self.found))
            && let Err(error) = private_file::remove(&self.path)
        {
            tracing::warn!(%error, "the discovery file stays behind");
        }
    }
}
