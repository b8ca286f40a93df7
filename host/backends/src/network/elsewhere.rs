//! Where there is no Linux, there are no network namespaces.

use std::io;
use std::path::Path;

use tokio::net::TcpSocket;

use super::NoNetwork;

/// There is none.
#[derive(Debug, Clone)]
pub enum Network {}

impl Network {
    pub(super) fn make() -> Result<Self, NoNetwork> {
        Err(NoNetwork::None)
    }

    /// A socket in it.
    ///
    /// # Errors
    /// Never: there is no network to ask.
    #[allow(clippy::unused_async, reason = "elsewhere it waits")]
    pub async fn socket(&self) -> io::Result<TcpSocket> {
        match *self {}
    }

    /// What the system tells of it.
    #[must_use]
    pub fn tables(&self) -> &Path {
        match *self {}
    }
}
