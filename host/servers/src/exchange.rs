//! One request and its answer, over a connection of its own.
//!
//! The address is a server's that we started. No proxy, no redirect, no cookie, no connection kept: each would let one
//! call bear upon another. What comes back is bounded before it is read.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::place::Place;

/// How long connecting may take; on one machine it takes none.
const CONNECT: Duration = Duration::from_secs(10);

/// Most bytes of an answer's head, and most headers.
const HEAD_BYTES: usize = 64 * 1024;
const HEADERS: usize = 128;

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    #[error("{0}")]
    Connect(io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
}

/// The head of an answer, with its body still to come.
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Incoming,
    /// The connection lives as long as this.
    _connection: Connection,
}

struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends a request. The target was checked; `Host` and `Connection` are set here.
pub(crate) async fn send(
    place: &Place,
    method: &Method,
    target: &str,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<Head, Failed> {
    let stream = timeout(CONNECT, place.connect())
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(Failed::Connect)?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .handshake(TokioIo::new(stream))
        .await?;
    let connection = Connection(tokio::spawn(async move {
        // What goes wrong is told to whoever waits for the answer.
        let _ = connection.await;
    }));
    let mut request = http::Request::builder()
        .method(method)
        .uri(target)
        .body(Full::new(body))?;
    let host = HeaderValue::from_str(&place.address().to_string()).map_err(http::Error::from)?;
    *request.headers_mut() = headers.clone();
    request.headers_mut().insert(HOST, host);
    request
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
    let (head, body) = sender.send_request(request).await?.into_parts();
    Ok(Head {
        status: head.status,
        headers: head.headers,
        body,
        _connection: connection,
    })
}

impl Head {
    /// The next bytes of the body; none at its end.
    pub(crate) async fn more(&mut self) -> Result<Option<Bytes>, Failed> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    // Trailers say nothing that anybody asked for.
                    if let Ok(bytes) = frame?.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }
}

/// The status that a server answers with on its ready path; none without an answer in HTTP.
pub(crate) async fn ready_status(place: &Place, path: &str) -> Option<StatusCode> {
    let answer = send(place, &Method::GET, path, &HeaderMap::new(), Bytes::new()).await;
    answer.ok().map(|head| head.status)
}
