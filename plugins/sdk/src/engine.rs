//! The engine's world: the trait that an author implements and the macro that exports it.

use std::future::Future;
use std::marker::PhantomData;

use crate::bindings::engine_world::exports::studio::worker::engine::Guest;
use crate::{
    Ask, Build, Composed, Context, Description, Failure, Finished, Job, Next, Outcome, Progress,
    RawJob, Task, executor, log, runtime,
};

/// Does jobs. Only [`Engine::describe`] and [`Engine::run`] have to be written.
pub trait Engine: 'static {
    /// What it makes: [`crate::ImageTask`], [`crate::AnyTask`], [`crate::OpenTask`], one's own.
    type Task: Task;

    /// Engines, kinds and native programs. The same in every call.
    fn describe() -> Description;

    /// One job from start to end, as straight code over the context's effects.
    fn run(
        context: Context,
        job: Job<Self::Task>,
    ) -> impl Future<Output = Result<Finished, Failure>>;

    /// A task and a model source from a person's words.
    ///
    /// # Errors
    ///
    /// Words or options that make no task; an engine that does not offer this, the default.
    fn compose(ask: Ask) -> Result<Composed, Failure> {
        Err(Failure::permanent(format!(
            "this engine makes no {} task from words; give a whole offer with --offer",
            ask.kind
        )))
    }

    /// The text that people know the job by.
    fn subject(job: &Job<Self::Task>) -> String {
        job.task.subject()
    }

    /// Where a release of a declared backend can be downloaded. None by default.
    ///
    /// # Errors
    ///
    /// A release whose archives it cannot name.
    fn builds(_backend: &str, _release: &str) -> Result<Vec<Build>, Failure> {
        Ok(Vec::new())
    }

    /// Progress from lines that a native program printed. None by default.
    fn read_progress(_backend: &str, state: u64, _lines: &[String]) -> (u64, Option<Progress>) {
        (state, None)
    }
}

/// Answers the host for an [`Engine`].
#[derive(Debug)]
pub struct EngineExport<E>(PhantomData<E>);

impl<E: Engine> Guest for EngineExport<E> {
    fn describe() -> Description {
        runtime::start();
        E::describe()
    }

    fn builds(backend: String, release: String) -> Result<Vec<Build>, Failure> {
        runtime::start();
        E::builds(&backend, &release)
    }

    fn compose(kind: String, text: String, options: String) -> Result<(String, String), Failure> {
        runtime::start();
        let composed = E::compose(Ask::parse(kind, text, &options)?)?;
        Ok((composed.task.to_string(), composed.model_source.to_string()))
    }

    fn subject(job: RawJob) -> String {
        runtime::start();
        match Job::read(job) {
            Ok(job) => E::subject(&job),
            Err(failure) => {
                // The step fails with the same words; here there is no way to fail.
                log::warn(&format!("the job has no subject: {}", failure.message));
                String::new()
            }
        }
    }

    fn step(job: RawJob, history: Vec<Outcome>) -> Result<Next, Failure> {
        runtime::start();
        let job = Job::read(job)?;
        executor::step(history, |context| E::run(context, job))
    }

    fn read_progress(backend: String, state: u64, lines: Vec<String>) -> (u64, Option<Progress>) {
        runtime::start();
        E::read_progress(&backend, state, &lines)
    }
}

/// Exports a type that implements [`Engine`] as an engine plugin.
#[macro_export]
macro_rules! engine {
    ($engine:ty) => {
        $crate::__component!(export_engine, engine_world, EngineExport, $engine);
    };
}
