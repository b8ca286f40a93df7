//! Offers on their way to a decision.
//!
//! They are decided one after another beside the reading, so that a slow decision holds up neither heartbeats nor
//! cancels, and so that offer, `accept` and start keep their order.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::mpsc, time};
use worker_wire::{Claim, JobId, LogLevel, StudioLink, WorkerFrame, reject};

use crate::{Answer, context::Context, end::End, text::one_line};

/// Offers that wait for a decision. A studio has one out at a time; more than this means that it has lost count, and
/// the rest are told that the worker is busy.
const WAITING: usize = 8;

pub(crate) struct Offers<'a> {
    context: &'a Context,
    link: StudioLink,
    queue: mpsc::Sender<Claim>,
    /// The jobs that wait or are being decided, and whether the studio has cancelled them since.
    pending: Mutex<BTreeMap<JobId, bool>>,
}

impl<'a> Offers<'a> {
    pub(crate) fn new(context: &'a Context, link: StudioLink) -> (Self, mpsc::Receiver<Claim>) {
        let (queue, waiting) = mpsc::channel(WAITING);
        let offers = Self {
            context,
            link,
            queue,
            pending: Mutex::default(),
        };
        (offers, waiting)
    }

    /// Queues an offer for decision.
    pub(crate) fn put(&self, claim: Claim) {
        let job = claim.job_id.clone();
        match self.lock().entry(job.clone()) {
            Entry::Occupied(_) => {
                let text =
                    format!("{job} was offered again before it was answered; one answer goes out");
                self.context
                    .say_of(LogLevel::Warn, text, Some(job.as_str()));
            }
            Entry::Vacant(place) => {
                if self.queue.try_send(claim).is_ok() {
                    place.insert(false);
                } else {
                    self.reject_at_once(job.as_str(), reject::BUSY, reject::BUSY_TEXT.to_owned());
                }
            }
        }
    }

    /// Rejects an offer that cannot be read.
    pub(crate) fn unreadable(&self, job: &str, reason: String) {
        self.reject_at_once(job, reject::BAD_OFFER, reason);
    }

    /// Cancels a job, after its start if it is still being decided.
    pub(crate) fn cancel(&self, job: &JobId) {
        let mut pending = self.lock();
        if let Some(cancelled) = pending.get_mut(job) {
            *cancelled = true;
        } else {
            drop(pending);
            self.context.options.worker.cancel(job);
        }
    }

    /// Decides the queued offers; ends with the session.
    pub(crate) async fn decide(&self, mut queue: mpsc::Receiver<Claim>) -> End {
        while let Some(claim) = queue.recv().await {
            self.decide_one(claim).await;
        }
        // The sender lives in `self`: the queue ends with it.
        std::future::pending().await
    }

    async fn decide_one(&self, claim: Claim) {
        let job = claim.job_id.clone();
        let worker = &self.context.options.worker;
        let limit = self.context.options.timing.decision;
        let answer = time::timeout(limit, worker.offer(claim, self.link.clone())).await;
        match answer {
            Ok(Answer::Accepted(start)) => {
                let accept = WorkerFrame::Accept {
                    job_id: job.as_str().to_owned(),
                };
                if self.link.send(accept).await.is_ok() {
                    start();
                }
            }
            Ok(Answer::Rejected { code, reason }) => self.reject(job.as_str(), &code, reason).await,
            Err(_) => {
                let reason = format!("the worker did not decide within {limit:?}");
                self.reject(job.as_str(), reject::PLUGIN_FAULT, reason)
                    .await;
            }
        }
        let cancelled = self.lock().remove(&job);
        if cancelled == Some(true) {
            worker.cancel(&job);
        }
    }

    async fn reject(&self, job: &str, code: &str, reason: String) {
        let frame = self.rejection(job, code, reason);
        // Only an ended session refuses it, and then nobody waits for it.
        let _ = self.link.send(frame).await;
    }

    fn reject_at_once(&self, job: &str, code: &str, reason: String) {
        let frame = self.rejection(job, code, reason);
        self.link.offer(frame);
    }

    fn rejection(&self, job: &str, code: &str, reason: String) -> WorkerFrame {
        let shown = one_line(job, 200);
        let text = format!("rejecting offer {shown}: {reason}");
        self.context.say_of(LogLevel::Info, text, Some(&shown));
        WorkerFrame::Reject {
            job_id: job.to_owned(),
            reason,
            code: Some(code.to_owned()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<JobId, bool>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
