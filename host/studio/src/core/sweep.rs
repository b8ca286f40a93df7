//! The alarm: what has been silent, unanswered or kept for too long.

use std::time::Instant;

use worker_wire::JobId;

use super::{Core, JobState, Outgoing};

impl Core {
    /// Looks for everything whose time is over.
    pub(crate) fn sweep(&mut self) {
        self.close_stale();
        self.end_unanswered_offers();
        self.end_expired_claims();
        self.end_slow_cancels();
        self.forget_callers();
        self.dispatch();
        self.advance();
    }

    fn close_stale(&mut self) {
        let limit = self.timing.stale;
        let stale: Vec<u64> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.beat.unwrap_or(session.welcomed).elapsed() > limit)
            .map(|(no, _)| *no)
            .collect();
        for no in stale {
            if let Some(session) = self.sessions.get(&no) {
                tracing::warn!(worker = session.worker, "no heartbeat: session closed");
                session.out.send(Outgoing::Close("no heartbeat"));
            }
            self.drop_session(no);
        }
    }

    fn end_unanswered_offers(&mut self) {
        let limit = self.timing.answer;
        let unanswered = self.ids(
            |state| matches!(state, JobState::Offered { since, .. } if since.elapsed() > limit),
        );
        for id in unanswered {
            self.withdraw(&id);
            self.requeue(&id);
        }
    }

    fn end_expired_claims(&mut self) {
        let now = Instant::now();
        let expired = self.ids(|state| match state {
            JobState::Running {
                session: None,
                until: Some(until),
            }
            | JobState::Queued {
                reserved: Some(until),
            } => *until <= now,
            _ => false,
        });
        for id in expired {
            if self.jobs.get(&id).is_some_and(|job| job.uploads == 0) {
                self.end_reservation(&id, "the worker that had the job did not come back");
            }
        }
    }

    fn end_slow_cancels(&mut self) {
        let limit = self.timing.cancel;
        let slow: Vec<JobId> = self
            .jobs
            .values()
            .filter(|job| !job.is_finished())
            .filter(|job| job.cancelled_at.is_some_and(|at| at.elapsed() > limit))
            .map(|job| job.id.clone())
            .collect();
        for id in slow {
            self.release(&id, "");
        }
    }

    fn ids(&self, wanted: impl Fn(&JobState) -> bool) -> Vec<JobId> {
        self.jobs
            .values()
            .filter(|job| wanted(&job.state))
            .map(|job| job.id.clone())
            .collect()
    }
}
