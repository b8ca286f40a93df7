//! One connection: asking for a range, and taking its bytes to the file.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::StreamExt;
use reqwest::Response;
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use tokio::time::{Instant, timeout_at};

use super::opening::{Head, Terms, judge, range_headers};
use super::pass::{Pass, Writer};
use super::record::Version;
use super::spans::Spans;
use super::{Run, Stop, locked};
use crate::ask::{Asked, Failed, Place, ask, header, innermost, stalled};
use crate::error::DownloadError;
use crate::transfer::disk;

/// An answer whose head fits.
pub(super) struct Opened {
    pub(super) response: Response,
    pub(super) head: Head,
    pub(super) media_type: Option<String>,
}

/// A connection that did not bring all it was to: how far it came, and why.
pub(super) struct Broken {
    pub(super) at: u64,
    pub(super) stop: Stop,
}

impl Run<'_> {
    /// The first answer: of what is missing of an earlier call's file, or of the whole.
    pub(super) async fn open(
        &self,
        earlier: Option<&(Version, Spans)>,
        ranges: bool,
    ) -> Result<Opened, Stop> {
        let policy = &self.task.egress.policy;
        let piece = policy.piece_bytes.max(1);
        let known = earlier.map(|(version, _)| version);
        let requested = match earlier {
            _ if !ranges => None,
            Some((version, spans)) => {
                let total = version.total;
                // All there: the last byte is asked for again, to hear whether the file is still the same.
                let last = (total.saturating_sub(1), total);
                let (start, end) = spans.gaps(total).first().copied().unwrap_or(last);
                let end = match self.several(total) {
                    true => end.min(start.saturating_add(piece)),
                    false => end,
                };
                Some((start, Some(end)))
            }
            None => {
                let large = self
                    .task
                    .wanted
                    .approx_bytes
                    .is_some_and(|approx| self.several(approx));
                Some((0, large.then_some(piece)))
            }
        };
        let headers =
            requested.map_or_else(Vec::new, |(start, end)| range_headers(start, end, known));
        let response = self.ask(&headers).await.map_err(Stop::Failed)?;
        let head = judge(&self.task.shown, &response, requested, known, self.terms())?;
        let media_type =
            header(response.headers(), &CONTENT_TYPE).map(|text| text.chars().take(100).collect());
        Ok(Opened {
            response,
            head,
            media_type,
        })
    }

    fn terms(&self) -> Terms {
        Terms {
            limit: self.task.limit,
            weak: self.task.wanted.sha256.is_some(),
        }
    }

    /// Asks where the redirects led before; where that is over, from the beginning.
    async fn ask(&self, headers: &[(HeaderName, HeaderValue)]) -> Result<Response, Failed> {
        let (egress, shown, start) = (self.task.egress, &self.task.shown, &self.task.start);
        let from = locked(&self.resolved).clone();
        if let Some(from) = from {
            let Asked { response, .. } = ask(egress, shown, start, &from, headers, &[]).await?;
            if !matches!(response.status().as_u16(), 400 | 401 | 403 | 404 | 410) {
                return Ok(response);
            }
            // Signed addresses expire.
            *locked(&self.resolved) = None;
        }
        let first = Place::start(start);
        let Asked { response, at } = ask(egress, shown, start, &first, headers, &[]).await?;
        if at != first && response.status().is_success() {
            *locked(&self.resolved) = Some(at);
        }
        Ok(response)
    }

    /// Fetches the bytes from `span.0` up to `span.1` of just that version.
    pub(super) async fn piece(
        &self,
        pass: &Pass,
        span: (u64, u64),
        version: &Version,
    ) -> Result<(), Broken> {
        let broken = |stop| Broken { at: span.0, stop };
        let headers = range_headers(span.0, Some(span.1), Some(version));
        let response = self.ask(&headers).await;
        let response = response.map_err(|failed| broken(Stop::Failed(failed)))?;
        let requested = Some((span.0, Some(span.1)));
        let head = judge(
            &self.task.shown,
            &response,
            requested,
            Some(version),
            self.terms(),
        )
        .map_err(broken)?;
        if head.whole {
            return Err(broken(Stop::Restart {
                why: "it is sent whole where a part was asked for",
                ranges: head.version.as_ref() != Some(version),
            }));
        }
        self.answers.fetch_add(1, Ordering::Relaxed);
        let end = head.end.unwrap_or(span.1);
        let opened = Opened {
            response,
            head,
            media_type: None,
        };
        let at = self
            .receive(pass, opened, span.0, Some(end), Some(end))
            .await?;
        match at < span.1 {
            // A host may send less than it was asked for.
            true => Err(Broken {
                at,
                stop: self.cut(at, span.1).into(),
            }),
            false => Ok(()),
        }
    }

    /// Takes an answer's bytes to the file, from `from` until `stop_at`; the host promised them up to `promised`.
    /// Says where it ended.
    pub(super) async fn receive(
        &self,
        pass: &Pass,
        opened: Opened,
        from: u64,
        promised: Option<u64>,
        stop_at: Option<u64>,
    ) -> Result<u64, Broken> {
        let writer = pass.writer(from);
        let total = opened.head.total;
        let taken = self
            .take(&writer, opened.response, from, promised, stop_at, total)
            .await;
        // A disk that failed is why the rest could not be handed over.
        match writer.finish().await {
            Ok(()) => taken,
            Err(error) => Err(Broken {
                at: from,
                stop: Stop::Final(disk(&self.task.shown)(error)),
            }),
        }
    }

    async fn take(
        &self,
        writer: &Writer,
        response: Response,
        from: u64,
        promised: Option<u64>,
        stop_at: Option<u64>,
        total: Option<u64>,
    ) -> Result<u64, Broken> {
        let policy = &self.task.egress.policy;
        let mut body = response.bytes_stream();
        let mut at = from;
        let (mut marked, mut deadline) = (from, Instant::now() + policy.stall);
        loop {
            let broken = |stop| Broken { at, stop };
            let mut piece: Bytes = match timeout_at(deadline, body.next()).await {
                Err(_) => return Err(broken(stalled(&self.task.shown, policy).into())),
                Ok(Some(Ok(piece))) => piece,
                Ok(Some(Err(error))) => return Err(broken(self.lost(at, promised, &error).into())),
                Ok(None) => match promised {
                    Some(promised) if at < promised => {
                        return Err(broken(self.cut(at, promised).into()));
                    }
                    _ => return Ok(at),
                },
            };
            let room = stop_at.unwrap_or(self.task.limit).saturating_sub(at);
            if piece.len() as u64 > room {
                if stop_at.is_none() {
                    let (url, limit) = (self.task.shown.clone(), self.task.limit);
                    let error = DownloadError::TooLarge { url, limit };
                    return Err(broken(Stop::Final(error)));
                }
                if stop_at == promised {
                    return Err(broken(Stop::Restart {
                        why: "more bytes than it said",
                        ranges: false,
                    }));
                }
                piece.truncate(usize::try_from(room).unwrap_or(0));
            }
            let length = piece.len() as u64;
            let waiting = Instant::now();
            if !writer.push(piece).await {
                return Ok(at);
            }
            // A slow disk is not held against the host.
            deadline += waiting.elapsed();
            at += length;
            if at - marked >= policy.stall_floor {
                (marked, deadline) = (at, Instant::now() + policy.stall);
            }
            self.received.fetch_add(length, Ordering::Relaxed);
            self.tell(total);
            // The rest of this answer is another connection's.
            if stop_at == Some(at) && stop_at != promised {
                return Ok(at);
            }
        }
    }

    fn cut(&self, got: u64, promised: u64) -> DownloadError {
        DownloadError::Truncated {
            url: self.task.shown.clone(),
            got,
            promised,
        }
    }

    /// A connection that broke within the body.
    fn lost(&self, got: u64, promised: Option<u64>, error: &reqwest::Error) -> DownloadError {
        match promised {
            Some(promised) => self.cut(got, promised),
            None => DownloadError::Transport {
                url: self.task.shown.clone(),
                cause: innermost(error),
            },
        }
    }
}
