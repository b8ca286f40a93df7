//! One attempt to post media to the studio.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::multipart::{Form, Part};
use reqwest::{Body, Client, Response, StatusCode};
use tokio_util::io::{InspectReader, ReaderStream};
use worker_wire::{StudioAccount, media_type_of};

use crate::disk;
use crate::product::Kept;
use crate::timing::Timing;

/// Bytes read from the file at once. Smaller costs a thread hop each; larger is memory per upload.
const CHUNK: usize = 256 * 1024;

/// Characters of a refusal's text that go on to the studio and the log.
const REFUSAL_CHARS: usize = 300;

/// Bytes of a refusal read to get at that text.
const REFUSAL_BYTES: usize = 4096;

/// Longest attempt, whatever progress it makes; it only overrides the client's own limit, which is meant for small
/// requests.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(6 * 3600);

/// Media of at most so many bytes are read whole before they are sent: one read, and nobody has the file open afterwards. It
/// must be sent within the time in which something has to move, so more would be too much for a slow line.
pub(crate) const AT_ONCE: u64 = 256 * 1024;

/// What the studio said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It has the media.
    Done,
    /// The job is not this worker's any more.
    Taken,
    /// It will not have it; asking again would not help.
    Refused { text: String },
    /// Not now.
    Again {
        text: String,
        after: Option<Duration>,
    },
}

/// Posts one product's media. Ends on its own when nothing moves; dropping it ends it at once.
pub(crate) async fn post(
    http: &Client,
    account: &StudioAccount,
    kept: &Kept,
    file: &Path,
    timing: &Timing,
) -> Answer {
    let moved = Arc::new(AtomicU64::new(0));
    let row = &kept.row;
    let form = match form(kept, file, Arc::clone(&moved)).await {
        Ok(form) => form,
        Err(text) => return Answer::Refused { text },
    };
    let route = format!("/workers/{}/jobs/{}/complete", account.worker_id, row.job);
    let request = http
        .post(account.base.http(&route))
        .bearer_auth(account.token.expose())
        .timeout(LONGEST_ATTEMPT)
        .multipart(form)
        .send();
    match watched(request, &moved, timing.stall).await {
        Some(Ok(response)) => judge(response, account, timing).await,
        Some(Err(error)) => Answer::Again {
            text: format!("complete failed: {}", chain(&error.without_url())),
            after: None,
        },
        None => Answer::Again {
            text: format!(
                "complete failed: nothing moved for {} s",
                timing.stall.as_secs()
            ),
            after: None,
        },
    }
}

/// The body: the fields of the protocol, in its order, and the file with its length declared; streamed, unless it is small.
async fn form(kept: &Kept, path: &Path, moved: Arc<AtomicU64>) -> Result<Form, String> {
    let row = &kept.row;
    let unreadable = |e: &dyn std::fmt::Display| format!("complete failed: the kept file: {e}");
    let Some(media) = &row.media else {
        return Err(unreadable(&"it is no media"));
    };
    let part = |media_type: &str| -> Result<(), reqwest::Error> {
        Part::bytes(Vec::new()).mime_str(media_type).map(|_| ())
    };
    let media_type = media
        .media_type
        .as_deref()
        .filter(|given| part(given).is_ok())
        .unwrap_or_else(|| media_type_of(&media.ext));
    let image = if let Some(bytes) = &kept.bytes {
        Part::stream(bytes.clone())
    } else if media.bytes <= AT_ONCE {
        let path = path.to_owned();
        let read = tokio::task::spawn_blocking(move || disk::read_bounded(&path, AT_ONCE));
        let bytes = read
            .await
            .map_err(|e| unreadable(&e))?
            .map_err(|e| unreadable(&e))?;
        if u64::try_from(bytes.len()) != Ok(media.bytes) {
            return Err(unreadable(&format_args!(
                "it has {} bytes instead of {}",
                bytes.len(),
                media.bytes
            )));
        }
        Part::bytes(bytes)
    } else {
        let file = tokio::fs::File::open(path)
            .await
            .map_err(|e| unreadable(&e))?;
        let counted = InspectReader::new(file, move |bytes: &[u8]| {
            let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            moved.fetch_add(count, Ordering::Relaxed);
        });
        let body = Body::wrap_stream(ReaderStream::with_capacity(counted, CHUNK));
        Part::stream_with_length(body, media.bytes)
    };
    let image = image
        .file_name(format!("{}.{}", row.job, media.ext))
        .mime_str(media_type)
        .map_err(|e| unreadable(&e))?;
    Ok(Form::new()
        .text("prompt", row.prompt.clone())
        .text("ext", media.ext.clone())
        .part("image", image))
}

/// The answer to a request, or `None` when nothing has moved for `stall`.
async fn watched<F: Future>(request: F, moved: &AtomicU64, stall: Duration) -> Option<F::Output> {
    tokio::pin!(request);
    let mut seen = moved.load(Ordering::Relaxed);
    loop {
        if let Ok(answer) = tokio::time::timeout(stall, &mut request).await {
            return Some(answer);
        }
        let now = moved.load(Ordering::Relaxed);
        if now == seen {
            return None;
        }
        seen = now;
    }
}

async fn judge(response: Response, account: &StudioAccount, timing: &Timing) -> Answer {
    let status = response.status();
    if status.is_success() {
        drain(response, timing.refusal_text);
        return Answer::Done;
    }
    if status == StatusCode::CONFLICT {
        return Answer::Taken;
    }
    let after = retry_after(&response);
    let text = refusal(response, account, timing.refusal_text).await;
    let text = format!("complete failed: {} — {text}", status.as_u16());
    let passing = status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
        );
    if passing {
        Answer::Again { text, after }
    } else {
        Answer::Refused { text }
    }
}

/// Reads what is left of a good answer in the background, so that the connection serves again.
fn drain(mut response: Response, patience: Duration) {
    tokio::spawn(tokio::time::timeout(patience, async move {
        let mut left = 64 * REFUSAL_BYTES;
        while let Ok(Some(chunk)) = response.chunk().await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                break;
            }
        }
    }));
}

/// The whole seconds of a `Retry-After`; its other form, a date, is taken as absent.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

/// The beginning of a refusal's body, on one line. A studio, or a proxy before it, may repeat the token that it refuses.
async fn refusal(mut response: Response, account: &StudioAccount, patience: Duration) -> String {
    let mut bytes = Vec::new();
    let reading = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            bytes.extend_from_slice(&chunk);
            if bytes.len() >= REFUSAL_BYTES {
                break;
            }
        }
    };
    // What came in time is said; the rest does not matter.
    let _ = tokio::time::timeout(patience, reading).await;
    let text = String::from_utf8_lossy(&bytes);
    one_line(&account.token.hidden_in(&text))
}

fn one_line(text: &str) -> String {
    let flat = |c: char| if c.is_control() { ' ' } else { c };
    let kept: String = text.trim().chars().map(flat).take(REFUSAL_CHARS).collect();
    kept.trim_end().to_owned()
}

/// An error with its causes, on one line: the outermost alone says only that sending failed.
fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    one_line(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_one_short_line() {
        let text = format!("\r\n<p>no\u{7}\nroom</p>{}", "é".repeat(400));
        let line = one_line(&text);
        assert!(line.starts_with("<p>no  room</p>é"), "{line}");
        assert_eq!(line.chars().count(), REFUSAL_CHARS);
    }
}
