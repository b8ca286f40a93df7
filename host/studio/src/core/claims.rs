//! Who holds a job: taking, giving back, coming back for it.

use std::path::Path;
use std::time::Instant;

use worker_wire::{Extension, JobId, ServerFrame};

use super::{Core, JobState, Rejected, Violation};

/// Why an upload is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UploadRefusal {
    /// That worker does not hold the job.
    NotClaimed,
    /// It is here already, from the same worker: nothing is lost, nothing more is needed.
    AlreadyHere,
    /// An upload of it is being recorded, which may yet fail.
    Recording,
}

/// What a worker is to a job that it sends a result or a failure for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It holds the job.
    Holds,
    /// It held the job in an earlier session, and nobody has taken it since.
    HeldBefore,
    /// The job is over; the worker may forget it.
    Over,
    /// Not its job; not worth its session either.
    Ignored,
    /// A frame that it must not send.
    Violates,
}

impl Core {
    /// What the worker of a session is to a job.
    pub(crate) fn standing(&self, no: u64, id: &str) -> Standing {
        let Some(session) = self.sessions.get(&no) else {
            return Standing::Ignored;
        };
        let resumes = session.speaks(Extension::Resume);
        let unknown = if session.is_over(id) || resumes {
            Standing::Ignored
        } else {
            Standing::Violates
        };
        let Some(job) = JobId::parse(id).ok().and_then(|id| self.jobs.get(&id)) else {
            return unknown;
        };
        if matches!(job.state, JobState::Running { session: Some(holder), .. } if holder == no) {
            return Standing::Holds;
        }
        let mine = job.was_with(&session.worker);
        if session.is_over(id) && session.has_accepted(&job.id) && job.is_finished() && mine {
            // Said twice in one session, unless a cancel crossed it.
            return if job.state == JobState::Cancelled {
                Standing::Over
            } else {
                Standing::Violates
            };
        }
        match job.state {
            JobState::Running { .. } if mine && resumes => Standing::Holds,
            JobState::Queued { .. } | JobState::Offered { .. }
                if mine && resumes && job.row.resumable =>
            {
                Standing::HeldBefore
            }
            // Its end may yet come to nothing: who sends it again hears when it is recorded.
            _ if job.recording => Standing::Ignored,
            _ if job.is_finished() && (resumes || session.is_over(id)) => Standing::Over,
            _ => unknown,
        }
    }

    /// An offer was taken.
    pub(crate) fn accept(&mut self, no: u64, id: &str) -> Result<(), Violation> {
        let Some(session) = self.sessions.get_mut(&no) else {
            return Ok(());
        };
        let offered = session.offer.take_if(|offer| offer.as_str() == id);
        let Some(id) = offered else {
            if !session.is_over(id) {
                return Err(Violation(format!(
                    "accept for job {id:?}, which is not offered to this session"
                )));
            }
            // Withdrawn while the answer was on its way, or done before it came.
            let done = JobId::parse(id).is_ok_and(|id| {
                let job = self.jobs.get(&id);
                job.is_some_and(|job| job.state == JobState::Done)
            });
            if !done && session.speaks(Extension::JobCancel) {
                session.out.frame(ServerFrame::JobCancel(id.to_owned()));
            }
            return Ok(());
        };
        session.accept(&id);
        session.job = Some(id.clone());
        session.races = 0;
        let worker = session.worker.clone();
        let resumable = session.speaks(Extension::Resume);
        self.update(&id, |job| {
            job.state = JobState::Running {
                session: Some(no),
                until: None,
            };
            job.row.worker = Some(worker);
            job.row.served_by = None;
            job.row.resumable = resumable;
            job.row.started_at = Some(super::now_ms());
            job.row.error = None;
            job.row.retryable = None;
            job.progress = None;
        });
        Ok(())
    }

    /// Puts a job back into its place in the queue, without counting an attempt.
    pub(crate) fn requeue(&mut self, id: &JobId) {
        let Some(job) = self.jobs.get_mut(id) else {
            return;
        };
        job.state = JobState::Queued { reserved: None };
        job.progress = None;
        self.queue.insert(job.row.seq, id.clone());
        let job = &*job;
        job.bump();
        self.store
            .record(crate::store::Change::Job(Box::new(job.row())));
    }

    /// Takes a job out of the queue, or an offer back: somebody else has it, or nobody is to have it any more.
    pub(crate) fn withdraw(&mut self, id: &JobId) {
        let Some(job) = self.jobs.get(id) else {
            return;
        };
        self.queue.remove(&job.row.seq);
        if let JobState::Offered { session, .. } = job.state
            && let Some(session) = self.sessions.get_mut(&session)
        {
            session.end(id);
        }
    }

    /// Releases a claim that ended without a result: one attempt is gone.
    pub(crate) fn release(&mut self, id: &JobId, why: &str) {
        let Some(job) = self.jobs.get(id) else {
            return;
        };
        let cancelled = job.cancelled_at.is_some();
        if let JobState::Running {
            session: Some(no), ..
        } = job.state
            && let Some(session) = self.sessions.get_mut(&no)
        {
            session.end(id);
        }
        if cancelled {
            self.finish(id, JobState::Cancelled, |_| {});
        } else {
            self.attempt_failed(id, why.to_owned(), true);
        }
        self.drop_claim(id);
    }

    /// Frees a finished job's claim, which may be megabytes: nobody can be offered it any more.
    pub(crate) fn drop_claim(&mut self, id: &JobId) {
        if let Some(job) = self.jobs.get_mut(id).filter(|job| job.is_finished()) {
            job.claim = None;
        }
    }

    /// Gives a job back to a worker that names it in a heartbeat, and releases what it does not name any more.
    pub(crate) fn reattach(&mut self, no: u64, current: Option<&str>) {
        let Some(session) = self.sessions.get(&no) else {
            return;
        };
        let worker = session.worker.clone();
        let free = session.job.is_none();
        let settled = session.welcomed.elapsed() >= self.timing.settle;
        if let Some(id) = current.and_then(|id| JobId::parse(id).ok()) {
            self.follow(no, &id, &worker, free);
        }
        if settled {
            for id in self.left_behind(&worker, current) {
                self.end_reservation(
                    &id,
                    "its worker came back without the job; it was lost there",
                );
            }
        }
    }

    fn follow(&mut self, no: u64, id: &JobId, worker: &str, free: bool) {
        let (Some(job), Some(session)) = (self.jobs.get(id), self.sessions.get(&no)) else {
            return;
        };
        let mine = job.was_with(worker);
        let resumes = session.speaks(Extension::Resume);
        match job.state {
            JobState::Running { session: None, .. } if mine && free => {}
            JobState::Queued { .. } | JobState::Offered { .. }
                if mine && free && resumes && job.row.resumable => {}
            JobState::Cancelled if mine && session.speaks(Extension::JobCancel) => {
                // It was away, or slow, when it was told.
                session.out.frame(ServerFrame::JobCancel(id.to_string()));
                return;
            }
            _ => return,
        }
        let cancelled = job.cancelled_at.is_some();
        self.withdraw(id);
        if let Some(session) = self.sessions.get_mut(&no) {
            session.job = Some(id.clone());
            if cancelled && session.speaks(Extension::JobCancel) {
                session.out.frame(ServerFrame::JobCancel(id.to_string()));
            }
        }
        self.update(id, |job| {
            job.state = JobState::Running {
                session: Some(no),
                until: None,
            };
        });
    }

    /// Jobs kept for a worker that is back and names another one, or none.
    fn left_behind(&self, worker: &str, current: Option<&str>) -> Vec<JobId> {
        let mut kept = self.kept_for(worker);
        kept.retain(|id| {
            let uploading = self.jobs.get(id).is_some_and(|job| job.uploads > 0);
            current != Some(id.as_str()) && !uploading
        });
        kept
    }

    /// Jobs kept for a worker while it is away.
    pub(crate) fn kept_for(&self, worker: &str) -> Vec<JobId> {
        self.jobs
            .values()
            .filter(|job| job.was_with(worker))
            .filter(|job| {
                matches!(
                    job.state,
                    JobState::Running { session: None, .. }
                        | JobState::Queued { reserved: Some(_) }
                )
            })
            .map(|job| job.id.clone())
            .collect()
    }

    /// Ends what is kept for an absent worker.
    pub(crate) fn end_reservation(&mut self, id: &JobId, why: &str) {
        if let Some(job) = self.jobs.get(id) {
            self.queue.remove(&job.row.seq);
            self.release(id, why);
        }
    }

    /// Whether an upload may begin. Every `Ok` is paired with one [`Core::end_upload`].
    pub(crate) fn begin_upload(&mut self, worker: &str, id: &JobId) -> Result<(), UploadRefusal> {
        self.may_upload(worker, id)?;
        if let Some(job) = self.jobs.get_mut(id) {
            job.uploads += 1;
        }
        Ok(())
    }

    fn may_upload(&self, worker: &str, id: &JobId) -> Result<(), UploadRefusal> {
        let job = self.jobs.get(id).ok_or(UploadRefusal::NotClaimed)?;
        if let JobState::Offered { session, .. } = job.state
            && self
                .sessions
                .get(&session)
                .is_some_and(|session| session.worker == worker)
        {
            // Another connection than the socket's: the result of a short job can overtake its `accept`.
            return Ok(());
        }
        if !job.was_with(worker) {
            return Err(UploadRefusal::NotClaimed);
        }
        match job.state {
            JobState::Running { .. } => Ok(()),
            // Requeued and not taken by another: the GPU minutes are spent, the result is welcome.
            JobState::Queued { .. } | JobState::Offered { .. } if job.row.resumable => Ok(()),
            JobState::Done if job.recording => Err(UploadRefusal::Recording),
            JobState::Done if job.row.ext.is_some() => Err(UploadRefusal::AlreadyHere),
            _ => Err(UploadRefusal::NotClaimed),
        }
    }

    /// An upload ended, however.
    pub(crate) fn end_upload(&mut self, id: &JobId) {
        if let Some(job) = self.jobs.get_mut(id) {
            job.uploads = job.uploads.saturating_sub(1);
        }
    }

    /// Takes a whole upload: moves it to its place and finishes the job. The commit is the caller's to wait for.
    pub(crate) fn take_upload(
        &mut self,
        worker: &str,
        id: &JobId,
        upload: &crate::wire::Upload,
        part: &Path,
    ) -> Result<crate::store::Receipt, TakeError> {
        self.may_upload(worker, id).map_err(TakeError::Refused)?;
        let place = self.results.join(format!("{id}.{}", upload.ext));
        // Within one folder: a rename, done before anybody can read that the job is done.
        std::fs::rename(part, place).map_err(TakeError::Disk)?;
        self.withdraw(id);
        let receipt = self.finish(id, JobState::Done, |row| {
            row.worker = Some(worker.to_owned());
            row.ext = Some(upload.ext.clone());
            row.media_type = Some(worker_wire::media_type_of(&upload.ext).to_owned());
            row.result_bytes = Some(upload.bytes);
            if !upload.prompt.is_empty() {
                row.prompt.clone_from(&upload.prompt);
            }
        });
        self.hide(id);
        receipt.ok_or(TakeError::Refused(UploadRefusal::NotClaimed))
    }

    /// A result or a failure is recorded and about to be acknowledged: its worker may get the next job.
    pub(crate) fn delivered(&mut self, worker: &str, id: &JobId) {
        if let Some(no) = self.session_of(worker)
            && let Some(session) = self.sessions.get_mut(&no)
        {
            session.end(id);
            session.freed = Some(Instant::now());
        }
        if let Some(job) = self.jobs.get_mut(id).filter(|job| job.recording) {
            job.recording = false;
            job.bump();
            if job.state == JobState::Done {
                let row = job.row();
                self.count_for_canary(&row);
            }
        }
        self.drop_claim(id);
        self.dispatch();
    }

    /// Notes why an offer was not taken.
    pub(crate) fn note_reject(&mut self, id: &JobId, rejected: &Rejected) {
        if let Some(job) = self.jobs.get_mut(id) {
            job.row.reject_code.clone_from(&rejected.code);
            job.row.reject_reason = Some(rejected.reason.clone());
        }
    }
}

/// Why a whole upload was not taken.
#[derive(Debug)]
pub(crate) enum TakeError {
    /// The job is not this worker's any more.
    Refused(UploadRefusal),
    /// The file could not be moved to its place.
    Disk(std::io::Error),
}
