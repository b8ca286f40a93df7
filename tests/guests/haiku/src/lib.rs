//! A whole engine: a kind that nobody has heard of, with an extension that nobody knows.

use studio_plugin::{
    Ask, Composed, Context, Description, Engine, Failure, Finished, Job, OpenTask,
};

/// Writes three lines about anything.
#[derive(Debug)]
pub struct Haiku;

impl Engine for Haiku {
    type Task = OpenTask;

    fn describe() -> Description {
        Description::new(["haiku"]).kind("haiku", ["haiku"])
    }

    fn compose(ask: Ask) -> Result<Composed, Failure> {
        Ok(ask.compose("prompt", "haiku"))
    }

    async fn run(_: Context, job: Job<OpenTask>) -> Result<Finished, Failure> {
        let verse = format!(
            "{}\na frog leaps in\nthe sound of water\n",
            job.task.text("prompt")
        );
        Ok(Finished::media(verse, "haiku").media_type("text/x-haiku"))
    }
}

studio_plugin::engine!(Haiku);
