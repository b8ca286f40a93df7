//! What an operator may ask of the swap, by the local API of a running worker or on the store while none runs.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use worker_swap::{SwapError, Swapper, Taken};

use crate::afar::{self, AfarError};
use crate::control::Control;

/// One wish.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Wish {
    /// The plugin; for `add` none.
    #[serde(default)]
    pub(crate) name: String,
    /// For `add`: the file, absolute.
    #[serde(default)]
    pub(crate) path: Option<PathBuf>,
    /// For `add`: where it is to be fetched, instead.
    #[serde(default)]
    pub(crate) address: Option<String>,
    /// For `grant`: what was looked at; for `forgive`: what is meant.
    #[serde(default)]
    pub(crate) digest: Option<String>,
}

impl Wish {
    /// A wish about one plugin.
    pub(crate) fn of(name: String) -> Self {
        Self {
            name,
            path: None,
            address: None,
            digest: None,
        }
    }
}

/// Does what a wish says; gives one line.
pub(crate) async fn fulfil(
    swapper: &Arc<Swapper>,
    action: &str,
    wish: Wish,
) -> Option<Result<String, SwapError>> {
    let Wish {
        name, path, digest, ..
    } = wish;
    let short = |digest: &str| digest.chars().take(12).collect::<String>();
    let done = match (action, path) {
        ("rollback", _) => swapper.rollback(&name).await.map(|version| {
            format!(
                "{name} {} ({}) serves again",
                version.version,
                short(&version.digest)
            )
        }),
        ("pin", _) => swapper.pin(&name, true).await.map(|version| {
            format!(
                "{name} stays at {} ({})",
                version.version,
                short(&version.digest)
            )
        }),
        ("unpin", _) => swapper
            .pin(&name, false)
            .await
            .map(|_| format!("{name} may be replaced again")),
        ("remove", _) => swapper
            .remove(&name)
            .await
            .map(|()| format!("{name} is out of service; its file stays where it is")),
        ("grant", _) => swapper
            .grant(&name, digest.as_deref())
            .await
            .map(|(version, waiting)| {
                format!(
                    "{name} {} ({}) serves, with {}",
                    version.version,
                    short(&version.digest),
                    waiting.more
                )
            }),
        ("forgive", _) => swapper
            .forgive(digest.as_deref().unwrap_or_default())
            .await
            .map(|one| {
                format!(
                    "{} {} is no longer quarantined; bring it again to have it tried",
                    one.plugin,
                    short(&one.digest)
                )
            }),
        ("add", Some(path)) => swapper.add(path).await.map(|(name, taken)| match taken {
            Taken::In(version) => format!(
                "{name} {} ({}) serves",
                version.version,
                short(&version.digest)
            ),
            Taken::Later => format!("{name} serves once its programs are here"),
        }),
        _ => return None,
    };
    Some(done)
}

/// `POST /daemon/plugins/{action}`.
pub(crate) async fn act(
    State(control): State<Arc<Control>>,
    Path(action): Path<String>,
    Json(wish): Json<Wish>,
) -> (StatusCode, Json<Value>) {
    // Whoever asked may go away; what was begun is brought to its end.
    let asked = tokio::spawn(async move {
        if let (Some(address), "add") = (&wish.address, action.as_str()) {
            return added(afar::add(&control.swapper, &control.metrics.egress, address).await);
        }
        done(fulfil(&control.swapper, &action, wish).await)
    });
    asked
        .await
        .unwrap_or_else(|_| failed(StatusCode::INTERNAL_SERVER_ERROR, "the worker is ending"))
}

fn done(done: Option<Result<String, SwapError>>) -> (StatusCode, Json<Value>) {
    match done {
        Some(Ok(told)) => (StatusCode::OK, Json(json!({ "done": told }))),
        Some(Err(error)) => failed(status_of(&error), &error.to_string()),
        None => {
            let message =
                "no such action; there are add, remove, rollback, pin, unpin, grant and forgive";
            (StatusCode::BAD_REQUEST, Json(json!({ "message": message })))
        }
    }
}

fn added(done: Result<String, AfarError>) -> (StatusCode, Json<Value>) {
    match done {
        Ok(told) => (StatusCode::OK, Json(json!({ "done": told }))),
        Err(AfarError::Swap(error)) => failed(status_of(&error), &error.to_string()),
        Err(error @ AfarError::Unnamed(_)) => failed(StatusCode::CONFLICT, &error.to_string()),
        Err(error @ AfarError::Supply(_)) => failed(StatusCode::BAD_GATEWAY, &error.to_string()),
    }
}

fn status_of(error: &SwapError) -> StatusCode {
    match error {
        SwapError::Unknown(_) | SwapError::NotQuarantined(_) => StatusCode::NOT_FOUND,
        SwapError::Refused(_)
        | SwapError::Pinned(_)
        | SwapError::NoPrevious(_)
        | SwapError::Waiting { .. }
        | SwapError::NothingWaits(_)
        | SwapError::SeveralQuarantined(_)
        | SwapError::AnotherWaits { .. } => StatusCode::CONFLICT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn failed(status: StatusCode, message: &str) -> (StatusCode, Json<Value>) {
    (status, Json(json!({ "message": message })))
}

/// `GET /daemon/plugins/history`.
pub(crate) async fn history(State(control): State<Arc<Control>>) -> Json<Value> {
    Json(control.swapper.history().await)
}
