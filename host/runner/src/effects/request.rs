//! Requests as plugins state them, for `http` and for `call`: everything checked, sent, sent again while the answer
//! says that it is not ready, and handed back as bytes or as a file of the job.

use std::io;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;
use worker_egress::{Answered, Body, Exchange, ExchangeError, HeaderSet, Spill, method};
use worker_files::JobFiles;
use worker_plugins::contract::{Answer, Failure, Header, Repeat, Request, Response};

use super::Refused;
use super::perform::{file, on_disk, too_much};
use crate::finish::part;

/// Longest body of a request, in bytes: it is held in memory.
const MAX_BODY: u64 = 256 << 20;
/// The shortest pause between two of a repeated request. Shorter would hammer somebody's server.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// Most values that mean "not yet".
const MAX_PENDING: usize = 32;
/// The longest answer that is looked into for a repeat's pointer.
const MAX_LOOKED_INTO: usize = 4 << 20;

/// How one exchange is made: through egress out there, through a plain client to a server on this machine.
pub(super) trait Sender: Sync {
    /// Sends it once.
    fn send(
        &self,
        exchange: &Exchange,
        spill: Spill<'_>,
        cancel: &CancellationToken,
    ) -> impl Future<Output = Result<Answered, ExchangeError>> + Send;
}

/// What a request is made under.
pub(super) struct Terms<'a> {
    /// Where it goes, checked by the caller.
    pub(super) url: Url,
    /// When the plugin names no time: the whole, repeats included.
    pub(super) timeout: Duration,
    /// The longest time that it may name.
    pub(super) longest: Duration,
    /// Bytes that an answer may bring into the plugin.
    pub(super) inline: u64,
    /// The longest answer, in bytes.
    pub(super) largest: u64,
    /// The value of a secret for this place.
    pub(super) secret: &'a (dyn Fn(&str) -> Result<String, Refused> + Sync),
}

/// Performs `request`. Its `target` is not looked at: it is in `terms.url`.
pub(super) async fn perform(
    sender: &impl Sender,
    request: Request,
    terms: &Terms<'_>,
    files: &JobFiles,
    cancel: &CancellationToken,
) -> Result<Response, Failure> {
    let asked = request.timeout_ms.map(Duration::from_millis);
    let whole = asked.unwrap_or(terms.timeout).min(terms.longest);
    let repeat = request.repeat.as_ref().map(check_repeat).transpose()?;
    let mut exchange = prepare(&request, terms, files, whole).await?;
    let deadline = Instant::now() + whole;
    let spill = || {
        files
            .input_path()
            .map_err(|error| io::Error::other(error.to_string()))
    };
    loop {
        exchange.timeout = deadline.saturating_duration_since(Instant::now());
        let answered = sender
            .send(&exchange, &spill, cancel)
            .await
            .map_err(not_answered)?;
        let Some(every) = repeat.filter(|_| is_pending(&request, &answered)) else {
            return respond(answered, files).await;
        };
        if let Body::File(path) = &answered.body {
            // Not the last one: nobody will ask for it.
            std::fs::remove_file(path).map_err(|error| on_disk_here(&error))?;
        }
        if Instant::now() + every >= deadline {
            return Err(Failure {
                message: format!(
                    "the answer was still pending after {} s; allow it more time, or look at what it waits for",
                    whole.as_secs()
                ),
                retryable: true,
            });
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = cancel.cancelled() => return Err(cancelled()),
        }
    }
}

async fn prepare(
    request: &Request,
    terms: &Terms<'_>,
    files: &JobFiles,
    timeout: Duration,
) -> Result<Exchange, Failure> {
    let mut headers = HeaderSet::default();
    for (name, value) in &request.headers {
        match value {
            Header::Text(text) => headers.text(name, text),
            Header::Secret(secret) => headers.secret(name, &(terms.secret)(secret)?),
        }
        .map_err(not_answered)?;
    }
    let inline = u64::from(request.inline_bytes);
    if inline > terms.inline {
        return Err(too_much(
            "bytes of an answer to bring in",
            inline,
            terms.inline,
        ));
    }
    let parts: Vec<_> = request.body.iter().cloned().map(part).collect();
    let body = match parts.is_empty() {
        true => bytes::Bytes::new(),
        false => files.assemble(&parts, MAX_BODY).await.map_err(on_disk)?,
    };
    let largest = terms.largest;
    Ok(Exchange {
        method: method(&request.method).map_err(not_answered)?,
        url: terms.url.clone(),
        headers,
        body,
        timeout,
        max_bytes: request
            .max_bytes
            .map_or(largest, |asked| asked.min(largest)),
        inline_bytes: inline,
    })
}

fn check_repeat(repeat: &Repeat) -> Result<Duration, Failure> {
    if repeat.pending.len() > MAX_PENDING {
        let count = repeat.pending.len() as u64;
        return Err(too_much(
            "values that mean pending",
            count,
            MAX_PENDING as u64,
        ));
    }
    let every = Duration::from_millis(repeat.every_ms.into());
    Ok(every.max(SHORTEST_PAUSE))
}

/// Whether the answer says that there is none yet. One that failed, or is no JSON, is the last.
fn is_pending(request: &Request, answered: &Answered) -> bool {
    let (Some(repeat), true) = (&request.repeat, (200..300).contains(&answered.status)) else {
        return false;
    };
    let Some(value) = looked_into(&answered.body) else {
        return false;
    };
    let found = match value.pointer(&repeat.pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(other @ (Value::Bool(_) | Value::Number(_) | Value::Null)) => other.to_string(),
        _ => return false,
    };
    repeat.pending.contains(&found)
}

fn looked_into(body: &Body) -> Option<Value> {
    match body {
        Body::Bytes(bytes) if bytes.len() <= MAX_LOOKED_INTO => serde_json::from_slice(bytes).ok(),
        Body::File(path) => {
            let size = std::fs::metadata(path).ok()?.len();
            if size > MAX_LOOKED_INTO as u64 {
                return None;
            }
            serde_json::from_slice(&std::fs::read(path).ok()?).ok()
        }
        Body::Bytes(_) => None,
    }
}

async fn respond(answered: Answered, files: &JobFiles) -> Result<Response, Failure> {
    let body = match answered.body {
        Body::Bytes(bytes) => Answer::Bytes(bytes),
        Body::File(path) => {
            let info = files.adopt(path, "answer").await.map_err(on_disk)?;
            Answer::File(file(info))
        }
    };
    Ok(Response {
        status: answered.status,
        headers: answered.headers,
        body,
    })
}

pub(super) fn not_answered(error: ExchangeError) -> Failure {
    Failure {
        message: error.to_string(),
        retryable: error.retryable(),
    }
}

fn on_disk_here(error: &io::Error) -> Failure {
    Failure {
        message: format!("an answer cannot be removed from the job's files: {error}"),
        retryable: true,
    }
}

fn cancelled() -> Failure {
    Failure {
        message: "the job was cancelled".to_owned(),
        retryable: false,
    }
}
