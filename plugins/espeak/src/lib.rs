//! Speaks text through eSpeak NG, a program that people install from their distribution.
//!
//! A job takes three steps: voice, speed and text are checked against what the program here lists; the program
//! speaks into a file; the file's header is read. The text goes in by standard input, so it is neither an option nor in the
//! list of processes. The sound comes out by `-w`: written to a pipe its header would hold sizes that the program
//! did not know yet.

mod compose;
mod diagnose;
mod plan;
mod voices;
mod wav;

use studio_plugin::{
    Ask, Backend, Command, Composed, Context, Description, Engine, Failure, Finished, Job,
    OutputKind, Part, TtsTask, log,
};

use plan::Plan;

/// Value of `modelSource.engine`.
const ENGINE: &str = "espeak";

/// Name of the backend and of its program.
const PROGRAM: &str = "espeak-ng";

/// After this a run is ended, in milliseconds. The longest text allowed takes some two minutes on a slow machine; a
/// program that hangs holds the slot no longer than this.
const TIMEOUT_MS: u64 = 10 * 60 * 1000;

/// See the module.
#[derive(Debug)]
pub struct Espeak;

studio_plugin::engine!(Espeak);

impl Engine for Espeak {
    type Task = TtsTask;

    fn describe() -> Description {
        Description::new([ENGINE])
            // A sentinel: the names of voices are the machine's own.
            .kind("audio_tts", ["espeak:*"])
            .backend(
                Backend::new(PROGRAM, PROGRAM)
                    .overrides("STUDIO_WORKER_ESPEAK_NG", "", "")
                    .probe(["--help"])
                    .probe(["--voices"])
                    .probe(["--voices=variant"])
                    .strict(),
            )
    }

    fn compose(ask: Ask) -> Result<Composed, Failure> {
        compose::compose(ask)
    }

    async fn run(context: Context, job: Job<TtsTask>) -> Result<Finished, Failure> {
        let program = installed(&job)?;
        let plan = Plan::make(&job.task, &program.probes)?;
        if let Some(said) = &plan.note {
            context.note(log::Level::Info, said);
        }
        let exit = context.run_with(|| command(&plan)).await?;
        let Some(sound) = exit
            .output(0)
            .filter(|file| exit.succeeded() && file.size > 0)
        else {
            return Err(diagnose::failure(&exit, &plan));
        };
        let head = context.read(sound, 0, wav::HEADER).await?;
        let format = wav::check(&head, sound.size)?;
        Ok(Finished::media(sound, "wav")
            .fact("voice", &plan.voice)
            .fact("words-per-minute", plan.words_per_minute)
            .fact("sample-rate", format.rate)
            .fact("samples", format.samples))
    }
}

fn installed(job: &Job<TtsTask>) -> Result<&studio_plugin::BackendStatus, Failure> {
    job.backend(PROGRAM).map_err(|_| {
        Failure::retryable(
            "espeak-ng is not on this machine; install it (on Debian: apt-get install espeak-ng), or name it in \
             STUDIO_WORKER_ESPEAK_NG",
        )
    })
}

fn command(plan: &Plan) -> Command {
    let mut command = Command::new(PROGRAM)
        .setting("-v", plan.voice.as_str())
        .setting("-s", plan.words_per_minute.to_string())
        // UTF-8, whatever the locale says.
        .setting("-b", "1")
        .flag("--stdin")
        .output("-w", OutputKind::File("wav".to_owned()))
        .timeout(TIMEOUT_MS);
    command.input = vec![Part::from(plan.text.as_str())];
    command
}

#[cfg(test)]
mod tests;
