//! A call, checked, and its answer.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use serde_json::Value;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

use crate::exchange::{Failed, Head, send};
use crate::instance::Instance;

/// Longest answer that is looked at for [`Repeat`]; a longer one is no interim report and is taken as the last.
const REPORT_BYTES: u64 = 64 << 20;

/// One request to a server. Its target has passed [`crate::check_target`]; its headers hold nothing of the connection's.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its method.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// Headers beyond `Host`, `Connection` and the length, which are set here.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// Time for all of it, repeats included.
    pub timeout: Duration,
    /// Longest answer.
    pub max_bytes: u64,
    /// An answer up to this long is held in memory.
    pub inline_bytes: u32,
    /// Whether it is sent again.
    pub repeat: Option<Repeat>,
}

/// Send it again while its answer says that the work goes on.
#[derive(Clone, Debug)]
pub struct Repeat {
    /// Pause between an answer and the next request.
    pub every: Duration,
    /// JSON pointer into the answer.
    pub pointer: String,
    /// Values there that mean that the work goes on.
    pub pending: Vec<String>,
}

impl Repeat {
    /// Whether a successful answer says that the work goes on. What is no JSON, or has nothing there, says no.
    #[must_use]
    pub fn is_pending(&self, body: &[u8]) -> bool {
        let Ok(document) = serde_json::from_slice::<Value>(body) else {
            return false;
        };
        let value = match document.pointer(&self.pointer) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(_) | Value::Object(_)) | None => return false,
            Some(plain) => plain.to_string(),
        };
        self.pending.contains(&value)
    }
}

/// Gives a path for an answer that is not held in memory; nothing is there yet.
pub type Spill<'a> = &'a (dyn Fn() -> io::Result<PathBuf> + Send + Sync);

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status; a redirect is not followed.
    pub status: u16,
    /// Its headers, those that are text.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Body,
}

/// The body of an answer.
#[derive(Debug)]
pub enum Body {
    /// In memory.
    Bytes(Vec<u8>),
    /// In a new file.
    File(PathBuf),
}

/// Why there is no answer.
pub(crate) enum NoAnswer {
    Broken(Failed),
    TooLarge,
    Store(io::Error),
}

impl From<Failed> for NoAnswer {
    fn from(failed: Failed) -> Self {
        Self::Broken(failed)
    }
}

/// Sends it, again while it is to be repeated.
pub(crate) async fn perform(
    instance: &Instance,
    request: &Request,
    spill: Spill<'_>,
) -> Result<Answer, NoAnswer> {
    loop {
        instance.count_call();
        let head = send(
            &instance.place,
            &request.method,
            &request.target,
            &request.headers,
            request.body.clone(),
        )
        .await?;
        let answer = receive(head, request, spill).await?;
        let Some(repeat) = request
            .repeat
            .as_ref()
            .filter(|_| (200..300).contains(&answer.status))
        else {
            return Ok(answer);
        };
        if !is_pending(&answer, repeat).await.map_err(NoAnswer::Store)? {
            return Ok(answer);
        }
        if let Body::File(path) = answer.body {
            tokio::fs::remove_file(path)
                .await
                .map_err(NoAnswer::Store)?;
        }
        tokio::time::sleep(repeat.every).await;
    }
}

async fn is_pending(answer: &Answer, repeat: &Repeat) -> io::Result<bool> {
    match &answer.body {
        Body::Bytes(bytes) => Ok(repeat.is_pending(bytes)),
        Body::File(path) => {
            if tokio::fs::metadata(path).await?.len() > REPORT_BYTES {
                return Ok(false);
            }
            Ok(repeat.is_pending(&tokio::fs::read(path).await?))
        }
    }
}

/// Reads a body, in memory as long as it is short.
async fn receive(mut head: Head, request: &Request, spill: Spill<'_>) -> Result<Answer, NoAnswer> {
    let mut held = Vec::new();
    let mut file: Option<(File, Unkept)> = None;
    let mut total: u64 = 0;
    while let Some(bytes) = head.more().await? {
        total = total.saturating_add(bytes.len() as u64);
        if total > request.max_bytes {
            return Err(NoAnswer::TooLarge);
        }
        if file.is_none() && total > u64::from(request.inline_bytes) {
            let path = spill().map_err(NoAnswer::Store)?;
            let mut options = File::options();
            let options = options.write(true).create_new(true).mode(0o600);
            let mut opened = options.open(&path).await.map_err(NoAnswer::Store)?;
            opened.write_all(&held).await.map_err(NoAnswer::Store)?;
            held = Vec::new();
            file = Some((opened, Unkept(Some(path))));
        }
        match &mut file {
            Some((file, _)) => file.write_all(&bytes).await.map_err(NoAnswer::Store)?,
            None => held.extend_from_slice(&bytes),
        }
    }
    let body = match file {
        None => Body::Bytes(held),
        Some((mut file, unkept)) => {
            file.flush().await.map_err(NoAnswer::Store)?;
            Body::File(unkept.keep())
        }
    };
    let text = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        Some((name.to_string(), value.to_str().ok()?.to_owned()))
    };
    Ok(Answer {
        status: head.status.as_u16(),
        headers: head.headers.iter().filter_map(text).collect(),
        body,
    })
}

/// A file that goes unless its answer is whole.
struct Unkept(Option<PathBuf>);

impl Unkept {
    fn keep(mut self) -> PathBuf {
        self.0.take().unwrap_or_default()
    }
}

impl Drop for Unkept {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            // The job's folder goes with the job anyway.
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_listed_value_is_pending() {
        let repeat = Repeat {
            every: Duration::ZERO,
            pointer: "/job/state".to_owned(),
            pending: vec!["queued".to_owned(), "0".to_owned()],
        };
        for pending in [r#"{"job":{"state":"queued"}}"#, r#"{"job":{"state":0}}"#] {
            assert!(repeat.is_pending(pending.as_bytes()), "{pending}");
        }
        for over in [
            r#"{"job":{"state":"done"}}"#,
            r#"{"job":{"state":["queued"]}}"#,
            r#"{"job":{}}"#,
            "queued",
            "",
        ] {
            assert!(!repeat.is_pending(over.as_bytes()), "{over}");
        }
    }
}
