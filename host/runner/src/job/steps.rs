//! The engine's work on a job: steps and effects until it finishes, then the chain of finishers.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio_util::sync::CancellationToken;
use worker_files::JobFiles;
use worker_plugins::Engine;
use worker_plugins::contract::{Effect, Finished, Job, Next, Outcome, Platform, Provenance};

use super::error::JobError;
use super::{JobRun, Stage, used};
use crate::effects::{OfferTexts, Performer, Tools};
use crate::finish::{Ready, finish};
use crate::provision::provide_for_job;
use crate::slot::StopReason;

impl JobRun {
    /// The engine's work: steps and effects until it finishes, then the chain of finishers.
    pub(super) async fn produce(&mut self, kept: &mut Option<JobFiles>) -> Result<Ready, JobError> {
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
        let told = job.clone();
        self.journal.tell("job", move |teller| teller.job(&told));
        let finished = self.step_until_finished(job, files).await?;
        self.enter(Stage::Finishing);
        let Finished { output, facts } = finished;
        let told = facts.clone();
        self.journal.tell(
            "finished",
            move |teller| json!({ "facts": teller.value(&told) }),
        );
        for (_, text) in facts.iter().filter(|(name, _)| name == WARNING) {
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let text = text.chars().filter(|c| !c.is_control()).take(WARNING_CHARS);
            let plugin = &self.engine.identity().name;
            let told = format!("{plugin}: {}", text.collect::<String>());
            self.shared.reporter.warn(Some(&self.claim.job_id), told);
        }
        let provenance = Provenance {
            generation: self.generation.id().to_owned(),
            plugins: self
                .plugins_used()
                .map(used)
                .map(|one| (one.name, one.version, one.digest))
                .collect(),
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
        shared.programs.look_where_changed(&engine).await;
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
        .map_err(JobError::Programs)
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
            let answer = match step {
                0 => {
                    // Neither call knows of the other, and both are over before anything is done for the job. The subject
                    // stands first: it is asked on another thread, while this one makes the step.
                    let calls =
                        tokio::join!(self.engine.subject(job), self.engine.step(job, &history));
                    self.subject = calls.0?;
                    calls.1?
                }
                _ => self.engine.step(job, &history).await?,
            };
            let effects = match answer {
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
                self.journal.effect(step, effect);
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
                waited: &self.waited,
                withheld: &self.withheld,
            });
            // A job that asks for nothing costs the disk nothing.
            if files.is_none() {
                *files = Some(self.job_files()?);
            }
            let Some(files) = files.as_ref() else {
                continue;
            };
            let outcomes = performer.perform(effects, files).await;
            let mut ends = outcomes.iter().filter_map(unexplained);
            self.unexplained = ends.next_back().unwrap_or(false);
            for outcome in &outcomes {
                self.journal.outcome(step, outcome);
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
            platform: Platform {
                gpu: self.shared.gpu.now().name,
                ..self.shared.facts.platform.clone()
            },
        })
    }
}

/// Whether an effect begins something outside of this worker that beginning anew would begin twice.
fn starts_something(effect: &Effect) -> bool {
    match effect {
        Effect::Run(_) | Effect::Call(_) | Effect::Http(_) | Effect::Other(_) => true,
        Effect::Fetch(_) | Effect::Read(_) | Effect::Write(_) | Effect::Wait(_) => false,
    }
}

/// For a program's end: whether it was by a signal, or bad and without a word. None for anything else.
fn unexplained(outcome: &Outcome) -> Option<bool> {
    let Outcome::Exited(exit) = outcome else {
        return None;
    };
    let silent = exit.code != Some(0) && exit.stderr_tail.trim().is_empty();
    Some(exit.signal.is_some() || silent)
}

/// Name of the fact with which an engine tells what it left out or could not heed. The studio sees it as a line of the log.
const WARNING: &str = "warning";

/// Longest warning that is passed on, in characters.
const WARNING_CHARS: usize = 500;

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

/// How long a job that was cancelled may go on. An effect ends what it started within a bounded grace, and a guest call is bounded by
/// its own limits: this is the last resort for a job that heeds neither.
const LAST_RESORT: Duration = Duration::from_secs(30);

async fn cancelled_for_long(cancel: &CancellationToken) {
    cancel.cancelled().await;
    tokio::time::sleep(LAST_RESORT).await;
}

/// The same as a question, for where nobody can wait: the first that sees the job cancelled begins to count.
pub(crate) fn is_cancelled_for_long(cancel: CancellationToken) -> impl Fn() -> bool {
    let seen = OnceLock::new();
    move || cancel.is_cancelled() && seen.get_or_init(Instant::now).elapsed() >= LAST_RESORT
}
