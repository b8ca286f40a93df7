//! The tries of one download, each from the first redirect to the last byte.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Response, StatusCode};
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::ask::{
    Failed, Place, ask, check_body_head, header, innermost, not_a_file, strong_validator,
};
use crate::download::{Downloaded, Egress, OnProgress, Wanted};
use crate::error::{DownloadError, shown_url};
use crate::sink::Sink;

/// The longest wait that a host may ask for between two tries. Longer ones hold the job's slot: the studio offers again.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(60);

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
        let asked = ask(
            self.egress,
            &self.shown,
            start,
            &Place::start(start),
            &[],
            &[],
        )
        .await?;
        let response = asked.response;
        if response.status() != StatusCode::OK {
            return Err(not_a_file(&self.shown, &response));
        }
        check_body_head(&self.shown, &response, self.limit)?;
        let media_type_hint =
            header(response.headers(), &CONTENT_TYPE).map(|text| text.chars().take(100).collect());
        let validator = strong_validator(response.headers());
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
            validator,
        })
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

/// `base` doubled for each try before, times ½ to 1½. Without randomness just that, which is the middle.
pub(crate) fn jittered(base: Duration, tried: u32) -> Duration {
    let doubled = base.saturating_mul(1 << tried.saturating_sub(1).min(10));
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    doubled.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

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
