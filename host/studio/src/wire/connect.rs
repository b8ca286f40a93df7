//! The WebSocket upgrade.

use std::sync::Arc;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use worker_wire::{MAX_FRAME_BYTES, MAX_MESSAGE_BYTES, SUBPROTOCOL};

use super::{authorize, refuse, session};
use crate::studio::Studio;

/// Route R3.
pub(super) async fn connect(
    State(studio): State<Arc<Studio>>,
    Path(worker): Path<String>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    if let Err(refused) = authorize(&studio, &worker, &headers) {
        return refused.into_response();
    }
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(rejection) => return rejection.into_response(),
    };
    if !offers_protocol(&headers) {
        return refuse(
            StatusCode::BAD_REQUEST,
            format!("the sub-protocol {SUBPROTOCOL} must be offered"),
        );
    }
    upgrade
        .protocols([SUBPROTOCOL])
        .max_message_size(MAX_MESSAGE_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .on_upgrade(move |socket| async move {
            let tasks = studio.tasks.clone();
            tasks
                .track_future(session::run(studio, worker, socket))
                .await;
        })
}

fn offers_protocol(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|word| word.trim() == SUBPROTOCOL)
}
