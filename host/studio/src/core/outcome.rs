//! How an offer or a job ends: rejects, failures, results, and the history they go into.

use std::time::{Duration, Instant};

use worker_wire::{JobId, ServedBy, ServerFrame, reject};

use super::claims::Standing;
use super::job::Progress;
use super::session::Rest;
use super::{Core, Job, JobState, Violation, cut};
use crate::store::{Change, JobRow, Receipt};

/// Longest error text that is kept.
const ERROR_BYTES: usize = 4_000;

/// Longest note of a progress frame that is kept.
const NOTE_BYTES: usize = 200;

/// Plugins that one job's record holds. A worker has one engine, one router and a handful of finishers for a job.
const MAX_PLUGINS: usize = 32;

/// Longest name, version or digest there.
const WORD_BYTES: usize = 128;

/// Bytes of prompt that the history holds in memory. Prompts may be a megabyte each.
const HISTORY_PROMPTS: usize = 64 << 20;

/// How long after a worker delivered a `busy` from it counts as the race between its last job's end and the next offer.
const RACE: Duration = Duration::from_millis(500);

/// First wait after such a race; it doubles.
const RACE_WAIT: Duration = Duration::from_millis(5);

/// Why an offer was not taken.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Rejected {
    pub(crate) code: Option<String>,
    pub(crate) reason: String,
}

/// What comes of a JSON result or a failure.
pub(crate) enum JsonVerdict {
    /// Recorded; to be acknowledged when it is committed.
    Taken(JobId, Receipt),
    /// To be acknowledged at once: nothing is to be done with it.
    Over,
    /// Not for this session, but harmless.
    Ignored,
}

/// What a reject means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// The worker cannot take any job now.
    NotNow,
    /// It cannot take this one now.
    TooLarge,
    /// It will not take this one.
    Never,
}

impl Rejected {
    /// By its code; by its text where there is none, or one that this side does not know.
    fn meaning(&self) -> Meaning {
        match self.code.as_deref() {
            Some(reject::BUSY | reject::PAUSED) => return Meaning::NotNow,
            Some(reject::INSUFFICIENT_MEMORY) => return Meaning::TooLarge,
            Some(reject::BAD_OFFER | reject::UNSUPPORTED_ENGINE | reject::PLUGIN_FAULT) => {
                return Meaning::Never;
            }
            _ => {}
        }
        let text = self.reason.to_lowercase();
        if ["busy", "in-flight", "paused"]
            .iter()
            .any(|word| text.contains(word))
        {
            Meaning::NotNow
        } else {
            Meaning::Never
        }
    }
}

impl Core {
    /// An offer was not taken. Returns after how long the worker is to be asked again, where that is before its next
    /// heartbeat.
    pub(crate) fn reject(
        &mut self,
        no: u64,
        id: &str,
        mut rejected: Rejected,
    ) -> Result<Option<Duration>, Violation> {
        let Some(session) = self.sessions.get_mut(&no) else {
            return Ok(None);
        };
        let offered = session.offer.take_if(|offer| offer.as_str() == id);
        let Some(id) = offered else {
            if session.is_over(id) {
                return Ok(None);
            }
            return Err(Violation(format!(
                "reject for job {id:?}, which is not offered to this session"
            )));
        };
        cut(&mut rejected.reason, ERROR_BYTES);
        let mut again = None;
        match rejected.meaning() {
            Meaning::NotNow => {
                session.rest = Rest::UntilBeat;
                if session.freed.is_some_and(|freed| freed.elapsed() < RACE) {
                    again = Some(RACE_WAIT * 2u32.saturating_pow(session.races.min(10)));
                    session.races += 1;
                }
            }
            Meaning::TooLarge => {
                session.too_large.insert(id.clone());
            }
            Meaning::Never => {
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.refused_by.insert(no);
                }
            }
        }
        self.note_reject(&id, &rejected);
        self.requeue(&id);
        self.dispatch();
        Ok(again)
    }

    /// A worker that lost the race may be asked again.
    pub(crate) fn rested(&mut self, no: u64) {
        if let Some(session) = self.sessions.get_mut(&no) {
            session.rest = Rest::No;
            self.dispatch();
        }
    }

    /// How far a job is. One that the session does not hold is not worth an answer: it may have crossed a cancel.
    pub(crate) fn progress(
        &mut self,
        no: u64,
        id: &str,
        done: u32,
        total: u32,
        mut note: Option<String>,
    ) {
        let Some(id) = self.in_hand(no, id) else {
            return;
        };
        if let Some(note) = &mut note {
            cut(note, NOTE_BYTES);
        }
        if let Some(job) = self.jobs.get_mut(&id)
            && !job.is_finished()
        {
            job.progress = Some(Progress { done, total, note });
            job.bump();
        }
    }

    /// Which plugins have a job. The record is kept with the next change of its state; one that is lost is only information.
    pub(crate) fn served_by(&mut self, no: u64, id: &str, mut by: ServedBy) {
        let Some(id) = self.in_hand(no, id) else {
            return;
        };
        by.plugins.truncate(MAX_PLUGINS);
        cut(&mut by.generation, WORD_BYTES);
        for plugin in &mut by.plugins {
            for word in [&mut plugin.name, &mut plugin.version, &mut plugin.digest] {
                cut(word, WORD_BYTES);
            }
        }
        if let Some(job) = self.jobs.get_mut(&id)
            && !job.is_finished()
        {
            job.row.served_by = Some(by);
            job.bump();
        }
    }

    /// The job that a session holds, if it is this one.
    fn in_hand(&self, no: u64, id: &str) -> Option<JobId> {
        let held = self.sessions.get(&no)?.job.clone()?;
        (held.as_str() == id).then_some(held)
    }

    /// A JSON result came.
    pub(crate) fn json_result(
        &mut self,
        no: u64,
        id: &str,
        result: String,
        prompt: String,
    ) -> Result<JsonVerdict, Violation> {
        let Some(id) = self.held(no, id, "completeJson")? else {
            return Ok(self.unheld(no, id));
        };
        self.withdraw(&id);
        let bytes = u64::try_from(result.len()).unwrap_or(u64::MAX);
        let row = self.settle(&id, JobState::Done, |row| {
            row.media_type = Some("application/json".to_owned());
            row.result_bytes = Some(bytes);
            if !prompt.is_empty() {
                row.prompt = prompt;
            }
        });
        Ok(match row {
            Some(row) => {
                self.hide(&id);
                let receipt = self.store.commit(Change::JsonResult(Box::new(row), result));
                self.trim_history();
                JsonVerdict::Taken(id, receipt)
            }
            None => JsonVerdict::Over,
        })
    }

    /// A job failed on its worker.
    pub(crate) fn fail(
        &mut self,
        no: u64,
        id: &str,
        mut error: String,
        retryable: bool,
    ) -> Result<JsonVerdict, Violation> {
        let standing = self.standing(no, id);
        let Some(id) = self.held(no, id, "fail")? else {
            return Ok(self.unheld(no, id));
        };
        cut(&mut error, ERROR_BYTES);
        let cancelled = self
            .jobs
            .get(&id)
            .is_some_and(|job| job.cancelled_at.is_some());
        if cancelled {
            self.withdraw(&id);
            self.finish(&id, JobState::Cancelled, |row| row.error = Some(error));
        } else if standing == Standing::HeldBefore && retryable {
            // Requeued when its worker went away, the attempt counted then.
            self.update(&id, |job| {
                job.row.error = Some(error);
                job.row.retryable = Some(true);
                // Not so after a restart of the studio, which kept it for the worker.
                if matches!(job.state, JobState::Queued { reserved: Some(_) }) {
                    job.row.attempts += 1;
                    job.state = JobState::Queued { reserved: None };
                }
            });
        } else {
            self.withdraw(&id);
            self.attempt_failed(&id, error, retryable);
        }
        self.hide(&id);
        let receipt = match self.jobs.get(&id) {
            Some(job) => self.store.commit(Change::Job(Box::new(job.row()))),
            None => return Ok(JsonVerdict::Over),
        };
        Ok(JsonVerdict::Taken(id, receipt))
    }

    fn held(&self, no: u64, id: &str, frame: &str) -> Result<Option<JobId>, Violation> {
        match self.standing(no, id) {
            Standing::Holds | Standing::HeldBefore => Ok(JobId::parse(id).ok()),
            Standing::Over | Standing::Ignored => Ok(None),
            Standing::Violates => Err(Violation(format!(
                "{frame} for job {id:?}, which this session does not hold"
            ))),
        }
    }

    fn unheld(&self, no: u64, id: &str) -> JsonVerdict {
        match self.standing(no, id) {
            Standing::Over => JsonVerdict::Over,
            _ => JsonVerdict::Ignored,
        }
    }

    /// Counts an attempt; the job goes back into the queue, or has failed.
    pub(crate) fn attempt_failed(&mut self, id: &JobId, error: String, retryable: bool) {
        let limit = self.limits.attempts;
        let Some(job) = self.jobs.get_mut(id) else {
            return;
        };
        job.row.attempts += 1;
        job.row.error = Some(error);
        job.row.retryable = Some(retryable);
        if retryable && job.row.attempts < limit {
            self.requeue(id);
        } else {
            self.finish(id, JobState::Failed, |_| {});
        }
    }

    /// Ends a job, and records it.
    pub(crate) fn finish(
        &mut self,
        id: &JobId,
        state: JobState,
        change: impl FnOnce(&mut JobRow),
    ) -> Option<Receipt> {
        let row = self.settle(id, state, change)?;
        let receipt = self.store.commit(Change::Job(Box::new(row)));
        self.trim_history();
        Some(receipt)
    }

    fn settle(
        &mut self,
        id: &JobId,
        state: JobState,
        change: impl FnOnce(&mut JobRow),
    ) -> Option<JobRow> {
        let job = self.jobs.get_mut(id).filter(|job| !job.is_finished())?;
        self.queue.remove(&job.row.seq);
        change(&mut job.row);
        if state == JobState::Done {
            job.row.error = None;
            job.row.retryable = None;
        }
        job.state = state;
        job.row.finished_at = Some(super::now_ms());
        job.bump();
        let row = job.row();
        self.finished_prompts += row.prompt.len();
        self.finished.push_back(id.clone());
        Some(row)
    }

    /// Keeps a job's end from people until it is recorded; [`Core::delivered`] or [`Core::unsettle`] follows.
    pub(crate) fn hide(&mut self, id: &JobId) {
        if let Some(job) = self.jobs.get_mut(id).filter(|job| job.is_finished()) {
            job.recording = true;
        }
    }

    /// The record of an outcome failed: the job is its worker's again, so that the outcome can be sent again.
    pub(crate) fn unsettle(&mut self, id: &JobId) {
        let until = Instant::now() + self.timing.grace;
        let holder = self
            .sessions
            .iter()
            .find(|(_, session)| session.job.as_ref() == Some(id))
            .map(|(no, _)| *no);
        let Some(job) = self.reopen(id) else {
            return;
        };
        if job.state == JobState::Failed {
            // The attempt is not over after all.
            job.row.attempts = job.row.attempts.saturating_sub(1);
        }
        job.state = JobState::Running {
            session: holder,
            until: holder.is_none().then_some(until),
        };
        job.bump();
    }

    /// The record of a cancellation failed, of a job that nobody ran: it waits as before.
    pub(crate) fn uncancel(&mut self, id: &JobId) {
        let is_cancelled = |job: &Job| job.state == JobState::Cancelled;
        if self.jobs.get(id).is_some_and(is_cancelled) && self.reopen(id).is_some() {
            self.requeue(id);
            self.dispatch();
        }
    }

    /// Takes a job that has ended out of the history, with nothing left of its end but its state.
    fn reopen(&mut self, id: &JobId) -> Option<&mut Job> {
        let job = self.jobs.get_mut(id).filter(|job| job.is_finished())?;
        self.finished.retain(|finished| finished != id);
        self.finished_prompts = self.finished_prompts.saturating_sub(job.row.prompt.len());
        job.recording = false;
        job.row.error = None;
        job.row.retryable = None;
        job.row.finished_at = None;
        job.row.result_bytes = None;
        job.row.media_type = None;
        job.row.ext = None;
        Some(job)
    }

    /// Keeps the history within its bounds.
    pub(crate) fn trim_history(&mut self) {
        while self.finished.len() > self.limits.history || self.finished_prompts > HISTORY_PROMPTS {
            let Some(id) = self.finished.pop_front() else {
                return;
            };
            let Some(job) = self.jobs.remove(&id) else {
                continue;
            };
            self.finished_prompts = self.finished_prompts.saturating_sub(job.row.prompt.len());
            let file = job.file(&self.results);
            self.store.record(Change::Forget(id.to_string(), file));
        }
    }

    /// Acknowledges a JSON result or a failure.
    pub(crate) fn acknowledge(&self, no: u64, id: &str, result: bool) {
        let id = id.to_owned();
        self.send(
            no,
            if result {
                ServerFrame::CompleteAck(id)
            } else {
                ServerFrame::FailAck(id)
            },
        );
    }
}
