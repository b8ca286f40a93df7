//! Names to addresses, with each address judged.
//!
//! The connection is made to the very addresses that were judged here. Judging a name first and letting the connection
//! resolve it again would let its owner answer differently the second time. A name of which one address is refused is
//! refused whole, since which of them is connected to is not ours to say.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::address::{AddressRefusal, check_address};
use crate::policy::is_localhost;

/// Addresses of a name, without a port.
pub(crate) type Lookup = Arc<
    dyn Fn(String) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>
        + Send
        + Sync,
>;

/// Resolves for the client.
pub(crate) struct Resolver {
    lookup: Lookup,
    /// Whether `localhost` may be loopback. No other name ever may.
    loopback: bool,
}

impl Resolver {
    pub(crate) fn new(lookup: Lookup, loopback: bool) -> Self {
        Self { lookup, loopback }
    }

    /// The system's own way of resolving.
    pub(crate) fn system() -> Lookup {
        Arc::new(|name| {
            Box::pin(async move {
                tokio::net::lookup_host((name.as_str(), 0))
                    .await
                    .map(Iterator::collect)
            })
        })
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let name = name.as_str().to_owned();
        let loopback = self.loopback && is_localhost(&name);
        let found = (self.lookup)(name);
        Box::pin(async move {
            let addresses = found.await?;
            if addresses.is_empty() {
                return Err(
                    io::Error::new(io::ErrorKind::NotFound, "the name has no address").into(),
                );
            }
            for address in &addresses {
                check_address(address.ip(), loopback)?;
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// The refusal of an address, when that is why a request failed.
pub(crate) fn refusal(error: &(dyn Error + 'static)) -> Option<AddressRefusal> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(refusal) = error.downcast_ref::<AddressRefusal>() {
            return Some(refusal.clone());
        }
        next = error.source();
    }
    None
}
