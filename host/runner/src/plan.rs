//! What the plugins would ask for, with made-up files: nothing is spawned, fetched or written.

use std::sync::Arc;

use serde_json::{Value, json};
use worker_plugins::contract::{
    Download, Effect, Exit, Failure, File, Job, Next, Outcome, OutputKind, Platform, WorkerState,
};
use worker_plugins::{CallError, Engine, Generation};
use worker_wire::Claim;

use crate::journal::short;
use crate::programs::Programs;
use crate::told;

/// Size of every made-up file, in bytes.
const MADE_UP_SIZE: u64 = 1024;

/// Seed of every plan, so that two plans of one offer are alike.
const ENTROPY: u64 = 0x5eed;

/// What would happen to an offer.
#[derive(Debug)]
pub struct Plan {
    /// The plugin that would take it.
    pub engine: String,
    /// What it would ask for, in order.
    pub steps: Vec<PlannedStep>,
    /// Every download among them.
    pub downloads: Vec<Download>,
    /// How it ends.
    pub end: String,
    /// Programs that are there and were never asked what they can do: the plugin goes by what it was written for.
    pub unasked: Vec<String>,
}

/// One thing that would be asked for.
#[derive(Debug)]
pub struct PlannedStep {
    /// Number of the step, from 0.
    pub step: u32,
    /// The effect as JSON; bytes that it carries by length and digest only.
    pub effect: Value,
    /// The command line, where it is one: files shown as `<name>`.
    pub command_line: Option<Vec<String>>,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The router would turn the offer away.
    #[error("the offer would be rejected: {reason} (code {code})")]
    Rejected {
        /// For studios.
        code: String,
        /// For people.
        reason: String,
    },
    /// The engine refuses the job before it has asked for anything.
    #[error("plugin `{plugin}` would fail the job: {message}")]
    Failed {
        /// Which.
        plugin: String,
        /// Its words.
        message: String,
    },
    /// A plugin broke.
    #[error(transparent)]
    Fault(#[from] CallError),
    /// The router named a plugin that is not there.
    #[error("the router chose plugin `{0}`, which is not there")]
    NoEngine(String),
}

/// Asks the plugins what they would do with a claim.
pub async fn plan(
    generation: &Generation,
    programs: &Programs,
    platform: &Platform,
    claim: &Claim,
) -> Result<Plan, PlanError> {
    let engine = route(generation, claim).await?;
    let job = Arc::new(Job {
        id: claim.job_id.to_string(),
        kind: claim.kind.clone(),
        model: claim.model.clone(),
        task: claim.task.clone(),
        model_source: claim.model_source.clone(),
        vram_gb_estimate: claim.vram_gb_estimate,
        entropy: ENTROPY,
        settings: engine.settings().to_owned(),
        backends: programs.statuses(engine),
        platform: platform.clone(),
    });
    let mut made_up = MadeUp::default();
    let mut plan = Plan {
        engine: engine.identity().name.clone(),
        steps: Vec::new(),
        downloads: Vec::new(),
        end: String::new(),
        unasked: programs.unasked(engine),
    };
    let mut history: Arc<Vec<Outcome>> = Arc::default();
    for step in 0..engine.limits().steps {
        let effects = match engine.step(&job, &history).await? {
            Ok(Next::Finish(finished)) => {
                plan.end = format!("finishes; facts: {}", facts(&finished.facts));
                return Ok(plan);
            }
            Ok(Next::Perform(effects)) => effects,
            Err(Failure { message, .. }) if plan.steps.is_empty() => {
                return Err(PlanError::Failed {
                    plugin: plan.engine,
                    message,
                });
            }
            Err(Failure { message, .. }) => {
                plan.end = format!("fails with made-up files: {message}");
                return Ok(plan);
            }
        };
        for effect in &effects {
            if let Effect::Fetch(downloads) = effect {
                plan.downloads.extend(downloads.iter().cloned());
            }
            let command_line = match effect {
                Effect::Run(command) => Some(made_up.command_line(command)),
                _ => None,
            };
            let effect = told::effect(effect, short);
            plan.steps.push(PlannedStep {
                step,
                effect,
                command_line,
            });
        }
        for effect in &effects {
            match made_up.outcome(effect) {
                Ok(outcome) => Arc::make_mut(&mut history).push(outcome),
                Err(why) => {
                    plan.end = format!("the plan ends here: {why}");
                    return Ok(plan);
                }
            }
        }
    }
    plan.end = "the plugin's limit of steps is reached".to_owned();
    Ok(plan)
}

async fn route<'a>(generation: &'a Generation, claim: &Claim) -> Result<&'a Engine, PlanError> {
    // A worker with nothing to do and room for anything: the plan is about the job.
    let state = WorkerState {
        paused: false,
        draining: false,
        current_job: None,
        vram_total_gb: f32::MAX,
        vram_threshold_gb: f32::MAX,
        device_free_gb: None,
        host_available_gb: None,
        warm: Vec::new(),
        settings: generation.router().settings().to_owned(),
    };
    let candidates = generation
        .engines()
        .iter()
        .map(|engine| engine.candidate())
        .collect();
    let name = generation
        .router()
        .route(&claim.raw, candidates, state)
        .await?
        .map_err(|rejection| PlanError::Rejected {
            code: rejection.code,
            reason: rejection.reason,
        })?;
    generation
        .engine(&name)
        .map(AsRef::as_ref)
        .ok_or(PlanError::NoEngine(name))
}

fn facts(facts: &[(String, String)]) -> String {
    let told: Vec<String> = facts
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    if told.is_empty() {
        "none".to_owned()
    } else {
        told.join(" ")
    }
}

#[derive(Default)]
struct MadeUp {
    files: Vec<String>,
}

impl MadeUp {
    fn file(&mut self, name: String) -> File {
        let id = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        self.files.push(name.clone());
        File {
            id,
            name,
            size: MADE_UP_SIZE,
            media_type: None,
        }
    }

    fn outcome(&mut self, effect: &Effect) -> Result<Outcome, String> {
        match effect {
            Effect::Fetch(downloads) => {
                let files = downloads.iter().enumerate().map(|(index, download)| {
                    let name = download
                        .cache_as
                        .clone()
                        .unwrap_or_else(|| format!("input-{index}"));
                    self.file(name)
                });
                Ok(Outcome::Files(files.collect()))
            }
            Effect::Run(command) => Ok(Outcome::Exited(self.exit(&command.outputs))),
            Effect::Write((name, _)) => Ok(Outcome::Files(vec![self.file(name.clone())])),
            Effect::Wait(_) => Ok(Outcome::Waited),
            Effect::Read(_) => Err(
                "the plugin reads a file, whose real content decides what comes next".to_owned(),
            ),
            Effect::Call(_) | Effect::Http(_) => Err(
                "the plugin waits for an answer, whose real content decides what comes next"
                    .to_owned(),
            ),
            Effect::Other((name, _)) => Err(format!("effect `{name}` is not known to this worker")),
        }
    }

    fn exit(&mut self, outputs: &[OutputKind]) -> Exit {
        let outputs = outputs
            .iter()
            .enumerate()
            .map(|(index, kind)| match kind {
                OutputKind::File(ext) | OutputKind::Stdout(ext) => {
                    vec![self.file(format!("output-{index}.{ext}"))]
                }
                OutputKind::Folder => vec![self.file(format!("output-{index}-0"))],
            })
            .collect();
        Exit {
            code: Some(0),
            signal: None,
            timed_out: false,
            out_of_memory: false,
            stdout_tail: String::new(),
            stderr_tail: String::new(),
            wall_ms: 1,
            outputs,
            extra: Vec::new(),
        }
    }

    fn command_line(&self, command: &worker_plugins::contract::Command) -> Vec<String> {
        use worker_plugins::contract::{Argument, Piece};
        let join = |pieces: &[Piece]| -> String {
            let shown = pieces.iter().map(|piece| match piece {
                Piece::Text(text) => text.clone(),
                Piece::File(id) => {
                    let name = usize::try_from(*id).ok().and_then(|at| self.files.get(at));
                    name.map_or_else(|| format!("<no file {id}>"), |name| format!("<{name}>"))
                }
                Piece::Output(index) => format!("<output {index}>"),
                Piece::Directory(entries) => {
                    let names: Vec<&str> =
                        entries.iter().map(|entry| entry.name.as_str()).collect();
                    format!("<directory of {}>", names.join(", "))
                }
            });
            shown.collect()
        };
        let mut words = vec![command.backend.clone()];
        for argument in &command.arguments {
            match argument {
                Argument::Flag(name) => words.push(name.clone()),
                Argument::Setting(setting) if setting.equals => {
                    words.push(format!("{}={}", setting.name, join(&setting.value)));
                }
                Argument::Setting(setting) => {
                    words.extend([setting.name.clone(), join(&setting.value)])
                }
                Argument::Positional(pieces) => words.push(join(pieces)),
            }
        }
        words
    }
}

impl Plan {
    /// The plan as one JSON document.
    pub fn to_json(&self) -> Value {
        let steps: Vec<Value> = self
            .steps
            .iter()
            .map(|planned| json!({"step": planned.step, "effect": planned.effect, "commandLine": planned.command_line}))
            .collect();
        json!({ "engine": self.engine, "steps": steps, "end": self.end, "unasked": self.unasked })
    }
}
