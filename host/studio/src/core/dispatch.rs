//! Who gets which job: the oldest one first, to the earliest connected worker that can serve it.

use std::sync::Arc;
use std::time::Instant;

use worker_wire::{JobId, ServerFrame};

use super::{Core, Job, JobState, Session};

impl Core {
    /// Offers what can be offered. Called whenever a job or a worker may have become free.
    pub(crate) fn dispatch(&mut self) {
        let fresh = self.timing.fresh;
        let mut idle: Vec<u64> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.is_idle(fresh))
            .map(|(no, _)| *no)
            .collect();
        let mut matches: Vec<(JobId, u64)> = Vec::new();
        for id in self.queue.values() {
            if idle.is_empty() {
                break;
            }
            let Some(job) = self.jobs.get(id) else {
                continue;
            };
            let place = idle.iter().position(|no| self.suits(job, *no));
            if let Some(place) = place {
                matches.push((id.clone(), idle.remove(place)));
            }
        }
        for (id, no) in matches {
            self.offer(&id, no);
        }
    }

    fn suits(&self, job: &Job, no: u64) -> bool {
        self.sessions.get(&no).is_some_and(|session| {
            job.state == JobState::Queued { reserved: None }
                && serves(job, session)
                && fits(job, session)
                && !job.refused_by.contains(&no)
                && !session.too_large.contains(&job.id)
        })
    }

    fn offer(&mut self, id: &JobId, no: u64) {
        let (Some(job), Some(session)) = (self.jobs.get_mut(id), self.sessions.get_mut(&no)) else {
            return;
        };
        let Some(claim) = job.claim.as_ref().map(Arc::clone) else {
            return;
        };
        self.queue.remove(&job.row.seq);
        job.state = JobState::Offered {
            session: no,
            since: Instant::now(),
        };
        job.bump();
        session.offer = Some(id.clone());
        session
            .out
            .frame(ServerFrame::Offer(claim.as_ref().to_owned()));
        tracing::debug!(job = %id, worker = session.worker, "offered");
    }

    /// Why a queued job has not been offered, for the person who waits for it.
    pub(crate) fn waiting_for(&self, job: &Job) -> Option<String> {
        let JobState::Queued { reserved } = job.state else {
            return None;
        };
        if reserved.is_some() {
            return Some("kept for the worker that had it when the studio stopped".to_owned());
        }
        if self.sessions.is_empty() {
            return Some("no worker is connected".to_owned());
        }
        let serving: Vec<(u64, &Session)> = self
            .sessions
            .iter()
            .filter(|(_, session)| serves(job, session))
            .map(|(no, session)| (*no, session))
            .collect();
        if serving.is_empty() {
            let kind = job.row.kind.as_deref().unwrap_or("(none)");
            return Some(match job.row.engine.as_deref() {
                Some(engine) => {
                    format!("no connected worker serves kind {kind} with engine {engine}")
                }
                None => format!("no connected worker serves kind {kind}"),
            });
        }
        if !serving.iter().any(|(_, session)| fits(job, session)) {
            return Some(format!(
                "it needs {} GiB, more than any connected worker that serves it takes",
                job.row.vram_gb
            ));
        }
        if serving.iter().all(|(no, _)| job.refused_by.contains(no)) {
            let reason = job.row.reject_reason.as_deref().unwrap_or_default();
            return Some(format!(
                "every connected worker that serves it rejected it: {reason}"
            ));
        }
        if serving
            .iter()
            .all(|(_, session)| !session.capabilities.auto_enabled)
        {
            return Some("every worker that serves it is paused".to_owned());
        }
        Some("waiting for a free worker".to_owned())
    }
}

/// Whether a worker says that it serves a job's kind and engine. A claim that names none is anybody's, to be rejected
/// by them; a worker that lists no engine is older than the list.
fn serves(job: &Job, session: &Session) -> bool {
    let lists = |list: &[String], word: &Option<String>| {
        word.as_ref().is_none_or(|word| list.contains(word))
    };
    let capabilities = &session.capabilities;
    lists(&capabilities.task_kinds, &job.row.kind)
        && (capabilities.model_engines.is_empty()
            || lists(&capabilities.model_engines, &job.row.engine))
}

fn fits(job: &Job, session: &Session) -> bool {
    session.capabilities.vram_threshold_gb >= job.row.vram_gb
}
