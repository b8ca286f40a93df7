//! Opening the WebSocket: one limit over lookup, TCP, TLS and upgrade.

use std::{io, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{net::TcpStream, time};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config,
    tungstenite::{
        self, ClientRequestBuilder,
        client::IntoClientRequest,
        handshake::client::{Request, Response},
        http::{HeaderValue, Uri, header::AUTHORIZATION},
        protocol::WebSocketConfig,
    },
};
use url::Url;
use worker_wire::{MAX_FRAME_BYTES, MAX_MESSAGE_BYTES, SUBPROTOCOL, StudioAccount};

use crate::{
    context::Context,
    end::End,
    http::BODY_CHARS,
    text::{chain, is_path_segment, one_line},
};

/// An open session's socket.
pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Head start of each address over the next, unless it fails sooner. Larger lets a dead address family eat the whole limit; smaller opens
/// connections that nobody needs.
const STAGGER: Duration = Duration::from_millis(250);

/// Opens the socket of one worker. What failed comes back as the end that it means.
pub(crate) async fn open(context: &Context, account: &StudioAccount) -> Result<Socket, End> {
    let url = account.base.socket(&account.worker_id);
    context.info(format!("connecting to {url}"));
    let limit = context.options.timing.connect;
    match time::timeout(limit, upgrade(context, account, &url)).await {
        Ok(opened) => opened,
        Err(_) => Err(End::disconnected(format!(
            "the studio did not answer the connection within {limit:?}"
        ))),
    }
}

async fn upgrade(context: &Context, account: &StudioAccount, url: &str) -> Result<Socket, End> {
    let request = request(account, url)?;
    let stream = dial(url)
        .await
        .map_err(|e| End::disconnected(format!("the studio cannot be reached: {e}")))?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_FRAME_BYTES));
    let tls = Connector::Rustls(context.options.transport.tls.clone());
    match client_async_tls_with_config(request, stream, Some(config), Some(tls)).await {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(response)) => Err(refused(&response, account)),
        Err(error) => Err(End::disconnected(format!(
            "the upgrade failed: {}",
            one_line(&chain(&error), BODY_CHARS)
        ))),
    }
}

fn request(account: &StudioAccount, url: &str) -> Result<Request, End> {
    let unusable = |what: &str| End::AuthFailed {
        reason: format!("the saved {what} holds characters that cannot be sent"),
    };
    if !is_path_segment(&account.worker_id) {
        return Err(unusable("worker id"));
    }
    let uri: Uri = url.parse().map_err(|_| unusable("worker id"))?;
    let mut request = ClientRequestBuilder::new(uri)
        .with_sub_protocol(SUBPROTOCOL)
        .into_client_request()
        .map_err(|_| unusable("worker id"))?;
    let mut bearer = HeaderValue::from_str(&format!("Bearer {}", account.token.expose()))
        .map_err(|_| unusable("auth token"))?;
    bearer.set_sensitive(true);
    request.headers_mut().insert(AUTHORIZATION, bearer);
    Ok(request)
}

/// What a studio's refusal of the upgrade means.
fn refused(response: &Response, account: &StudioAccount) -> End {
    let status = response.status().as_u16();
    let body = response.body().as_deref().unwrap_or_default();
    let body = account.token.hidden_in(&String::from_utf8_lossy(body));
    let body = one_line(&body, BODY_CHARS);
    match status {
        401 => End::AuthFailed {
            reason: format!("401 on websocket upgrade — {body}"),
        },
        404 => End::Revoked {
            cause: format!("404 on websocket upgrade — {body}"),
        },
        _ => End::disconnected(format!("{status} on websocket upgrade — {body}")),
    }
}

/// Connects to the first address of the host that answers.
async fn dial(url: &str) -> io::Result<TcpStream> {
    let url = Url::parse(url).map_err(io::Error::other)?;
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = url.port_or_known_default().unwrap_or_default();
    let found: Vec<_> = tokio::net::lookup_host((host, port)).await?.collect();
    let mut addresses = found.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    loop {
        if let Some(address) = addresses.next() {
            attempts.push(TcpStream::connect(address));
        }
        let more = addresses.len() > 0;
        tokio::select! {
            attempt = attempts.next() => match attempt {
                None => return Err(failure),
                Some(Err(error)) => failure = error,
                Some(Ok(stream)) => {
                    // Frames are flushed when they are whole; waiting to fill packets would add 40 ms to each.
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
            },
            () = time::sleep(STAGGER), if more => {}
        }
    }
}
