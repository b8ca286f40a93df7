//! One attempt: the first answer says what there is, then one or several connections fetch what is missing.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::pass::Pass;
use super::patience::Patience;
use super::piece::{Broken, Opened};
use super::record::Version;
use super::spans::Spans;
use super::{Brought, Run, Stop, locked};
use crate::ask::is_strong;
use crate::error::DownloadError;
use crate::transfer::disk;

/// How often the record is written. More often costs writes; less often loses that much after a crash of the worker.
const NOTE: Duration = Duration::from_secs(1);
/// Every how many of them the file is synced, for a crash of the machine.
const SYNC_EVERY: u32 = 15;

/// One connection's work: the round it began in, what it was to fetch, how it ended.
type Fetching<'a> =
    Pin<Box<dyn Future<Output = (u32, (u64, u64), Result<(), Broken>)> + Send + 'a>>;

impl Run<'_> {
    pub(super) async fn attempt(
        &self,
        earlier: Option<(Version, Spans)>,
        ranges: bool,
        patience: &mut Patience<'_>,
    ) -> Result<Brought, Stop> {
        if let Some((version, spans)) = &earlier {
            self.received.store(spans.covered(), Ordering::Relaxed);
            self.answers.fetch_add(1, Ordering::Relaxed);
            self.tell(Some(version.total));
            // All there, and the digest will tell: nobody need be asked.
            if self.task.wanted.sha256.is_some() && spans.gaps(version.total).is_empty() {
                let pass = self.pass(Some(version), spans.clone());
                return self
                    .finish(pass, version.total, None, Some(version.clone()))
                    .await;
            }
        }
        let opened = loop {
            match self.open(earlier.as_ref(), ranges).await {
                Ok(opened) => break opened,
                Err(Stop::Failed(failed)) => {
                    let reached = self.received.load(Ordering::Relaxed);
                    let pause = patience.fail(failed, reached).map_err(final_one)?;
                    tokio::time::sleep(pause).await;
                }
                Err(restart) => return Err(restart),
            }
        };
        let spans = match (opened.head.whole, earlier) {
            (false, Some((_, spans))) => spans,
            (whole, earlier) => {
                if whole && earlier.is_some() {
                    tracing::warn!(
                        url = self.task.shown,
                        "the file changed or its host sends it whole: the download starts anew"
                    );
                }
                self.reset().await.map_err(final_one)?;
                Spans::default()
            }
        };
        self.answers.fetch_add(1, Ordering::Relaxed);
        self.check_room(opened.head.total, Some(&spans))
            .map_err(final_one)?;
        self.fetch(opened, spans, patience).await
    }

    async fn fetch(
        &self,
        opened: Opened,
        spans: Spans,
        patience: &mut Patience<'_>,
    ) -> Result<Brought, Stop> {
        let version = opened.head.version.clone();
        let media_type_hint = opened.media_type.clone();
        self.received.store(spans.covered(), Ordering::Relaxed);
        let pass = self.pass(version.as_ref(), spans);
        let total = match version.clone() {
            // Nothing can be added to it: one answer, all or nothing.
            None => {
                let (start, total) = (opened.head.start, opened.head.total);
                let done = self.receive(&pass, opened, start, total, total).await;
                done.map_err(|broken| broken.stop)?
            }
            Some(version) => {
                tokio::select! {
                    done = self.pieces(&pass, opened, &version, patience) => done?,
                    lost = self.keep_record(&pass, &version) => return Err(final_one(lost)),
                }
                version.total
            }
        };
        self.finish(pass, total, media_type_hint, version).await
    }

    fn pass(&self, version: Option<&Version>, spans: Spans) -> Pass {
        let pass = Pass::new(Arc::clone(&self.file), spans, self.tasks.clone());
        *locked(&self.current) = version.map(|version| (version.clone(), pass.watch()));
        pass
    }

    async fn finish(
        &self,
        pass: Pass,
        total: u64,
        media_type_hint: Option<String>,
        version: Option<Version>,
    ) -> Result<Brought, Stop> {
        let on_disk = disk(&self.task.shown);
        let hashed = match self.file.set_len(total) {
            Ok(()) => pass.finish(total).await,
            Err(error) => Err(error),
        };
        let sha256 = hashed.map_err(|error| final_one(on_disk(error)))?;
        self.received.store(total, Ordering::Relaxed);
        self.tell(Some(total));
        Ok(Brought {
            total,
            sha256,
            media_type_hint,
            // Whoever is told of a validator takes it for one that promises equal bytes.
            validator: version
                .map(|version| version.validator)
                .filter(|validator| is_strong(validator)),
        })
    }

    /// Fetches what is missing: the first piece from the answer that is open already, the rest in order.
    async fn pieces(
        &self,
        pass: &Pass,
        opened: Opened,
        version: &Version,
        patience: &mut Patience<'_>,
    ) -> Result<(), Stop> {
        let policy = &self.task.egress.policy;
        let several = !opened.head.whole && self.several(version.total);
        let mut allowed = if several { policy.connections } else { 1 };
        let (first, mut left) = self.plan(pass, &opened, version.total, several);
        let mut active: FuturesUnordered<Fetching<'_>> = FuturesUnordered::new();
        let promised = opened.head.end;
        active.push(Box::pin(async move {
            let done = self
                .receive(pass, opened, first.0, promised, Some(first.1))
                .await;
            (0, first, done.map(|_| ()))
        }));
        let (mut round, mut paused_until) = (0, None);
        loop {
            while paused_until.is_none() && active.len() < allowed {
                let Some(span) = left.pop_front() else { break };
                active.push(Box::pin(async move {
                    (round, span, self.piece(pass, span, version).await)
                }));
            }
            let (began, span, ended) = tokio::select! {
                Some(ended) = active.next(), if !active.is_empty() => ended,
                () = tokio::time::sleep_until(paused_until.unwrap_or_else(Instant::now)), if paused_until.is_some() => {
                    paused_until = None;
                    continue;
                }
                else => return Ok(()),
            };
            let Err(Broken { at, stop }) = ended else {
                continue;
            };
            let Stop::Failed(failed) = stop else {
                return Err(stop);
            };
            if at < span.1 {
                left.push_front((at, span.1));
            }
            if !failed.error.retryable() {
                return Err(final_one(failed.error));
            }
            allowed = fewer(allowed, &failed.error);
            // Several that break at once are one failure.
            if began == round {
                round += 1;
                let pause = patience.fail(failed, pass.covered()).map_err(final_one)?;
                paused_until = Some(Instant::now() + pause);
            }
        }
    }

    /// Whether several connections are worth it.
    pub(super) fn several(&self, total: u64) -> bool {
        let policy = &self.task.egress.policy;
        policy.connections > 1
            && total
                >= policy
                    .parallel_from
                    .max(policy.piece_bytes.saturating_mul(2))
    }

    /// The piece for the open answer, and the other pieces, in order.
    fn plan(
        &self,
        pass: &Pass,
        opened: &Opened,
        total: u64,
        several: bool,
    ) -> ((u64, u64), VecDeque<(u64, u64)>) {
        let longest = match several {
            true => self.task.egress.policy.piece_bytes.max(1),
            false => u64::MAX,
        };
        let start = opened.head.start;
        let mut spans = pass.spans();
        let gap_end = spans
            .gaps(total)
            .into_iter()
            .find(|gap| gap.0 <= start && start < gap.1)
            .map_or(total, |gap| gap.1);
        let end = opened
            .head
            .end
            .unwrap_or(total)
            .min(gap_end)
            .min(start.saturating_add(longest));
        spans.add(start, end);
        let mut left = VecDeque::new();
        for (mut from, to) in spans.gaps(total) {
            while from < to {
                let cut = from.saturating_add(longest).min(to);
                left.push_back((from, cut));
                from = cut;
            }
        }
        ((start, end), left)
    }

    /// Writes the record again and again, until dropped. Comes back when what was written did not get to the disk.
    async fn keep_record(&self, pass: &Pass, version: &Version) -> DownloadError {
        let mut count: u32 = 0;
        loop {
            let sync = count % SYNC_EVERY == SYNC_EVERY - 1;
            count = count.wrapping_add(1);
            if let Err(error) = self.note(version.clone(), pass.spans(), sync).await {
                return self.not_on_disk(error);
            }
            tokio::time::sleep(NOTE).await;
        }
    }
}

/// Connections after a failure: half of them when the host says that it has too much to do, one less when it took none.
fn fewer(allowed: usize, error: &DownloadError) -> usize {
    let fewer = match error {
        DownloadError::Status {
            status: 429 | 503, ..
        } => allowed / 2,
        DownloadError::Transport { .. } => allowed - 1,
        _ => allowed,
    };
    fewer.max(1)
}

/// No other attempt is to be made.
fn final_one(error: DownloadError) -> Stop {
    Stop::Final(error)
}
