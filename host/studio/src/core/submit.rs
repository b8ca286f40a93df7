//! Jobs that come in from people, and jobs that they call back.

use std::sync::Arc;
use std::time::Instant;

use serde::Deserialize;
use serde_json::value::RawValue;
use worker_wire::{Extension, JobId, ServerFrame};

use super::{Core, Job, JobState};
use crate::secrets;
use crate::store::{Change, JobRow, Receipt};

/// A job to be queued.
pub(crate) struct Submission {
    /// The claim as a JSON object, with or without a `jobId`.
    pub(crate) claim: String,
    /// The text that people know the job by.
    pub(crate) prompt: String,
}

/// Why a job is not queued.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SubmitError {
    #[error("the offer is not a JSON object that can be sent: {0}")]
    NotAnObject(String),
    #[error("the offer's jobId is refused: {0}")]
    BadId(String),
    #[error("a job {0} is there already; leave `jobId` out to have one assigned")]
    Taken(String),
    #[error("the claim has {bytes} bytes, more than the {limit} that a worker can receive")]
    TooLarge { bytes: usize, limit: usize },
    #[error("{0} jobs are waiting or running already; wait for some to end, or cancel some")]
    Full(usize),
    #[error("no job id could be made: the operating system gave no random bytes")]
    NoRandomness,
}

/// Why a job is not cancelled.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CancelError {
    #[error("there is no such job")]
    Unknown,
    #[error("the job has ended already: {0}")]
    Finished(&'static str),
    #[error("the job is ending: what came of it is being recorded")]
    Ending,
    #[error("the worker that runs it cannot be told to stop (it does not list `jobCancel`)")]
    Deaf,
}

/// What the studio reads of a claim; the rest passes through unread.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Glance<'a> {
    /// `null` is an id that is refused, not one that is absent: a second one beside it would make two.
    #[serde(borrow, default, deserialize_with = "present")]
    job_id: Option<&'a RawValue>,
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    vram_gb_estimate: Option<&'a RawValue>,
    #[serde(borrow)]
    task: Option<&'a RawValue>,
    #[serde(borrow)]
    model_source: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Words {
    kind: Option<String>,
    engine: Option<String>,
}

impl Core {
    /// Queues a job. A worker may be offered it before the commit that the receipt stands for.
    pub(crate) fn submit(
        &mut self,
        submission: Submission,
    ) -> Result<(JobId, Receipt), SubmitError> {
        let glance: Glance<'_> = serde_json::from_str(&submission.claim)
            .map_err(|e| SubmitError::NotAnObject(e.to_string()))?;
        let (id, claim) = match glance.job_id {
            Some(raw) => (self.given_id(raw)?, submission.claim.clone()),
            None => {
                let id = secrets::id("job-").map_err(|_| SubmitError::NoRandomness)?;
                let claim = with_id(&submission.claim, &id);
                let id = JobId::parse(&id).map_err(|e| SubmitError::BadId(e.to_string()))?;
                (id, claim)
            }
        };
        self.check_room(&claim)?;
        let task: Words = words(glance.task);
        let source: Words = words(glance.model_source);
        let row = JobRow {
            id: id.to_string(),
            seq: self.next_seq,
            state: "queued".to_owned(),
            kind: task.kind.filter(|kind| !kind.is_empty()),
            engine: source.engine.filter(|engine| !engine.is_empty()),
            model: words_or_default(glance.model),
            vram_gb: words_or_default(glance.vram_gb_estimate),
            prompt: submission.prompt,
            queued_at: super::now_ms(),
            ..JobRow::default()
        };
        self.next_seq += 1;
        let receipt = self
            .store
            .commit(Change::NewJob(Box::new(row.clone()), claim.clone()));
        self.queue.insert(row.seq, id.clone());
        let state = JobState::Queued { reserved: None };
        let job = Job::new(id.clone(), row, state, Some(Arc::from(claim)));
        self.jobs.insert(id.clone(), job);
        self.dispatch();
        Ok((id, receipt))
    }

    fn given_id(&self, raw: &RawValue) -> Result<JobId, SubmitError> {
        let text: String = serde_json::from_str(raw.get())
            .map_err(|_| SubmitError::BadId("it is not a text".to_owned()))?;
        let id = JobId::parse(&text).map_err(|e| SubmitError::BadId(e.to_string()))?;
        if self.jobs.contains_key(&id) {
            return Err(SubmitError::Taken(text));
        }
        Ok(id)
    }

    fn check_room(&self, claim: &str) -> Result<(), SubmitError> {
        let limit = self.limits.claim_bytes;
        if claim.len() > limit {
            return Err(SubmitError::TooLarge {
                bytes: claim.len(),
                limit,
            });
        }
        let unfinished = self.jobs.len().saturating_sub(self.finished.len());
        if unfinished >= self.limits.queue {
            return Err(SubmitError::Full(unfinished));
        }
        Ok(())
    }

    /// Undoes a submission whose record failed, unless a worker has it by now.
    pub(crate) fn unsubmit(&mut self, id: &JobId) {
        let waiting = self.jobs.get(id).is_some_and(|job| {
            matches!(
                job.state,
                JobState::Queued { .. } | JobState::Offered { .. }
            )
        });
        if waiting {
            self.withdraw(id);
            self.jobs.remove(id);
        }
    }

    /// Stops a job: at once while nobody runs it, which stands once it is recorded, else by telling its worker.
    pub(crate) fn cancel(
        &mut self,
        id: &JobId,
    ) -> Result<(&'static str, Option<Receipt>), CancelError> {
        let job = self.jobs.get(id).ok_or(CancelError::Unknown)?;
        if job.recording {
            return Err(CancelError::Ending);
        }
        let mut receipt = None;
        match job.state {
            JobState::Done | JobState::Failed | JobState::Cancelled => {
                return Err(CancelError::Finished(job.state_word()));
            }
            JobState::Running {
                session: Some(no), ..
            } => self.tell_to_stop(id, no)?,
            // Queued, offered, or with a worker that is away; that one is told when it is back.
            _ => {
                self.withdraw(id);
                // Its claim stays until that is recorded: else it is to be had again.
                receipt = self.finish(id, JobState::Cancelled, |_| {});
                self.dispatch();
            }
        }
        let state = self.jobs.get(id).map_or("cancelled", Job::state_word);
        Ok((state, receipt))
    }

    fn tell_to_stop(&mut self, id: &JobId, no: u64) -> Result<(), CancelError> {
        let deaf = self
            .sessions
            .get(&no)
            .is_none_or(|session| !session.speaks(Extension::JobCancel));
        if deaf {
            return Err(CancelError::Deaf);
        }
        self.send(no, ServerFrame::JobCancel(id.to_string()));
        self.update(id, |job| {
            job.cancelled_at.get_or_insert_with(Instant::now);
        });
        Ok(())
    }
}

/// The claim with an id, every other byte as it was.
fn with_id(claim: &str, id: &str) -> String {
    let body = claim
        .trim_start()
        .strip_prefix('{')
        .unwrap_or_default()
        .trim_start();
    let comma = if body.starts_with('}') { "" } else { "," };
    format!("{{\"jobId\":\"{id}\"{comma}{body}")
}

fn present<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

fn words(value: Option<&RawValue>) -> Words {
    words_or_default(value)
}

fn words_or_default<T: serde::de::DeserializeOwned + Default>(value: Option<&RawValue>) -> T {
    value
        .and_then(|value| serde_json::from_str(value.get()).ok())
        .unwrap_or_default()
}
