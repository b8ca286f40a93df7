//! One job, as a state machine: accepted → stepping ⇄ performing → finishing → keeping → delivering → ended.
//!
//! Every stage can be cancelled. Whatever way a job ends, exactly one result or failure is kept on disk and then
//! handed over, its scratch directory is gone, and the slot is free.

mod error;
mod hand_over;
mod steps;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde_json::json;
use worker_plugins::{Engine, Generation, Identity};
use worker_wire::{Claim, Extension, PluginUsed, ServedBy, StudioLink, WorkerFrame};

use self::error::JobError;
use self::hand_over::payload_of;
pub(crate) use self::steps::{is_cancelled_for_long, undeclared};
use crate::effects::{Waited, Withheld};
use crate::finish::{FinishError, Ready};
use crate::journal::Journal;
use crate::offers::Shared;
use crate::slot::Reservation;
use crate::tally::Outcome;
use crate::witness::{JobEnd, JobReport};

/// Where a job is. The journal and `status` name these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Accepted,
    Provisioning,
    Stepping,
    Performing,
    Finishing,
    Keeping,
    Delivering,
    Ended,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Provisioning => "provisioning",
            Self::Stepping => "stepping",
            Self::Performing => "performing",
            Self::Finishing => "finishing",
            Self::Keeping => "keeping",
            Self::Delivering => "delivering",
            Self::Ended => "ended",
        }
    }
}

/// A job that holds the slot.
pub(crate) struct JobRun {
    shared: Arc<Shared>,
    generation: Arc<Generation>,
    engine: Arc<Engine>,
    claim: Claim,
    link: StudioLink,
    reservation: Reservation,
    journal: Journal,
    stage: Stage,
    subject: String,
    /// Set once a program, call or request was started: the job cannot begin anew after that.
    touched: bool,
    /// What the engine asked for that no plugin may ask for.
    invalid: Option<String>,
    /// Set while the last program ended by a signal, or badly and without a word.
    unexplained: bool,
    /// How long the engine had the job wait in all, in milliseconds.
    waited: Waited,
    /// What the last round of effects did not get.
    withheld: Withheld,
    /// Set once the job's one answer is on its way.
    handed_over: Arc<AtomicBool>,
}

impl JobRun {
    pub(crate) fn new(
        shared: Arc<Shared>,
        generation: Arc<Generation>,
        engine: Arc<Engine>,
        claim: Claim,
        link: StudioLink,
        reservation: Reservation,
    ) -> Self {
        let journal = shared.journals.start(&claim.job_id);
        let (stage, subject) = (Stage::Accepted, String::new());
        Self {
            shared,
            generation,
            engine,
            claim,
            link,
            reservation,
            journal,
            stage,
            subject,
            touched: false,
            invalid: None,
            unexplained: false,
            waited: Waited::default(),
            withheld: Withheld::default(),
            handed_over: Arc::default(),
        }
    }

    /// Whether the job's answer is on its way; nobody else may answer then.
    pub(crate) fn handed_over(&self) -> Arc<AtomicBool> {
        self.handed_over.clone()
    }

    /// Runs the job to its end. The slot is free as soon as the result is handed over; clearing up after it does not
    /// hold up the next job.
    pub(crate) async fn execute(mut self) {
        self.enter(Stage::Accepted);
        self.begin("offered");
        if self.deliver_what_waits().await {
            return;
        }
        let started = Instant::now();
        let mut files = None;
        let mut produced = self.produce(&mut files).await;
        if let Some((generation, engine)) = self.another_try(&produced).await {
            let plugin = &engine.identity().name;
            let told = format!("once more on the previous version of plugin `{plugin}`");
            self.shared
                .reporter
                .info(Some(&self.claim.job_id), told.clone());
            (self.generation, self.engine) = (generation, engine);
            self.begin("again");
            if let Some(files) = files.take() {
                files.remove().await;
            }
            produced = self.produce(&mut files).await;
            // Whoever watches hears of this end too; a third try there is not.
            let _ = self.another_try(&produced).await;
        }
        let (servers, id) = (&self.shared.servers, self.claim.job_id.as_str());
        if self.reservation.cancel.is_cancelled() {
            servers.job_stopped(id).await;
        } else {
            servers.job_ended(id);
        }
        let outcome = produced
            .as_ref()
            .map_or_else(JobError::outcome, |_| Outcome::Done);
        let payload = match produced {
            Ok(ready) => {
                let told = format!(
                    "{} dispatched in {:.1?}",
                    self.claim.kind,
                    started.elapsed()
                );
                self.shared.reporter.info(Some(&self.claim.job_id), told);
                payload_of(ready)
            }
            Err(error) => {
                let memory = self.memory_for(&error).await;
                self.failure(&error, memory.as_deref())
            }
        };
        self.hand_over(payload).await;
        self.enter(Stage::Ended);
        let shared = self.shared.clone();
        shared.tally.ended(outcome, started.elapsed());
        let journal = self.journal.clone();
        drop(self);
        // It may have been the last job of its generation.
        shared.retire_servers();
        // After the hand-over: a product may still lie in the job's scratch directory until it is kept.
        if let Some(files) = files {
            files.remove().await;
        }
        journal.wait();
    }

    /// Tells how the job ended; gives what to run it on once more, where a new plugin broke before anything was started.
    async fn another_try(
        &mut self,
        produced: &Result<Ready, JobError>,
    ) -> Option<(Arc<Generation>, Arc<Engine>)> {
        let name = self.engine.identity().name.clone();
        let own = || name.clone();
        let end = match produced {
            Ok(_) => JobEnd::Done,
            // It says that it cannot be done without what it did not get.
            Err(JobError::Failed(_)) if self.withheld.any() => JobEnd::Other,
            Err(JobError::Failed(failure)) => JobEnd::Failed {
                message: failure.message.clone(),
            },
            Err(JobError::Finish(FinishError::Refused { message, .. })) => JobEnd::Failed {
                message: message.clone(),
            },
            Err(JobError::Fault(fault) | JobError::Finish(FinishError::Fault(fault))) => {
                JobEnd::Fault(fault.clone())
            }
            Err(
                error @ (JobError::TooManySteps { .. }
                | JobError::NothingAsked { .. }
                | JobError::Finish(FinishError::Unusable(_) | FinishError::Extension { .. })),
            ) => JobEnd::Invalid {
                plugin: own(),
                what: error.to_string(),
            },
            Err(
                JobError::Programs(_)
                | JobError::Scratch(_)
                | JobError::Entropy(_)
                | JobError::Cancelled
                | JobError::Shutdown,
            ) => JobEnd::Other,
        };
        let end = match self.invalid.take() {
            Some(what) => JobEnd::Invalid {
                plugin: own(),
                what,
            },
            None => end,
        };
        let report = JobReport {
            generation: self.generation.clone(),
            engine: Some(self.engine.clone()),
            programs: self.shared.programs.used_by(&self.engine),
            end,
            untouched: !self.touched
                && !self.link.ended()
                && !self.reservation.cancel.is_cancelled(),
        };
        let before = self.shared.witness.ended(report).await?;
        let engine = before.engine(&own())?.clone();
        let there = self.shared.programs.can_serve(&engine);
        there.then_some((before, engine))
    }

    /// Writes down, and says, which plugins have the job from now on.
    fn begin(&mut self, event: &'static str) {
        let by = ServedBy {
            generation: self.generation.id().to_owned(),
            plugins: self.plugins_used().map(used).collect(),
        };
        let plugins: Vec<_> = self
            .plugins_used()
            .map(|one| json!({"name": one.name, "version": one.version, "sha256": one.digest, "signature": one.signature}))
            .collect();
        let mut body = json!({
            "job": self.claim.job_id.as_str(),
            "kind": self.claim.kind,
            "model": self.claim.model,
            "engine": self.engine.identity().name,
            "generation": by.generation,
            "plugins": plugins,
        });
        let claim = self.claim.raw.clone();
        self.journal.tell(event, move |teller| {
            if let Some(body) = body.as_object_mut() {
                body.insert("claim".to_owned(), teller.document(&claim));
            }
            body
        });
        self.reservation.served_by(by.clone());
        if self.link.speaks(Extension::ServedBy) {
            let job_id = self.claim.job_id.to_string();
            self.link.offer(WorkerFrame::ServedBy { job_id, by });
        }
    }

    fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        match stage {
            Stage::Delivering => self.reservation.delivering(),
            other => self.reservation.stage(other.name()),
        }
        self.journal.write("stage", json!(stage.name()));
    }

    /// The engine first, then the finishers and the router.
    fn plugins_used(&self) -> impl Iterator<Item = &Identity> {
        let finishers = self.generation.finishers().iter();
        std::iter::once(self.engine.identity())
            .chain(finishers.map(|finisher| finisher.identity()))
            .chain(std::iter::once(self.generation.router().identity()))
    }
}

fn used(identity: &Identity) -> PluginUsed {
    PluginUsed {
        name: identity.name.clone(),
        version: identity.version.clone(),
        digest: identity.digest.clone(),
    }
}
