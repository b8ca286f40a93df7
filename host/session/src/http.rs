//! The clients behind every connection, and bounded reading of what a studio answers.

use std::{sync::Arc, time::Duration};

use reqwest::redirect::Policy;
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_platform_verifier::BuilderVerifierExt;
use serde::de::DeserializeOwned;
use worker_wire::{ApiBase, Secret};

use crate::{
    TransportError,
    text::{chain, one_line},
};

/// For a whole registration request. Longer holds up the next one; shorter fails on a studio that is slow to wake.
const REQUEST: Duration = Duration::from_secs(60);

/// For its TCP and TLS handshake.
const CONNECT: Duration = Duration::from_secs(15);

/// Largest answer to a registration request, in bytes: many times what one needs.
const ANSWER_BYTES: usize = 64 * 1024;

/// Characters of a refusal's body that a log line shows.
pub(crate) const BODY_CHARS: usize = 300;

/// HTTP and TLS clients for one studio. Certificates are judged by the operating system's trust store, so a private
/// authority works once it is installed there. Redirects are not followed: a bearer token goes where the operator
/// said and nowhere else. Proxies are not used, because the socket could not follow.
#[derive(Clone, Debug)]
pub struct Transport {
    pub(crate) http: reqwest::Client,
    pub(crate) tls: Arc<ClientConfig>,
}

impl Transport {
    /// Clients for a studio. One without encryption spares the reading of the trust store, and can reach nothing that
    /// is encrypted.
    pub fn new(base: &ApiBase) -> Result<Self, TransportError> {
        let tls = tls(base.is_secure())?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls.clone())
            .redirect(Policy::none())
            .timeout(REQUEST)
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .no_proxy()
            .build()?;
        Ok(Self {
            http,
            tls: Arc::new(tls),
        })
    }
}

fn tls(secure: bool) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?;
    let builder = if secure {
        builder.with_platform_verifier()?
    } else {
        builder.with_root_certificates(RootCertStore::empty())
    };
    Ok(builder.with_no_client_auth())
}

/// Why a registration request brought nothing usable. All of these are tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("{op} failed: {cause}")]
    Transport { op: &'static str, cause: String },
    #[error("{op} failed: {status} — {body}")]
    Status {
        op: &'static str,
        status: u16,
        body: String,
    },
    #[error(
        "{op} failed: {status} — the studio points to {location}; set `api_base_url` to where it really is"
    )]
    Redirect {
        op: &'static str,
        status: u16,
        location: String,
    },
    #[error("{op} failed: the answer is longer than {ANSWER_BYTES} bytes")]
    TooLong { op: &'static str },
    #[error("{op} failed: the answer cannot be read: {cause}")]
    Unreadable { op: &'static str, cause: String },
}

/// Sends a request and reads its JSON answer. Of a refusal that repeats the secret nobody hears it.
pub(crate) async fn call<T: DeserializeOwned>(
    op: &'static str,
    request: reqwest::RequestBuilder,
    secret: &Secret,
) -> Result<T, CallError> {
    let mut response = request.send().await.map_err(|e| transport(op, &e))?;
    let status = response.status();
    if status.is_redirection() {
        return Err(CallError::Redirect {
            op,
            status: status.as_u16(),
            location: secret.hidden_in(&location(&response)),
        });
    }
    let (body, whole) = body(&mut response).await.map_err(|e| transport(op, &e))?;
    if !status.is_success() {
        // A refusal counts by its status; of its body the beginning will do.
        return Err(CallError::Status {
            op,
            status: status.as_u16(),
            body: one_line(
                &secret.hidden_in(&String::from_utf8_lossy(&body)),
                BODY_CHARS,
            ),
        });
    }
    if !whole {
        return Err(CallError::TooLong { op });
    }
    // The parser's own words could quote a token.
    serde_json::from_slice(&body).map_err(|e| CallError::Unreadable {
        op,
        cause: format!("{:?} error at column {}", e.classify(), e.column()),
    })
}

/// The body up to the limit, and whether that is all of it.
async fn body(response: &mut reqwest::Response) -> Result<(Vec<u8>, bool), reqwest::Error> {
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await? {
        let room = ANSWER_BYTES - body.len();
        body.extend(part.iter().take(room));
        if part.len() > room {
            return Ok((body, false));
        }
    }
    Ok((body, true))
}

fn location(response: &reqwest::Response) -> String {
    let target = response.headers().get(reqwest::header::LOCATION);
    let target = target
        .and_then(|value| value.to_str().ok())
        .unwrap_or("nowhere");
    one_line(target, BODY_CHARS)
}

fn transport(op: &'static str, error: &reqwest::Error) -> CallError {
    CallError::Transport {
        op,
        cause: one_line(&chain(error), BODY_CHARS),
    }
}
