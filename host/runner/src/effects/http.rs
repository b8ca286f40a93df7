//! Requests to hosts that the operator granted, with secrets that the host puts in.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use tokio::time::Instant;
use url::Url;
use worker_egress::{Answered, Body, Exchange, ExchangeError};
use worker_files::JobFiles;
use worker_plugins::SecretGrant;
use worker_plugins::contract::{Failure, Request, Response};
use worker_servers::Repeat;

use super::perform::Tools;
use super::request::{Prepared, Terms, not_answered, one_place, prepare, respond};
use super::urls::on_granted_host;
use super::{Refused, Undone};
use crate::journal::bare_url;

/// How long a request takes that names no time: an answer that is not there after a minute is not coming.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The shortest pause between two of a repeated request. Shorter would hammer somebody's server.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// The longest answer that is looked into for a repeat's pointer, in bytes; a longer one is no interim report.
const MAX_LOOKED_INTO: u64 = 4 << 20;

pub(super) async fn http(
    tools: &Tools<'_>,
    request: Request,
    files: &JobFiles,
) -> Result<Response, Undone> {
    let grants = tools.engine.grants();
    // An offer's URLs are for fetching only: a request could carry the job's text there.
    if !on_granted_host(&request.target, &grants.hosts) {
        return Err(Refused::ForeignHost {
            url: bare_url(&request.target).unwrap_or_else(|| "not a URL".to_owned()),
        }
        .into());
    }
    let egress = &tools.shared.egress;
    let url = egress.check(&request.target).map_err(not_answered)?;
    let plugin = &tools.engine.identity().name;
    let secret = |name: &str| {
        if !grants.secrets.iter().any(|grant| fits(grant, name, &url)) {
            return Err(Refused::ForeignSecret { name: short(name) });
        }
        let value = tools.shared.secrets.get(plugin, name);
        value
            .map(|secret| secret.expose().to_owned())
            .ok_or_else(|| Refused::MissingSecret {
                name: short(name),
                plugin: plugin.clone(),
            })
    };
    let terms = Terms {
        timeout: TIMEOUT,
        shortest_pause: SHORTEST_PAUSE,
        secret: &secret,
    };
    let prepared = prepare(tools, &request, &terms, files).await?;
    Ok(respond(send(tools, url, prepared, files).await?, files).await?)
}

/// Sends it, again while its answer says that there is none yet.
async fn send(
    tools: &Tools<'_>,
    url: Url,
    prepared: Prepared,
    files: &JobFiles,
) -> Result<Answered, Undone> {
    let (egress, cancel) = (&tools.shared.egress, &tools.reservation.cancel);
    let whole = prepared.timeout;
    let deadline = Instant::now() + whole;
    let repeat = prepared.repeat;
    let mut exchange = Exchange {
        method: prepared.method,
        url,
        headers: prepared.headers,
        body: prepared.body,
        timeout: whole,
        max_bytes: prepared.max_bytes,
        inline_bytes: prepared.inline_bytes.into(),
    };
    let spill = one_place(files);
    loop {
        exchange.timeout = deadline.saturating_duration_since(Instant::now());
        let answered =
            egress
                .exchange(&exchange, &spill, cancel)
                .await
                .map_err(|error| match error {
                    // Of one that is asked again the last had less time than the request as a whole.
                    ExchangeError::TimedOut { .. } => Undone::Late(whole, not_answered(error)),
                    _ => Undone::Failed(not_answered(error)),
                })?;
        let pending = |repeat: &&Repeat| {
            // One that failed is the last.
            (200..300).contains(&answered.status)
                && looked_into(&answered.body).is_some_and(|body| repeat.is_pending(&body))
        };
        let Some(repeat) = repeat.as_ref().filter(pending) else {
            return Ok(answered);
        };
        if let Body::File(path) = &answered.body {
            // Not the last one: nobody will ask for it.
            let removed = tokio::fs::remove_file(path).await;
            removed.map_err(|error| not_removed(&error))?;
        }
        if Instant::now() + repeat.every >= deadline {
            return Err(Undone::Late(whole, still_pending(whole)));
        }
        tokio::select! {
            () = tokio::time::sleep(repeat.every) => {}
            () = cancel.cancelled() => return Err(cancelled().into()),
        }
    }
}

fn looked_into(body: &Body) -> Option<Cow<'_, [u8]>> {
    match body {
        Body::Bytes(bytes) => (bytes.len() as u64 <= MAX_LOOKED_INTO).then_some(bytes.into()),
        Body::File(path) => {
            let size = std::fs::metadata(path).ok()?.len();
            let bytes = (size <= MAX_LOOKED_INTO).then(|| std::fs::read(path));
            Some(bytes?.ok()?.into())
        }
    }
}

fn still_pending(whole: Duration) -> Failure {
    Failure {
        message: format!(
            "the answer was still pending after {} s; allow it more time, or look at what it waits for",
            whole.as_secs()
        ),
        retryable: true,
    }
}

fn not_removed(error: &io::Error) -> Failure {
    Failure {
        message: format!("an answer cannot be removed from the job's files: {error}"),
        retryable: true,
    }
}

pub(super) fn cancelled() -> Failure {
    Failure {
        message: "the job was cancelled".to_owned(),
        retryable: false,
    }
}

fn short(name: &str) -> String {
    name.chars()
        .filter(char::is_ascii_graphic)
        .take(64)
        .collect()
}

/// Whether the secret `name` may go to `url` by this grant.
fn fits(grant: &SecretGrant, name: &str, url: &Url) -> bool {
    grant.name == name && worker_egress::is_at(url, &grant.host, &grant.path_prefix)
}
