//! One job, as a state machine: accepted → stepping ⇄ performing → finishing → keeping → delivering → ended.
//!
//! Every stage can be cancelled. Whatever way a job ends, exactly one result or failure is kept on disk and then
//! handed over, its scratch directory is gone, and the slot is free.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use tokio_util::sync::CancellationToken;
use worker_delivery::{Delivered, KeepError, Kept, MediaContent, Payload, Product};
use worker_files::JobFiles;
use worker_plugins::contract::{Effect, Failure, Finished, Job, Next, Outcome, Provenance};
use worker_plugins::{CallError, Engine, Generation};
use worker_wire::{Claim, StudioLink, WorkerFrame};

use crate::effects::{OfferTexts, Performer, Tools};
use crate::finish::{FinishError, Ready, finish};
use crate::journal::Journal;
use crate::offers::Shared;
use crate::provision::provide_for_job;
use crate::slot::{Reservation, StopReason};
use crate::witness::{JobEnd, JobReport};

/// Longest error text that goes to the studio, in bytes. Longer texts have broken dashboards.
const MAX_ERROR_TEXT: usize = 2000;

/// How long a delivery may go on after the job was stopped. Shorter cuts off uploads that are all but done; longer holds
/// up whoever stopped it.
const LAST_WORDS: Duration = Duration::from_secs(5);

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

/// Why a job has no product.
#[derive(Debug, thiserror::Error)]
enum JobError {
    #[error("{}", .0.message)]
    Failed(Failure),
    #[error(transparent)]
    Fault(#[from] CallError),
    #[error(transparent)]
    Finish(#[from] FinishError),
    #[error("plugin `{plugin}` did not finish the job within its limit of {limit} steps")]
    TooManySteps { plugin: String, limit: u32 },
    #[error("plugin `{plugin}` asked for nothing and did not finish")]
    NothingAsked { plugin: String },
    #[error("the job's files cannot be kept: {0}")]
    Scratch(String),
    #[error("the system's randomness is not available: {0}")]
    Entropy(String),
    #[error("cancelled by the studio")]
    Cancelled,
    #[error("the worker is stopping")]
    Shutdown,
}

impl JobError {
    /// Whether the studio should offer the job again.
    fn retryable(&self) -> bool {
        match self {
            Self::Failed(failure) => failure.retryable,
            Self::Fault(fault) | Self::Finish(FinishError::Fault(fault)) => {
                !fault.is_plugins_fault()
            }
            Self::Finish(FinishError::Refused { retryable, .. }) => *retryable,
            Self::Finish(FinishError::Unusable(_) | FinishError::Extension { .. })
            | Self::TooManySteps { .. }
            | Self::NothingAsked { .. } => false,
            Self::Cancelled => false,
            Self::Scratch(_) | Self::Entropy(_) | Self::Shutdown => true,
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
        }
    }

    /// Runs the job to its end. The slot is free as soon as the result is handed over; clearing up after it does not
    /// hold up the next job.
    pub(crate) async fn execute(mut self) {
        self.enter(Stage::Accepted);
        self.journal.write("offered", self.opening());
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
            self.journal.write("again", self.opening());
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
            Err(error) => self.failure(&error),
        };
        self.hand_over(payload).await;
        self.enter(Stage::Ended);
        drop(self);
        // After the hand-over: a product may still lie in the job's scratch directory until it is kept.
        if let Some(files) = files {
            files.remove().await;
        }
    }

    /// A job that was done in an earlier session and is offered again: its product is delivered, and nothing is made anew.
    async fn deliver_what_waits(&mut self) -> bool {
        let job_id = &self.claim.job_id;
        let delivery = &self.shared.delivery;
        let Some(kept) = delivery.waiting_for(job_id.as_str(), &self.link).await else {
            return false;
        };
        self.shared.reporter.info(
            Some(job_id),
            format!(
                "{job_id} was done in an earlier session; its result is delivered as it was kept"
            ),
        );
        self.enter(Stage::Delivering);
        let delivered = self.deliver(kept, false).await;
        self.journal
            .write("delivered", json!(format!("{delivered:?}")));
        self.enter(Stage::Ended);
        true
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
                JobError::Scratch(_)
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

    fn opening(&self) -> serde_json::Value {
        let plugins: Vec<_> = self
            .plugins_used()
            .into_iter()
            .map(|(name, version, digest)| json!({"name": name, "version": version, "sha256": digest}))
            .collect();
        json!({
            "job": self.claim.job_id.as_str(),
            "kind": self.claim.kind,
            "model": self.claim.model,
            "claim": self.journal.document(&self.claim.raw),
            "engine": self.engine.identity().name,
            "generation": self.generation.id(),
            "plugins": plugins,
        })
    }

    fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        match stage {
            Stage::Delivering => self.reservation.delivering(),
            other => self.reservation.stage(other.name()),
        }
        self.journal.write("stage", json!(stage.name()));
    }

    /// The engine's work: steps and effects until it finishes, then the chain of finishers.
    async fn produce(&mut self, kept: &mut Option<JobFiles>) -> Result<Ready, JobError> {
        let cancel = self.reservation.cancel.clone();
        let produced = tokio::select! {
            biased;
            // The effect in hand sees the same token and ends what it started before this returns.
            produced = self.steps(kept) => produced,
            () = cancelled_for_long(&cancel) => Err(JobError::Cancelled),
        };
        match produced {
            Err(_) if cancel.is_cancelled() => Err(match self.reservation.reason() {
                Some(StopReason::Shutdown) => JobError::Shutdown,
                _ => JobError::Cancelled,
            }),
            other => other,
        }
    }

    async fn steps(&mut self, files: &mut Option<JobFiles>) -> Result<Ready, JobError> {
        self.provide_programs().await?;
        let job = &Arc::new(self.job()?);
        self.journal.write("job", self.journal.job(job));
        self.enter(Stage::Stepping);
        self.subject = self.engine.subject(job).await?;
        let finished = self.step_until_finished(job, files).await?;
        self.enter(Stage::Finishing);
        let Finished { output, facts } = finished;
        self.journal.write("finished", json!({ "facts": facts }));
        let provenance = Provenance {
            generation: self.generation.id().to_owned(),
            plugins: self.plugins_used(),
            programs: self.shared.programs.used_by(&self.engine),
            facts,
        };
        let reporter = &self.shared.reporter;
        let ready = finish(
            &self.generation,
            job,
            &self.claim.job_id,
            output,
            provenance,
            files.as_ref(),
            reporter,
        )
        .await?;
        Ok(ready)
    }

    /// Downloads the programs that the engine lacks, before its job is told what there is.
    async fn provide_programs(&mut self) -> Result<(), JobError> {
        let (shared, engine) = (self.shared.clone(), self.engine.clone());
        if shared.programs.downloadable(&engine).is_empty() {
            return Ok(());
        }
        self.enter(Stage::Provisioning);
        provide_for_job(
            &shared,
            &engine,
            &self.claim.job_id,
            &self.link,
            &self.reservation,
        )
        .await
        .map_err(JobError::Failed)
    }

    async fn step_until_finished(
        &mut self,
        job: &Arc<Job>,
        files: &mut Option<JobFiles>,
    ) -> Result<Finished, JobError> {
        let limit = self.engine.limits().steps;
        let texts = OfferTexts::of(&self.claim.raw);
        let mut history: Arc<Vec<Outcome>> = Arc::default();
        for step in 0..limit {
            if self.reservation.cancel.is_cancelled() {
                return Err(JobError::Cancelled);
            }
            self.enter(Stage::Stepping);
            let effects = match self.engine.step(job, &history).await? {
                Ok(Next::Finish(finished)) => return Ok(finished),
                Ok(Next::Perform(effects)) if effects.is_empty() => {
                    return Err(JobError::NothingAsked {
                        plugin: self.engine.identity().name.clone(),
                    });
                }
                Ok(Next::Perform(effects)) => effects,
                Err(failure) => return Err(JobError::Failed(failure)),
            };
            if let Some(backend) = undeclared(&self.engine, &effects) {
                self.invalid = Some(format!(
                    "it asked for the program `{backend}`, which it never declared"
                ));
            }
            self.touched |= effects.iter().any(starts_something);
            self.enter(Stage::Performing);
            for effect in &effects {
                self.journal.write(
                    "effect",
                    json!({ "step": step, "effect": self.journal.effect(effect) }),
                );
            }
            let performer = Performer::new(Tools {
                shared: &self.shared,
                engine: &self.engine,
                job_id: &self.claim.job_id,
                model: &self.claim.model,
                texts: &texts,
                link: &self.link,
                reservation: &self.reservation,
                vram_gb: self.claim.vram_gb_estimate,
            });
            // A job that asks for nothing costs the disk nothing.
            if files.is_none() {
                *files = Some(self.job_files()?);
            }
            let Some(files) = files.as_ref() else {
                continue;
            };
            let outcomes = performer.perform(effects, files).await;
            for outcome in &outcomes {
                self.journal.write(
                    "outcome",
                    json!({ "step": step, "outcome": self.journal.outcome(outcome) }),
                );
            }
            // The call is over, so nobody else holds it and nothing is copied.
            Arc::make_mut(&mut history).extend(outcomes);
        }
        Err(JobError::TooManySteps {
            plugin: self.engine.identity().name.clone(),
            limit,
        })
    }

    fn job_files(&self) -> Result<JobFiles, JobError> {
        let scratch = self.shared.scratch.job(self.claim.job_id.as_str());
        let scratch = scratch.map_err(|error| JobError::Scratch(error.to_string()))?;
        Ok(JobFiles::new(scratch, self.shared.settings.files.clone()))
    }

    fn job(&self) -> Result<Job, JobError> {
        Ok(Job {
            id: self.claim.job_id.to_string(),
            kind: self.claim.kind.clone(),
            model: self.claim.model.clone(),
            task: self.claim.task.clone(),
            model_source: self.claim.model_source.clone(),
            vram_gb_estimate: self.claim.vram_gb_estimate,
            entropy: getrandom::u64().map_err(|error| JobError::Entropy(error.to_string()))?,
            settings: self.engine.settings().to_owned(),
            backends: self.shared.programs.statuses(&self.engine),
            platform: self.shared.facts.platform.clone(),
        })
    }

    fn plugins_used(&self) -> Vec<(String, String, String)> {
        let own = std::iter::once(self.engine.identity());
        own.chain(
            self.generation
                .finishers()
                .iter()
                .map(|finisher| finisher.identity()),
        )
        .map(|identity| {
            (
                identity.name.clone(),
                identity.version.clone(),
                identity.digest.clone(),
            )
        })
        .collect()
    }

    fn failure(&mut self, error: &JobError) -> Payload {
        let mut message = one_line(&error.to_string());
        if message.is_empty() {
            message = format!(
                "plugin `{}` failed without a word",
                self.engine.identity().name
            );
        }
        self.journal.write(
            "failed",
            json!({ "error": message, "retryable": error.retryable() }),
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
    async fn hand_over(&mut self, payload: Payload) {
        self.enter(Stage::Keeping);
        let failed = matches!(payload, Payload::Failure { .. });
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
        let kept = match self.shared.delivery.spool().keep(product).await {
            Ok(kept) => kept,
            Err(error) => return self.cannot_keep(&error).await,
        };
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

    /// The disk is full or broken: said while the session lasts, so that the studio does not wait for nothing.
    async fn cannot_keep(&mut self, error: &KeepError) {
        let message = one_line(&format!("the worker cannot keep the result: {error}"));
        self.shared
            .reporter
            .error(Some(&self.claim.job_id), message.clone());
        self.journal
            .write("failed", json!({ "error": message, "retryable": true }));
        let job_id = self.claim.job_id.to_string();
        // Where the session is over, the studio has taken the job back already.
        let _ = self
            .link
            .send(WorkerFrame::Fail {
                job_id,
                error: message,
                retryable: true,
            })
            .await;
    }
}

/// Whether an effect begins something outside of this worker that beginning anew would begin twice.
fn starts_something(effect: &Effect) -> bool {
    match effect {
        Effect::Run(_) | Effect::Call(_) | Effect::Http(_) | Effect::Other(_) => true,
        Effect::Fetch(_) | Effect::Read(_) | Effect::Write(_) | Effect::Wait(_) => false,
    }
}

/// The first program asked for that the engine never declared.
pub(crate) fn undeclared(engine: &Engine, effects: &[Effect]) -> Option<String> {
    let declared = &engine.description().backends;
    let asked = effects.iter().filter_map(|effect| match effect {
        Effect::Run(command) => Some(&command.backend),
        Effect::Call(call) => Some(&call.backend),
        _ => None,
    });
    asked
        .filter(|name| !declared.iter().any(|backend| backend.name == **name))
        .map(|name| name.chars().take(64).collect())
        .next()
}

/// An effect ends what it started within a bounded grace; a guest call is bounded by its own limits. This is the
/// last resort for a job that heeds neither.
async fn cancelled_for_long(cancel: &CancellationToken) {
    const LAST_RESORT: Duration = Duration::from_secs(30);
    cancel.cancelled().await;
    tokio::time::sleep(LAST_RESORT).await;
}

fn payload_of(ready: Ready) -> Payload {
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

/// One line, bounded, without control characters.
fn one_line(text: &str) -> String {
    let mut line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.retain(|c| !c.is_control());
    if line.len() > MAX_ERROR_TEXT {
        let mut end = MAX_ERROR_TEXT;
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_bounded_line() {
        let line = one_line(&format!("a\nb\t\u{1b}[31mc {}", "é".repeat(4000)));
        assert!(
            line.starts_with("a b [31mc é") && line.ends_with('…'),
            "{line}"
        );
        assert!(line.len() <= MAX_ERROR_TEXT + '…'.len_utf8());
    }
}
