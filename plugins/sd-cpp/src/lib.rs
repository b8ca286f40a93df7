//! Drives stable-diffusion.cpp: `sd-cli`, one run per picture, or `sd-server` where it is there and does the same.
//!
//! A job takes three steps: everything that can be wrong is checked against the task and the help text of
//! the program found here; the model's files and the task's pictures are fetched; the program runs. What it
//! prints is read twice: while it runs for progress, and when it failed for a reason the operator can act on.
//!
//! The command line is made from the help text of the program, not from its release number, so that one
//! plugin drives the releases before and after an option was renamed. What a release cannot do is
//! refused before anything is downloaded.

mod answer;
mod argv;
mod base64;
mod builds;
mod choices;
mod compose;
mod diagnose;
mod inputs;
mod plan;
mod probe;
mod progress;
mod prompt;
mod server;
mod size;
#[cfg(test)]
mod testing;
mod weights;

use studio_plugin::log::Level;
use studio_plugin::{
    Ask, Backend, Build, Composed, Context, Description, Engine, Failure, Finished, ImageTask, Job,
    Progress, join,
};

use answer::Picture;
use argv::{Held, Opt};
use plan::Plan;
use probe::Probe;
use server::{Gone, Launch, Without};

/// Name of the backend and of its program.
const PROGRAM: &str = "sd-cli";

/// Name of the program up to release 410.
const OLD_PROGRAM: &str = "sd";

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
        let backend = |name: &str, program: &str, path: &str| {
            Backend::new(name, program)
                .release(RELEASE)
                .overrides(
                    path,
                    "STUDIO_WORKER_SDCPP_RELEASE",
                    "STUDIO_WORKER_SDCPP_URL",
                )
                .probe(["--help"])
                .probe(["--version"])
                .strict()
        };
        let command = |program: &str| backend(PROGRAM, program, "STUDIO_WORKER_SD_CLI");
        let server = backend(server::PROGRAM, server::PROGRAM, "STUDIO_WORKER_SD_SERVER")
            .server(server::served())
            .dispensable();
        Description::new(["sd-cpp"])
            .kind("image", ["sd-cpp:*"])
            .backend(command(PROGRAM))
            .backend(command(OLD_PROGRAM))
            .backend(server)
    }

    async fn run(context: Context, job: Job<ImageTask>) -> Result<Finished, Failure> {
        let backend = builds::installed(&job)?;
        let probe = Probe::read(backend);
        let plan = Plan::make(&job, &probe)?;
        let options = argv::options(&plan, &probe)?;
        let launch = server::launch(&job, &plan, &options, &probe);
        // A server is told the words in its request.
        let texts = async {
            match &launch {
                Ok(_) => Ok(prompt::Written::default()),
                Err(_) => prompt::write(&context, &plan.prompt).await,
            }
        };
        let (weights, (inputs, texts)) = join(
            weights::fetch(&context, &plan.weights),
            join(inputs::fetch(&context, &plan.source), texts),
        )
        .await;
        let held = Held {
            weights: weights?,
            inputs: inputs?,
            texts: texts?,
        };
        draw(&context, &plan, &probe, &options, held, launch).await
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

/// Draws by the server where it may, else by the command. A server that does not draw the picture costs the job nothing but
/// time: the command does, and says better what is wrong. One that took all the job's time ends the job, as the command would
/// have. The record tells which it was, and why.
async fn draw(
    context: &Context,
    plan: &Plan,
    probe: &Probe,
    options: &[Opt],
    mut held: Held,
    launch: Result<Launch<'_>, Without>,
) -> Result<Finished, Failure> {
    let note = match launch {
        Ok(launch) => match server::draw(context, &launch, plan, &held).await {
            Ok(Picture { bytes, size }) => {
                let finished = Finished::media(bytes, plan.ext);
                return Ok(facts(finished, plan, size).fact("program", server::PROGRAM));
            }
            Err(Gone::TooLong(given)) => {
                return Err(diagnose::too_long(server::PROGRAM, given, plan));
            }
            Err(Gone::GaveUp(why)) => {
                context.note(
                    Level::Warn,
                    &format!("sd-server gave up: {why}; sd-cli goes on"),
                );
                held.texts = prompt::write(context, &plan.prompt).await?;
                // What the program said may name folders of this machine: that is for the log.
                Some("gave up; the worker's log says why".to_owned())
            }
        },
        Err(Without::Because(why)) => Some(format!("not used: {why}")),
        Err(Without::Absent) => None,
    };
    let finished = run_command(context, plan, probe, options, &held)
        .await?
        .fact("program", PROGRAM);
    Ok(match note {
        Some(note) => finished.fact(server::PROGRAM, note),
        None => finished,
    })
}

/// One run of the command.
async fn run_command(
    context: &Context,
    plan: &Plan,
    probe: &Probe,
    options: &[Opt],
    held: &Held,
) -> Result<Finished, Failure> {
    let exit = context
        .run_with(|| argv::command(plan, options, held))
        .await?;
    let Some((picture, ext)) = argv::picture(&exit, plan).filter(|_| exit.succeeded()) else {
        return Err(diagnose::failure(&exit, plan, held, probe));
    };
    let size = match progress::real_size(&exit.stdout_tail) {
        Some(size) => Some(size),
        // Pushed out of the lines that were kept.
        None => size::of(&context.read(picture, 0, size::HEAD).await?),
    };
    let finished = Finished::media(picture, ext);
    Ok(match size {
        Some(size) => facts(finished, plan, size),
        None => facts(finished, plan, (plan.width, plan.height)).fact("size", "as asked for"),
    })
}

/// What was really used, and what of the order was not.
fn facts(finished: Finished, plan: &Plan, (width, height): (u32, u32)) -> Finished {
    let surplus = &plan.weights.surplus;
    let surplus = (!surplus.is_empty()).then(|| {
        format!(
            "not used, their role is taken already: {}",
            surplus.join(", ")
        )
    });
    let ignored = plan.source.ignored().map(str::to_owned);
    let left_out: Vec<String> = surplus.into_iter().chain(ignored).collect();
    let finished = if left_out.is_empty() {
        finished
    } else {
        finished.fact("warning", left_out.join("; "))
    };
    finished
        .fact("seed", plan.seed)
        .fact("width", width)
        .fact("height", height)
        .fact("steps", plan.steps)
        .fact("cfg-scale", plan.cfg_scale)
}

#[cfg(test)]
mod tests;
