//! From a payload to its acknowledgement: kept on disk first, then delivered.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use serde_json::json;
use tokio_util::sync::CancellationToken;
use worker_backends::{Gpu, gib};
use worker_delivery::{Delivered, KeepError, Kept, MediaContent, Payload, Product, Waiting};
use worker_plugins::contract::Failure;
use worker_wire::WorkerFrame;

use super::error::{JobError, one_line};
use super::{JobRun, Stage};
use crate::finish::Ready;
use crate::slot::StopReason;

/// How long a delivery may go on after the job was stopped. Shorter cuts off uploads that are all but done; longer holds
/// up whoever stopped it.
const LAST_WORDS: Duration = Duration::from_secs(5);

impl JobRun {
    /// A job that was done in an earlier session and is offered again: its product is delivered, and nothing is made anew.
    pub(super) async fn deliver_what_waits(&mut self) -> bool {
        let job_id = &self.claim.job_id;
        let delivery = &self.shared.delivery;
        let waiting = delivery.waiting_for(job_id.as_str(), &self.link);
        let waiting = tokio::select! {
            waiting = waiting => waiting,
            () = self.reservation.cancel.cancelled() => {
                let error = match self.reservation.reason() {
                    Some(StopReason::Shutdown) => JobError::Shutdown,
                    _ => JobError::Cancelled,
                };
                let payload = self.failure(&error, None);
                self.hand_over(payload).await;
                self.enter(Stage::Ended);
                return true;
            }
        };
        let kept = match waiting {
            Waiting::Nothing => return false,
            Waiting::Kept(kept) => kept,
            // The studio's answer to the upload was the answer to this job too.
            Waiting::Delivered => {
                self.journal
                    .write("delivered", json!("by an earlier upload"));
                self.enter(Stage::Ended);
                return true;
            }
            Waiting::Refused { reason } => {
                let failure = Failure {
                    message: reason,
                    retryable: true,
                };
                let payload = self.failure(&JobError::Failed(failure), None);
                self.hand_over(payload).await;
                self.enter(Stage::Ended);
                return true;
            }
        };
        let job_id = &self.claim.job_id;
        self.shared.reporter.info(
            Some(job_id),
            format!(
                "{job_id} was done in an earlier session; its result is delivered as it was kept"
            ),
        );
        self.enter(Stage::Delivering);
        self.handed_over.store(true, Ordering::SeqCst);
        let delivered = self.deliver(kept, false).await;
        self.journal
            .write("delivered", json!(format!("{delivered:?}")));
        self.enter(Stage::Ended);
        true
    }

    /// What memory the machine had left, where a program's end was all that there is to say about a failure: too little is
    /// the usual cause, and the engine cannot know.
    pub(super) async fn memory_for(&self, error: &JobError) -> Option<String> {
        if !self.unexplained || !matches!(error, JobError::Failed(_)) {
            return None;
        }
        let machine = self.shared.programs.machine().await;
        let gpu = match machine.gpu {
            Some(Gpu { name, total, free }) => {
                let free = free.map_or_else(
                    || "an unknown part".to_owned(),
                    |free| format!("{:.1} GiB", gib(free)),
                );
                format!("{name} had {free} of its {:.1} GiB free", gib(total))
            }
            None => "no GPU memory can be measured".to_owned(),
        };
        let main = machine.host_available.map(|free| {
            format!(
                ", and the machine had {:.1} GiB of main memory left",
                gib(free)
            )
        });
        Some(format!("{gpu}{}", main.unwrap_or_default()))
    }

    pub(super) fn failure(&mut self, error: &JobError, memory: Option<&str>) -> Payload {
        let mut message = one_line(&error.to_string());
        if message.is_empty() {
            message = format!(
                "plugin `{}` failed without a word",
                self.engine.identity().name
            );
        }
        if let Some(memory) = memory {
            message = one_line(&format!("{message}; {memory}"));
        }
        let (told, retryable) = (message.clone(), error.retryable());
        self.journal.tell(
            "failed",
            move |teller| json!({ "error": teller.value(&told), "retryable": retryable }),
        );
        self.shared.reporter.error(
            Some(&self.claim.job_id),
            format!("dispatch failed: {message}"),
        );
        Payload::Failure {
            message,
            retryable: error.retryable(),
        }
    }

    /// Keeps the payload on disk and hands it over. The slot is free when this returns.
    pub(super) async fn hand_over(&mut self, payload: Payload) {
        self.enter(Stage::Keeping);
        let failure = match &payload {
            Payload::Failure { message, retryable } => Some((message.clone(), *retryable)),
            _ => None,
        };
        let failed = failure.is_some();
        let product = Product {
            job_id: self.claim.job_id.clone(),
            kind: self.claim.kind.clone(),
            model: self.claim.model.clone(),
            prompt: std::mem::take(&mut self.subject),
            studio: self.link.account().base.to_string(),
            worker_id: self.link.account().worker_id.clone(),
            session: self.link.session(),
            finished_at: SystemTime::now(),
            payload,
        };
        let spool = self.shared.delivery.spool();
        let kept = if worker_files::may_wait() {
            spool.keep_here(product)
        } else {
            spool.keep(product).await
        };
        let kept = match kept {
            Ok(kept) => kept,
            Err(error) => return self.cannot_keep(&error, failure).await,
        };
        // Not before: where keeping it breaks nobody has answered yet.
        self.handed_over.store(true, Ordering::SeqCst);
        self.enter(Stage::Delivering);
        let delivered = self.deliver(kept, failed).await;
        self.journal
            .write("delivered", json!(format!("{delivered:?}")));
    }

    /// Delivers what was kept. A failure is told whatever happens. A product that the studio wants no more is given up
    /// and kept aside; one that a stopping worker cannot hand over in time stays on disk for its next start.
    async fn deliver(&self, kept: Kept, failed: bool) -> Option<Delivered> {
        let interrupt = CancellationToken::new();
        let delivering = self.shared.delivery.deliver(kept, &self.link, &interrupt);
        let leaving = async {
            self.reservation.cancel.cancelled().await;
            if failed {
                std::future::pending::<()>().await;
            }
            if self.reservation.reason() == Some(StopReason::Cancelled) {
                interrupt.cancel();
            }
            tokio::time::sleep(LAST_WORDS).await;
        };
        tokio::select! {
            delivered = delivering => Some(delivered),
            () = leaving => None,
        }
    }

    /// The disk is full or broken: said while the session lasts, so that the studio does not wait for nothing. A job that
    /// has failed anyway fails as it did: that needs no disk.
    async fn cannot_keep(&mut self, error: &KeepError, failure: Option<(String, bool)>) {
        let trouble = one_line(&format!("the worker cannot keep the result: {error}"));
        self.shared
            .reporter
            .error(Some(&self.claim.job_id), trouble.clone());
        self.journal.write("not-kept", json!({ "error": trouble }));
        let (message, retryable) = failure.unwrap_or((trouble, true));
        let job_id = self.claim.job_id.to_string();
        self.handed_over.store(true, Ordering::SeqCst);
        // Where the session is over, the studio has taken the job back already.
        let _ = self
            .link
            .send(WorkerFrame::Fail {
                job_id,
                error: message,
                retryable,
            })
            .await;
    }
}

pub(super) fn payload_of(ready: Ready) -> Payload {
    match ready {
        Ready::Bytes {
            bytes,
            ext,
            media_type,
        } => Payload::Media {
            content: MediaContent::Bytes(bytes.into()),
            ext,
            media_type,
        },
        Ready::File {
            path,
            ext,
            media_type,
        } => Payload::Media {
            content: MediaContent::File(path),
            ext,
            media_type,
        },
        Ready::Json(text) => Payload::Json(text),
    }
}
