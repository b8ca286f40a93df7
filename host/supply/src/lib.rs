//! Plugins from an address: `https://HOST/PATH.wasm` with `PATH.wasm.minisig` beside it, or an artifact of an OCI registry.
//!
//! Every request goes through `worker_egress`, so that its rules for addresses, redirects, sizes and logins hold here too. What
//! comes is nothing but bytes with a signature that nobody has checked: whether they may serve is decided by whoever takes them.

mod challenge;
mod error;
mod manifest;
mod reference;
mod registry;

use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use url::Url;
use worker_egress::{Egress, Reading, Received, shown_url};

pub use error::SupplyError;
pub use reference::{BadReference, Reference};

/// Largest plugin that is fetched, in bytes: as much as the store of plugins takes. What a plugin's own limit is, is not known
/// before its name is.
const MAX_PLUGIN: u64 = 128 << 20;

/// What was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supplied {
    /// The component's bytes.
    pub bytes: Vec<u8>,
    /// The text of its signature, where there is one.
    pub signature: Option<String>,
    /// Where exactly it came from, fit to be shown and kept: no query, and for a registry with the digest of the manifest.
    pub from: String,
}

/// Fetches a plugin and its signature.
///
/// # Errors
/// When the address is none, is refused, or does not give a plugin.
pub async fn fetch(
    egress: &Egress,
    address: &str,
    cancel: &CancellationToken,
) -> Result<Supplied, SupplyError> {
    if address.starts_with("oci://") {
        let reference = Reference::parse(address)?;
        return registry::pull(egress, &reference, cancel).await;
    }
    file(egress, address, cancel).await
}

async fn file(
    egress: &Egress,
    address: &str,
    cancel: &CancellationToken,
) -> Result<Supplied, SupplyError> {
    let shown = shown_url(address);
    let url = Url::parse(address).map_err(|_| SupplyError::NoAddress {
        address: shown.clone(),
    })?;
    let mut beside = url.clone();
    beside.set_path(&format!("{}{}", url.path(), worker_trust::SUFFIX));
    // First the short one: where it cannot be had, nothing long is fetched.
    let signature = match read(
        egress,
        beside.as_str(),
        worker_trust::MAX_SIGNATURE_BYTES as u64,
        cancel,
    )
    .await?
    {
        received if received.status == 404 => None,
        received => Some(text(
            whole(received, beside.as_str())?,
            "the signature beside it",
        )?),
    };
    let bytes = whole(read(egress, address, MAX_PLUGIN, cancel).await?, address)?;
    Ok(Supplied {
        bytes,
        signature,
        from: shown,
    })
}

async fn read(
    egress: &Egress,
    url: &str,
    max_bytes: u64,
    cancel: &CancellationToken,
) -> Result<Received, SupplyError> {
    let reading = Reading {
        url,
        accept: None,
        logins: &[],
        max_bytes,
    };
    Ok(egress.read(&reading, cancel).await?)
}

/// The body of a 200.
fn whole(received: Received, url: &str) -> Result<Vec<u8>, SupplyError> {
    match received.status {
        200 => Ok(received.bytes),
        status => Err(SupplyError::Status {
            url: shown_url(url),
            status,
        }),
    }
}

fn text(bytes: Vec<u8>, what: &'static str) -> Result<String, SupplyError> {
    String::from_utf8(bytes).map_err(|_| SupplyError::Unreadable {
        what,
        why: "it is no text".to_owned(),
    })
}

/// SHA-256 as registries write it.
fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}
