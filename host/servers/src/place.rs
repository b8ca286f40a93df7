//! Where a server listens: its port, and the network that the port is in.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use tokio::net::{TcpSocket, TcpStream};
use worker_backends::Network;

use crate::port;

/// A port of 127.0.0.1, in a network of the server's own or in the worker's.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    network: Option<Network>,
    address: SocketAddr,
}

impl Place {
    /// One that nobody has now.
    pub(crate) async fn free(network: Option<Network>) -> io::Result<Self> {
        let port = port::free(socket(network.as_ref()).await?)?;
        Ok(Self {
            network,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// The server's own network; none: the worker's.
    pub(crate) fn network(&self) -> Option<&Network> {
        self.network.as_ref()
    }

    /// What the kernel tells of its network.
    pub(crate) fn tables(&self) -> &Path {
        self.network
            .as_ref()
            .map_or(Path::new("/proc/self/net"), Network::tables)
    }

    /// A connection to whoever listens there.
    pub(crate) async fn connect(&self) -> io::Result<TcpStream> {
        let socket = socket(self.network.as_ref()).await?;
        socket.connect(self.address).await
    }
}

async fn socket(network: Option<&Network>) -> io::Result<TcpSocket> {
    match network {
        Some(network) => network.socket().await,
        None => TcpSocket::new_v4(),
    }
}
