//! `plugin add` of an address: fetched through the egress rules, then taken in like whatever comes from afar, signed or not at all.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use worker_egress::Egress;
use worker_plugins::Refusal;
use worker_supply::{Supplied, SupplyError};
use worker_swap::{Parcel, Sender, SwapError, Swapper, Taken};

/// Why a plugin from an address does not serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AfarError {
    /// It did not come.
    #[error(transparent)]
    Supply(#[from] SupplyError),
    /// It came, and says no name that it could serve under.
    #[error("{0}")]
    Unnamed(Refusal),
    /// It was not taken.
    #[error(transparent)]
    Swap(#[from] SwapError),
}

/// Fetches a plugin and takes it in under the name that its metadata says; gives one line.
pub(crate) async fn add(
    swapper: &Arc<Swapper>,
    egress: &Egress,
    address: &str,
) -> Result<String, AfarError> {
    // Whoever gives up drops this, and every request with it.
    let never = CancellationToken::new();
    let Supplied {
        bytes,
        signature,
        from,
    } = worker_supply::fetch(egress, address, &never).await?;
    let name = worker_plugins::name_in(&bytes);
    let name = name.map_err(|broken| AfarError::Unnamed(broken.by(&from)))?;
    let parcel = Parcel {
        name: name.clone(),
        bytes,
        signature,
        from: Sender::Address { url: from.clone() },
    };
    Ok(match swapper.receive(parcel).await? {
        Taken::In(version) => {
            let short: String = version.digest.chars().take(12).collect();
            format!("{name} {} ({short}) from {from} serves", version.version)
        }
        Taken::Later => format!("{name} from {from} serves once its programs are here"),
    })
}
