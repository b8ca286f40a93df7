//! A document that the worker itself wants, into memory: a plugin, its signature, what a registry says of it.

use std::time::Duration;

use futures_util::StreamExt;
use reqwest::Response;
use reqwest::header::{ACCEPT, HeaderName, HeaderValue};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::ask::{Failed, Place, ask, check_body_head, check_hop, innermost, stalled};
use crate::credentials::Credential;
use crate::download::Egress;
use crate::error::{DownloadError, shown_url};
use crate::policy::{UrlRefusal, check_url};
use crate::transfer::{LONGEST_WAIT, jittered};

/// Longest header value of an answer that is handed on, in bytes.
const MAX_HEADER: usize = 8 * 1024;
/// The whole of one document. 128 MiB at half a megabyte a second fit.
const TOTAL: Duration = Duration::from_secs(300);

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// Where it is.
    pub url: &'a str,
    /// Media types that are wanted.
    pub accept: Option<&'a str>,
    /// Logins for this request alone, before the operator's. They follow no redirect to another host either.
    pub logins: &'a [Credential],
    /// A longer one is refused.
    pub max_bytes: u64,
}

/// What came.
#[derive(Debug, Clone)]
pub struct Received {
    /// What it means is the asker's to say.
    pub status: u16,
    /// The body; of any other answer than a 200, nothing.
    pub bytes: Vec<u8>,
    headers: Vec<(String, String)>,
}

impl Received {
    /// The value of a header, by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

impl Egress {
    /// Reads a document under the rules of every download: addresses, redirects, stalls, tries.
    ///
    /// # Errors
    /// When the URL is refused, or no whole answer comes. Any status is an answer.
    pub async fn read(
        &self,
        reading: &Reading<'_>,
        cancel: &CancellationToken,
    ) -> Result<Received, DownloadError> {
        let shown = shown_url(reading.url);
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(DownloadError::Cancelled { url: shown.clone() }),
            done = tokio::time::timeout(TOTAL, self.tries(reading, &shown)) => done.unwrap_or(Err(DownloadError::Stalled {
                url: shown.clone(),
                after: TOTAL,
            })),
        }
    }

    /// The same rules, with those of the operator's logins alone that may ask for tokens for `registry`.
    #[must_use]
    pub fn for_tokens_of(&self, registry: &str) -> Self {
        let mut policy = (*self.policy).clone();
        policy
            .credentials
            .retain(|login| login.is_for_registry(registry));
        let mut egress = self.clone();
        egress.policy = std::sync::Arc::new(policy);
        egress
    }

    /// Whether somebody at `start` may send this worker to `next`: the rule for redirects.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn check_next(&self, start: &Url, next: &Url) -> Result<(), UrlRefusal> {
        check_hop(start, next, &self.policy)
    }

    async fn tries(&self, reading: &Reading<'_>, shown: &str) -> Result<Received, DownloadError> {
        let start = check_url(reading.url, &self.policy).map_err(|why| DownloadError::Refused {
            url: shown.to_owned(),
            why,
        })?;
        let mut tried = 1;
        loop {
            let Failed { error, wait } = match self.once(reading, shown, &start).await {
                Ok(received) => return Ok(received),
                Err(failed) => failed,
            };
            if !error.retryable() || tried >= self.policy.attempts {
                return Err(error);
            }
            let pause = wait.unwrap_or_else(|| jittered(self.policy.backoff, tried));
            tokio::time::sleep(pause.min(LONGEST_WAIT)).await;
            tried += 1;
        }
    }

    async fn once(
        &self,
        reading: &Reading<'_>,
        shown: &str,
        start: &Url,
    ) -> Result<Received, Failed> {
        let accept = reading.accept.map(HeaderValue::from_str).transpose();
        let accept = accept.map_err(|_| DownloadError::Inconsistent {
            url: shown.to_owned(),
            why: "the media types asked for cannot stand in a header",
        })?;
        let headers: Vec<(HeaderName, HeaderValue)> =
            accept.into_iter().map(|value| (ACCEPT, value)).collect();
        let asked = ask(
            self,
            shown,
            start,
            &Place::start(start),
            &headers,
            reading.logins,
        )
        .await?;
        let response = asked.response;
        let status = response.status().as_u16();
        let headers = response
            .headers()
            .iter()
            .filter(|(_, value)| value.len() <= MAX_HEADER)
            .filter_map(|(name, value)| {
                Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
            })
            .collect();
        let bytes = if status == 200 {
            check_body_head(shown, &response, reading.max_bytes)?;
            self.body(response, shown, reading.max_bytes).await?
        } else {
            // What is not used is not read.
            Vec::new()
        };
        Ok(Received {
            status,
            bytes,
            headers,
        })
    }

    async fn body(
        &self,
        response: Response,
        shown: &str,
        limit: u64,
    ) -> Result<Vec<u8>, DownloadError> {
        let promised = response.content_length();
        let mut pieces = response.bytes_stream();
        let mut bytes = Vec::new();
        let mut marked = 0_u64;
        let mut deadline = Instant::now() + self.policy.stall;
        loop {
            let piece = match timeout_at(deadline, pieces.next()).await {
                Err(_) => return Err(stalled(shown, &self.policy)),
                Ok(None) => return Ok(bytes),
                Ok(Some(Ok(piece))) => piece,
                Ok(Some(Err(error))) => {
                    let url = shown.to_owned();
                    return Err(match promised {
                        Some(promised) => DownloadError::Truncated {
                            url,
                            got: bytes.len() as u64,
                            promised,
                        },
                        None => DownloadError::Transport {
                            url,
                            cause: innermost(&error),
                        },
                    });
                }
            };
            let got = (bytes.len() as u64).saturating_add(piece.len() as u64);
            if got > limit {
                return Err(DownloadError::TooLarge {
                    url: shown.to_owned(),
                    limit,
                });
            }
            bytes.extend_from_slice(&piece);
            if got - marked >= self.policy.stall_floor {
                (marked, deadline) = (got, Instant::now() + self.policy.stall);
            }
        }
    }
}
