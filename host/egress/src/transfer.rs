//! The tries of one download, each from the first redirect to the last byte.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER,
};
use reqwest::{Response, StatusCode};
use tokio::time::{Instant, timeout, timeout_at};
use url::Url;

use crate::download::{Downloaded, Egress, OnProgress, Wanted};
use crate::error::{DownloadError, shown_parsed, shown_url};
use crate::policy::{Policy, UrlRefusal, check_parsed, names_loopback};
use crate::resolve::refusal;
use crate::sink::Sink;

/// The longest wait that a host may ask for between two tries. Longer ones hold the job's slot: the studio offers again.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// One try that failed, and how long its host wants to be left alone.
struct Failed {
    error: DownloadError,
    wait: Option<Duration>,
}

impl From<DownloadError> for Failed {
    fn from(error: DownloadError) -> Self {
        Self { error, wait: None }
    }
}

/// One download with all its tries.
pub(crate) struct Transfer<'a> {
    egress: &'a Egress,
    shown: String,
    into: &'a Path,
    wanted: &'a Wanted,
    limit: u64,
    on_progress: OnProgress<'a>,
    /// The furthest that any try came.
    most: AtomicU64,
}

impl<'a> Transfer<'a> {
    pub(crate) fn new(
        egress: &'a Egress,
        url: &str,
        into: &'a Path,
        wanted: &'a Wanted,
        limit: u64,
        on_progress: OnProgress<'a>,
    ) -> Self {
        let (shown, most) = (shown_url(url), AtomicU64::new(0));
        Self {
            egress,
            shown,
            into,
            wanted,
            limit,
            on_progress,
            most,
        }
    }

    pub(crate) async fn tries(&self, start: &Url) -> Result<Downloaded, DownloadError> {
        let policy = &self.egress.policy;
        let mut tried = 1;
        loop {
            let Failed { error, wait } = match self.once(start).await {
                Ok(done) => return Ok(done),
                Err(failed) => failed,
            };
            if !error.retryable() || tried >= policy.attempts {
                return Err(error);
            }
            let pause = wait
                .unwrap_or_else(|| jittered(policy.backoff, tried))
                .min(LONGEST_WAIT);
            tracing::info!(%error, attempt = tried, pause_ms = pause.as_millis(), "a download failed, trying again");
            tokio::time::sleep(pause).await;
            tried += 1;
        }
    }

    async fn once(&self, start: &Url) -> Result<Downloaded, Failed> {
        let response = self.follow(start).await?;
        self.check_head(&response)?;
        let media_type_hint =
            header(response.headers(), &CONTENT_TYPE).map(|text| text.chars().take(100).collect());
        let promised = response.content_length();
        let mut unfinished = Unfinished::new(self.into);
        let sink = unfinished.create().map_err(disk(&self.shown))?;
        let received = self.receive(response, &sink, promised).await;
        // A disk that failed is why the rest could not be handed over.
        let sha256 = sink.finish().await.map_err(disk(&self.shown))?;
        let bytes = received?;
        check_digest(&self.shown, self.wanted, sha256)?;
        unfinished.keep();
        Ok(Downloaded {
            bytes,
            sha256,
            media_type_hint,
        })
    }

    /// Asks, and asks again where a redirect says to, under the same rules each time.
    async fn follow(&self, start: &Url) -> Result<Response, Failed> {
        let policy = &self.egress.policy;
        let mut url = start.clone();
        for _ in 0..=policy.max_redirects {
            let request = self
                .egress
                .client
                .get(url.clone())
                .header(ACCEPT_ENCODING, "identity")
                .send();
            let response = timeout(policy.stall.saturating_add(policy.connect), request)
                .await
                .map_err(|_| self.stalled())?
                .map_err(|error| self.transport(&url, &error))?;
            if !is_redirect(response.status()) {
                return Ok(response);
            }
            let location = header(response.headers(), &LOCATION)
                .ok_or_else(|| self.redirect("without saying where to"))?;
            url = url
                .join(&location)
                .map_err(|_| self.redirect("to something that is no URL"))?;
            check_hop(start, &url, policy).map_err(|why| DownloadError::Refused {
                url: shown_parsed(&url),
                why,
            })?;
        }
        Err(self
            .redirect(&format!("more than {} times", policy.max_redirects))
            .into())
    }

    fn check_head(&self, response: &Response) -> Result<(), Failed> {
        let (url, status) = (self.shown.clone(), response.status().as_u16());
        let error = match status {
            200 => return self.check_body_head(response).map_err(Failed::from),
            404 | 410 => DownloadError::NotFound { url, status },
            401 | 403 => DownloadError::Unauthorized { url, status },
            _ => DownloadError::Status { url, status },
        };
        let seconds =
            header(response.headers(), &RETRY_AFTER).and_then(|text| text.trim().parse().ok());
        Err(Failed {
            error,
            wait: seconds.map(Duration::from_secs),
        })
    }

    fn check_body_head(&self, response: &Response) -> Result<(), DownloadError> {
        let url = self.shown.clone();
        if let Some(encoding) = header(response.headers(), &CONTENT_ENCODING)
            && !encoding.eq_ignore_ascii_case("identity")
        {
            return Err(DownloadError::Encoded {
                url,
                encoding: encoding.chars().take(40).collect(),
            });
        }
        if response
            .content_length()
            .is_some_and(|length| length > self.limit)
        {
            return Err(DownloadError::TooLarge {
                url,
                limit: self.limit,
            });
        }
        Ok(())
    }

    /// Takes the body to its end. Says how many bytes it had.
    async fn receive(
        &self,
        response: Response,
        sink: &Sink,
        promised: Option<u64>,
    ) -> Result<u64, DownloadError> {
        let policy = &self.egress.policy;
        let total = promised.or(self.wanted.approx_bytes);
        let mut body = response.bytes_stream();
        let mut got: u64 = 0;
        let (mut marked, mut deadline) = (0, Instant::now() + policy.stall);
        loop {
            let piece: Bytes = match timeout_at(deadline, body.next()).await {
                Err(_) => return Err(self.stalled()),
                Ok(None) => break,
                Ok(Some(Ok(piece))) => piece,
                Ok(Some(Err(error))) => return Err(self.broken(got, promised, &error)),
            };
            got = got.saturating_add(piece.len() as u64);
            if got > self.limit {
                return Err(DownloadError::TooLarge {
                    url: self.shown.clone(),
                    limit: self.limit,
                });
            }
            let waiting = Instant::now();
            if !sink.push(piece).await {
                break;
            }
            // A slow disk is not held against the host.
            deadline += waiting.elapsed();
            if got - marked >= policy.stall_floor {
                (marked, deadline) = (got, Instant::now() + policy.stall);
            }
            let most = self.most.fetch_max(got, Ordering::Relaxed).max(got);
            (self.on_progress)(most, total.map(|total| total.max(most)));
        }
        match promised {
            Some(promised) if got < promised => Err(DownloadError::Truncated {
                url: self.shown.clone(),
                got,
                promised,
            }),
            _ => Ok(got),
        }
    }

    fn stalled(&self) -> DownloadError {
        DownloadError::Stalled {
            url: self.shown.clone(),
            after: self.egress.policy.stall,
        }
    }

    fn redirect(&self, why: &str) -> DownloadError {
        DownloadError::Redirect {
            url: self.shown.clone(),
            why: why.to_owned(),
        }
    }

    /// No answer from `url`, which may be where a redirect led.
    fn transport(&self, url: &Url, error: &reqwest::Error) -> DownloadError {
        let url = shown_parsed(url);
        match refusal(error) {
            Some(address) => DownloadError::Refused {
                url,
                why: address.into(),
            },
            None => DownloadError::Transport {
                url,
                cause: innermost(error),
            },
        }
    }

    /// A connection that broke within the body.
    fn broken(&self, got: u64, promised: Option<u64>, error: &reqwest::Error) -> DownloadError {
        let url = self.shown.clone();
        match promised {
            Some(promised) => DownloadError::Truncated { url, got, promised },
            None => DownloadError::Transport {
                url,
                cause: innermost(error),
            },
        }
    }
}

/// A file that is removed again unless it is finished.
pub(crate) struct Unfinished<'a> {
    path: &'a Path,
    ours: bool,
}

impl<'a> Unfinished<'a> {
    pub(crate) fn new(path: &'a Path) -> Self {
        Self { path, ours: false }
    }

    pub(crate) fn create(&mut self) -> io::Result<Sink> {
        let sink = Sink::create(self.path)?;
        self.ours = true;
        Ok(sink)
    }

    pub(crate) fn keep(&mut self) {
        self.ours = false;
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = std::fs::remove_file(self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "an unfinished download cannot be removed; remove it by hand");
        }
    }
}

pub(crate) fn disk(url: &str) -> impl FnOnce(io::Error) -> DownloadError + '_ {
    move |source| {
        let full = matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        );
        DownloadError::Disk {
            url: url.to_owned(),
            full,
            source,
        }
    }
}

pub(crate) fn check_digest(
    url: &str,
    wanted: &Wanted,
    found: [u8; 32],
) -> Result<(), DownloadError> {
    match wanted.sha256 {
        Some(wanted) if wanted != found => Err(DownloadError::DigestMismatch {
            url: url.to_owned(),
            wanted: hex::encode(wanted),
            found: hex::encode(found),
        }),
        _ => Ok(()),
    }
}

/// Whether a download that began at `start` may go on at `next`. A host out there leads nobody to this machine, even
/// where downloads from this machine are allowed.
fn check_hop(start: &Url, next: &Url, policy: &Policy) -> Result<(), UrlRefusal> {
    let local = start.host().is_some_and(|host| names_loopback(&host));
    check_parsed(next, policy.allow_http_loopback && local)?;
    match next.host() {
        Some(host) if !local && names_loopback(&host) => Err(UrlRefusal::LeadsHome),
        _ => Ok(()),
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn header(headers: &HeaderMap, name: &reqwest::header::HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// What went wrong at the bottom; the errors above it repeat the URL, query included.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match cause.downcast_ref::<reqwest::Error>() {
        // Nothing below: its own text would show the URL.
        Some(error) if error.is_timeout() => "timed out".to_owned(),
        Some(_) => "the request failed".to_owned(),
        None => cause.to_string(),
    }
}

/// `base` doubled for each try before, times ½ to 1½. Without randomness just that, which is the middle.
fn jittered(base: Duration, tried: u32) -> Duration {
    let doubled = base.saturating_mul(1 << tried.saturating_sub(1).min(10));
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    doubled.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(start: &str, next: &str) -> Result<(), UrlRefusal> {
        let policy = Policy {
            allow_http_loopback: true,
            ..Policy::default()
        };
        check_hop(
            &Url::parse(start).unwrap(),
            &Url::parse(next).unwrap(),
            &policy,
        )
    }

    #[test]
    fn a_redirect_leads_home_only_from_home() {
        let (home, away) = ("http://127.0.0.1:9/a", "https://models.example/a");
        assert_eq!(hop(home, "http://localhost:8/b"), Ok(()));
        assert_eq!(hop(home, away), Ok(()));
        assert_eq!(hop(away, "https://cdn.example/b"), Ok(()));
        assert_eq!(hop(away, "https://localhost/b"), Err(UrlRefusal::LeadsHome));
        for next in [
            home,
            "https://127.0.0.1/b",
            "https://[::1]/b",
            "http://cdn.example/b",
            "https://a:b@cdn.example/",
        ] {
            assert!(hop(away, next).is_err(), "{next}");
        }
    }

    #[test]
    fn pauses_double_and_vary_by_half() {
        let base = Duration::from_secs(2);
        for (tried, middle) in [(1, 2.0), (2, 4.0), (3, 8.0)] {
            let pause = jittered(base, tried).as_secs_f64();
            assert!(
                (middle * 0.5..=middle * 1.5).contains(&pause),
                "{tried}: {pause}"
            );
        }
    }
}
