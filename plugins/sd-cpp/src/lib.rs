//! Drives stable-diffusion.cpp's `sd-cli`, one run per picture.
//!
//! A job takes three steps: everything that can be wrong is checked against the task and the help text of
//! the program found here; the model's files and the task's pictures are fetched; the program runs. What it
//! prints is read twice: while it runs for progress, and when it failed for a reason the operator can act on.
//!
//! The command line is made from the help text of the program, not from its release number, so that one
//! plugin drives the releases before and after an option was renamed. What a release cannot do is
//! refused before anything is downloaded.

mod argv;
mod builds;
mod choices;
mod compose;
mod diagnose;
mod inputs;
mod plan;
mod probe;
mod progress;
mod prompt;
#[cfg(test)]
mod testing;
mod weights;

use studio_plugin::{
    Ask, Backend, Build, Composed, Context, Description, Engine, Failure, Finished, ImageTask, Job,
    Progress, join,
};

use plan::Plan;
use probe::Probe;

/// Name of the backend and of its program.
const PROGRAM: &str = "sd-cli";

/// The release whose options and words this plugin was written from; what is downloaded where the operator
/// has none of his own.
const RELEASE: &str = "master-827-97d2990";

/// The engine.
#[derive(Debug)]
pub struct SdCpp;

studio_plugin::engine!(SdCpp);

impl Engine for SdCpp {
    type Task = ImageTask;

    fn describe() -> Description {
        Description::new(["sd-cpp"])
            .kind("image", ["sd-cpp:*"])
            .backend(
                Backend::new(PROGRAM, PROGRAM)
                    .release(RELEASE)
                    .overrides(
                        "STUDIO_WORKER_SD_CLI",
                        "STUDIO_WORKER_SDCPP_RELEASE",
                        "STUDIO_WORKER_SDCPP_URL",
                    )
                    .probe(["--help"])
                    .strict(),
            )
    }

    async fn run(context: Context, job: Job<ImageTask>) -> Result<Finished, Failure> {
        let backend = builds::installed(&job)?;
        let probe = Probe::read(backend);
        let plan = Plan::make(&job, &probe)?;
        let options = argv::options(&plan, &probe)?;
        let (weights, (inputs, texts)) = join(
            weights::fetch(&context, &plan.weights),
            join(
                inputs::fetch(&context, &plan.source),
                prompt::write(&context, &plan.prompt),
            ),
        )
        .await;
        let held = argv::Held {
            weights: weights?,
            inputs: inputs?,
            texts: texts?,
        };
        let exit = context
            .run_with(|| argv::command(&plan, &options, &held))
            .await?;
        let Some(picture) = exit
            .output(0)
            .filter(|file| exit.succeeded() && file.size > 0)
        else {
            return Err(diagnose::failure(&exit, &plan, &held, &probe));
        };
        let (width, height) =
            progress::real_size(&exit.stdout_tail).unwrap_or((plan.width, plan.height));
        Ok(Finished::media(picture, plan.ext)
            .fact("seed", plan.seed)
            .fact("width", width)
            .fact("height", height)
            .fact("steps", plan.steps)
            .fact("cfg-scale", plan.cfg_scale))
    }

    fn compose(ask: Ask) -> Result<Composed, Failure> {
        compose::compose(ask)
    }

    fn builds(_backend: &str, release: &str) -> Result<Vec<Build>, Failure> {
        builds::of(release)
    }

    fn read_progress(_backend: &str, state: u64, lines: &[String]) -> (u64, Option<Progress>) {
        progress::read(state, lines)
    }
}

#[cfg(test)]
mod tests;
