//! The one slot: at most one job at a time, whoever asks.
//!
//! Every source of jobs goes through this gate, and it is released by dropping, so that no failure on the way
//! can leave the worker closed for good.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use worker_plugins::contract::Progress;
use worker_wire::{JobId, ServedBy};

/// Stage of a job whose `accept` has not gone out yet: no heartbeat may name it before.
pub const RESERVED: &str = "reserved";

/// Why a running job is being stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The studio, or the person who queued it, wants it no more.
    Cancelled,
    /// The worker has to go.
    Shutdown,
}

/// The job in hand, as `status` shows it.
#[derive(Clone, Debug)]
pub struct CurrentJob {
    /// Its id.
    pub job_id: JobId,
    /// Its kind.
    pub kind: String,
    /// Its model.
    pub model: String,
    /// When it was accepted.
    pub since: SystemTime,
    /// What the runner is doing for it.
    pub stage: &'static str,
    /// How far its program is.
    pub progress: Option<Progress>,
    /// Which plugins have it.
    pub served_by: ServedBy,
    /// Set once it is being handed over: the slot is about to be free.
    pub delivering: bool,
}

struct Held {
    job: CurrentJob,
    cancel: CancellationToken,
    reason: Option<StopReason>,
}

#[derive(Default)]
struct Inner {
    held: Mutex<Option<Held>>,
    freed: Notify,
}

/// The gate. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Slot(Arc<Inner>);

/// Holds the slot until it is dropped.
pub(crate) struct Reservation {
    slot: Slot,
    job_id: JobId,
    /// Cancelled when the job is to stop.
    pub(crate) cancel: CancellationToken,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Option<Held>> {
        // The data is whole after every statement: a panic elsewhere must not close the worker.
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the slot for a job, or none where it is taken.
    pub(crate) fn reserve(
        &self,
        job_id: JobId,
        kind: String,
        model: String,
    ) -> Option<Reservation> {
        let mut held = self.lock();
        if held.is_some() {
            return None;
        }
        let cancel = CancellationToken::new();
        let job = CurrentJob {
            job_id: job_id.clone(),
            kind,
            model,
            since: SystemTime::now(),
            stage: RESERVED,
            progress: None,
            served_by: ServedBy::default(),
            delivering: false,
        };
        *held = Some(Held {
            job,
            cancel: cancel.clone(),
            reason: None,
        });
        Some(Reservation {
            slot: self.clone(),
            job_id,
            cancel,
        })
    }

    /// The job in hand.
    pub(crate) fn current(&self) -> Option<CurrentJob> {
        self.lock().as_ref().map(|held| held.job.clone())
    }

    /// Stops the job in hand; only the one named, where one is named. Whether there was such a job.
    pub(crate) fn stop(&self, job_id: Option<&JobId>, reason: StopReason) -> bool {
        let mut held = self.lock();
        let Some(held) = held
            .as_mut()
            .filter(|held| job_id.is_none_or(|id| *id == held.job.job_id))
        else {
            return false;
        };
        held.reason.get_or_insert(reason);
        held.cancel.cancel();
        true
    }

    /// Waits, at most `limit`, while a job is only being handed over. An offer that comes right behind a result
    /// would otherwise be turned away for a slot that is free a moment later.
    pub(crate) async fn settle(&self, limit: Duration) {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let freed = self.0.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if !self.lock().as_ref().is_some_and(|held| held.job.delivering) {
                return;
            }
            if tokio::time::timeout_at(deadline, freed).await.is_err() {
                return;
            }
        }
    }

    /// Waits until no job is in hand.
    pub(crate) async fn idle(&self) {
        loop {
            let freed = self.0.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.lock().is_none() {
                return;
            }
            freed.await;
        }
    }
}

impl Reservation {
    /// Says what is being done for the job.
    pub(crate) fn stage(&self, stage: &'static str) {
        if let Some(held) = self.slot.lock().as_mut() {
            held.job.stage = stage;
        }
    }

    /// Says how far the job's program is.
    pub(crate) fn progress(&self, progress: Progress) {
        if let Some(held) = self.slot.lock().as_mut() {
            held.job.progress = Some(progress);
        }
    }

    /// Says which plugins have the job.
    pub(crate) fn served_by(&self, by: ServedBy) {
        if let Some(held) = self.slot.lock().as_mut() {
            held.job.served_by = by;
        }
    }

    /// Says that the result is on disk and being handed over.
    pub(crate) fn delivering(&self) {
        if let Some(held) = self.slot.lock().as_mut() {
            held.job.delivering = true;
            held.job.stage = "delivering";
        }
    }

    /// Why the job is being stopped, where it is.
    pub(crate) fn reason(&self) -> Option<StopReason> {
        self.slot.lock().as_ref().and_then(|held| held.reason)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut held = self.slot.lock();
        if held
            .as_ref()
            .is_some_and(|held| held.job.job_id == self.job_id)
        {
            *held = None;
        }
        drop(held);
        self.slot.0.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> JobId {
        JobId::parse(text).unwrap()
    }

    #[tokio::test]
    async fn one_at_a_time_and_free_after_a_panic() {
        let slot = Slot::default();
        let first = slot.reserve(id("a"), String::new(), String::new()).unwrap();
        assert!(
            slot.reserve(id("b"), String::new(), String::new())
                .is_none()
        );
        let crashed = tokio::spawn(async move {
            let _held = first;
            panic!("in a job");
        });
        assert!(crashed.await.is_err());
        slot.idle().await;
        assert!(
            slot.reserve(id("b"), String::new(), String::new())
                .is_some()
        );
    }

    #[tokio::test]
    async fn only_the_named_job_is_stopped_and_the_first_reason_stays() {
        let slot = Slot::default();
        let held = slot.reserve(id("a"), String::new(), String::new()).unwrap();
        assert!(!slot.stop(Some(&id("b")), StopReason::Cancelled));
        assert!(!held.cancel.is_cancelled());
        assert!(slot.stop(Some(&id("a")), StopReason::Cancelled));
        assert!(slot.stop(None, StopReason::Shutdown));
        assert_eq!(held.reason(), Some(StopReason::Cancelled));
    }

    #[tokio::test]
    async fn an_offer_waits_only_for_a_hand_over() {
        let slot = Slot::default();
        let held = slot.reserve(id("a"), String::new(), String::new()).unwrap();
        slot.settle(Duration::from_secs(60)).await;
        assert!(slot.current().is_some(), "a running job is not waited for");
        held.delivering();
        let waiting = tokio::spawn({
            let slot = slot.clone();
            async move { slot.settle(Duration::from_secs(60)).await }
        });
        tokio::task::yield_now().await;
        drop(held);
        waiting.await.unwrap();
        assert!(slot.current().is_none());
    }
}
