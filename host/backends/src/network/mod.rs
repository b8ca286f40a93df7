//! A network of its own for a server.
//!
//! A namespace that holds nothing but a loopback device: nobody outside of it can connect to what listens there, whatever
//! address that is on, and what is in it reaches nobody. We ask a server in it through sockets that are made there: a socket
//! stays in the network in which it was made, whoever uses it.

#[cfg(not(target_os = "linux"))]
#[path = "elsewhere.rs"]
mod namespace;
#[cfg(target_os = "linux")]
mod namespace;

use std::fmt;
use std::sync::OnceLock;

pub use namespace::Network;

/// In which network servers run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerNetwork {
    /// Each in one of its own.
    Own,
    /// All in the worker's.
    Shared(NoNetwork),
}

impl ServerNetwork {
    /// Whether each has its own.
    #[must_use]
    pub fn is_own(&self) -> bool {
        matches!(self, Self::Own)
    }
}

impl fmt::Display for ServerNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("a network namespace for each"),
            Self::Shared(why) => write!(
                f,
                "the worker's own network, where every user of this machine can connect to them: {why}"
            ),
        }
    }
}

/// Why a server cannot have a network of its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoNetwork {
    /// The operator wants no sandbox.
    #[error("program_sandbox is off")]
    NotWanted,
    /// The system has none.
    #[error("this system has no network namespaces")]
    None,
    /// The worker may make none.
    #[error("the worker may make no network namespace; that takes CAP_SYS_ADMIN and CAP_NET_ADMIN")]
    NotPermitted,
    /// There are as many as there may be.
    #[error("no further network namespace may be made here; raise user.max_net_namespaces")]
    TooMany,
    /// The system refused otherwise.
    #[error("{step}: {why}")]
    Refused {
        /// What was tried.
        step: &'static str,
        /// What it said.
        why: String,
    },
}

/// In which network the servers of this process run. Where programs are kept in a sandbox, one namespace is made to try, once:
/// rights, the kernel's build and a container's filter all have a say, and none of them can be asked.
pub fn server_network(sandbox: bool) -> ServerNetwork {
    if !sandbox {
        return ServerNetwork::Shared(NoNetwork::NotWanted);
    }
    static TRIED: OnceLock<ServerNetwork> = OnceLock::new();
    let tried = TRIED.get_or_init(|| match Network::make() {
        Ok(_) => ServerNetwork::Own,
        Err(why) => ServerNetwork::Shared(why),
    });
    tried.clone()
}

impl Network {
    /// A new one. None where servers share the worker's. Where none can be made any more, this server shares it too, which is
    /// said.
    pub async fn or_shared() -> Option<Self> {
        let made = tokio::task::spawn_blocking(|| server_network(true).is_own().then(Self::make));
        match made.await.ok()?? {
            Ok(network) => Some(network),
            Err(why) => {
                tracing::warn!(target: "server", %why, "no network namespace can be made for a server: every user of this machine can connect to it");
                None
            }
        }
    }
}
