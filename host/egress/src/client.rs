//! TLS and the clients built on it.
//!
//! Certificates are judged by the system's own verifier, so that an operator's company root works without a setting here.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt;
/// How long a connection to a studio may take to stand.
const CONNECT: Duration = Duration::from_secs(15);
/// The whole of one exchange with a studio, upload included: 100 MB at 2 MB/s fit. Larger keeps a finished result from
/// its next try; smaller cuts large uploads on slow lines for ever.
const STUDIO_TOTAL: Duration = Duration::from_secs(60);

/// Why no HTTP client could be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The TLS library refuses its own settings, or the system has no certificates.
    #[error("TLS cannot be set up: {source}; install the system's CA certificates")]
    Tls {
        /// What it said.
        #[from]
        source: rustls::Error,
    },
    /// The client cannot be built.
    #[error("the HTTP client cannot be set up: {source}")]
    Client {
        /// What it said.
        #[from]
        source: reqwest::Error,
    },
}

/// TLS as every connection of this program has it, the WebSocket's included. Made once.
///
/// # Errors
/// When the system's verifier cannot be used.
pub fn tls_config() -> Result<Arc<ClientConfig>, ClientError> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(Arc::clone(config));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_platform_verifier()?
        .with_no_client_auth();
    Ok(Arc::clone(CONFIG.get_or_init(|| Arc::new(config))))
}

/// What all clients share: our TLS, no cookies, no redirects of the library's own, small writes sent at once.
pub(crate) fn base_builder() -> Result<reqwest::ClientBuilder, ClientError> {
    let tls = ClientConfig::clone(&*tls_config()?);
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .tcp_nodelay(true))
}

/// For talking to a studio: 60 s in all, no redirects, since each request carries the worker's token. No proxy either,
/// whatever the environment names: the session's socket goes straight, and what goes another way would fail alone.
///
/// # Errors
/// When TLS cannot be set up.
pub fn studio_client() -> Result<reqwest::Client, ClientError> {
    Ok(base_builder()?
        .connect_timeout(CONNECT)
        .timeout(STUDIO_TOTAL)
        .no_proxy()
        .build()?)
}
