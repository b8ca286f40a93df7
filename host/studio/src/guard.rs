//! Who may talk to the local routes: programs of this machine that hold the token, and no web page.
//!
//! A page in a browser can send requests to loopback, under a name of its own (DNS rebinding) or from its own origin.
//! So the order is: the `Host` must be loopback, an `Origin` must be loopback or absent, and the token must be right.
//! Workers never send an `Origin`, so the wire routes refuse any.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use http::{HeaderMap, StatusCode, header};
use worker_wire::Secret;

use crate::components::COMPONENT_BYTES;
use crate::secrets::{self, TokenHash};
use crate::wire::complete::drain;

/// Largest body of a local route but that of components, in bytes. Smaller would refuse offers that carry pictures, larger would
/// let one request take that much memory.
pub const MAX_BODY_BYTES: usize = 64 << 20;

/// Puts routes behind all three checks and the body limit.
pub fn protect(router: Router, token: &Secret) -> Router {
    let expected = Arc::new(secrets::hash(token.expose()));
    router
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn_with_state(expected, check))
}

/// Puts routes behind the `Origin` check alone, for what only programs call.
pub fn no_browsers(router: Router) -> Router {
    router.layer(from_fn(refuse_origin))
}

async fn refuse_origin(request: Request, next: Next) -> Response {
    if request.headers().contains_key(header::ORIGIN) {
        return denied(Denial::Origin);
    }
    next.run(request).await
}

async fn check(State(expected): State<Arc<TokenHash>>, request: Request, next: Next) -> Response {
    if let Err(denial) = judge(request.headers(), request.uri(), &expected) {
        drain(request.into_body()).await;
        return denied(denial);
    }
    next.run(request).await
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Denial {
    Host,
    Origin,
    Token,
    Size,
}

fn judge(headers: &HeaderMap, uri: &http::Uri, expected: &TokenHash) -> Result<(), Denial> {
    if !host_is_loopback(headers, uri) {
        return Err(Denial::Host);
    }
    let mut origins = headers.get_all(header::ORIGIN).iter();
    if !origins.all(|origin| origin.to_str().is_ok_and(origin_is_loopback)) {
        return Err(Denial::Origin);
    }
    let given = secrets::bearer(headers).ok_or(Denial::Token)?;
    if !secrets::matches(given, expected) {
        return Err(Denial::Token);
    }
    let declared = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<usize>().ok());
    if declared.is_some_and(|bytes| bytes > most(uri)) {
        return Err(Denial::Size);
    }
    Ok(())
}

/// Largest body that a route takes, whatever smaller bound it has of its own.
fn most(uri: &http::Uri) -> usize {
    match uri.path().starts_with("/api/components/") {
        true => COMPONENT_BYTES,
        false => MAX_BODY_BYTES,
    }
}

fn host_is_loopback(headers: &HeaderMap, uri: &http::Uri) -> bool {
    // A target in absolute form says where it goes as well.
    let target = uri.host().is_none_or(is_loopback);
    let mut hosts = headers.get_all(header::HOST).iter();
    target
        && hosts.all(|host| {
            host.to_str()
                .is_ok_and(|host| is_loopback(without_port(host)))
        })
}

fn origin_is_loopback(origin: &str) -> bool {
    origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"))
        .is_some_and(|authority| is_loopback(without_port(authority)))
}

/// The host of `host`, `host:port`, `[v6]` or `[v6]:port`; empty, and so refused, when it is none of them.
fn without_port(authority: &str) -> &str {
    let (host, rest) = match authority.find(']') {
        Some(end) => authority.split_at(end + 1),
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port = rest.strip_prefix(':');
    let sound = rest.is_empty()
        || port.is_some_and(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    if sound { host } else { "" }
}

fn is_loopback(host: &str) -> bool {
    if host.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    bare.parse::<IpAddr>()
        .is_ok_and(|address| address.is_loopback())
}

fn denied(denial: Denial) -> Response {
    let (status, code, message) = match denial {
        Denial::Host => (
            StatusCode::FORBIDDEN,
            "forbidden_host",
            "the Host header must name this machine's loopback address",
        ),
        Denial::Origin => (
            StatusCode::FORBIDDEN,
            "forbidden_origin",
            "requests from web pages are refused",
        ),
        Denial::Token => (
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "the bearer token is missing or wrong; it is in the discovery file",
        ),
        Denial::Size => (
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            "the body is larger than this route takes",
        ),
    };
    let body = serde_json::json!({"error": code, "message": message});
    (status, Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_authorities_pass() {
        for authority in [
            "localhost",
            "LOCALHOST:80",
            "127.0.0.1",
            "127.0.0.1:4787",
            "127.9.9.9:1",
            "[::1]",
            "[::1]:4787",
        ] {
            assert!(is_loopback(without_port(authority)), "{authority}");
        }
        for authority in [
            "",
            ":80",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1:80@evil.example",
            "127.0.0.1:",
            "0.0.0.0",
            "10.0.0.1:80",
            "[::]",
            "[::1]evil",
            "[::1",
            "::1:80",
        ] {
            assert!(!is_loopback(without_port(authority)), "{authority}");
        }
    }

    #[test]
    fn an_origin_needs_a_scheme_and_loopback() {
        for origin in [
            "http://localhost:3000",
            "https://127.0.0.1",
            "http://[::1]:9",
        ] {
            assert!(origin_is_loopback(origin), "{origin}");
        }
        for origin in [
            "null",
            "",
            "localhost",
            "file://",
            "http://evil.example",
            "https://127.0.0.1.evil.example",
        ] {
            assert!(!origin_is_loopback(origin), "{origin}");
        }
    }
}
