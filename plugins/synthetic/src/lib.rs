//! Real, decodable output of every kind that studios offer, without a model.
//!
//! It is what a fresh install, a smoke test and CI run. It serves offers whose engine is
//! `synthetic` and nothing else, and never stands in for a real model. What it makes is a function
//! of SHA-256 over the text that the job is known by, so equal jobs give equal bytes on every machine.

mod clip;
mod digest;
mod pattern;
mod picture;
mod speech;
mod text;
mod vp8l;

use studio_plugin::{AnyTask, Ask, Composed, Context, Description, Engine, Failure, Finished, Job};

const ENGINE: &str = "synthetic";

/// See the module.
#[derive(Debug)]
pub struct Synthetic;

impl Engine for Synthetic {
    type Task = AnyTask;

    fn describe() -> Description {
        Description::new([ENGINE])
            .kind("image", ["synthetic", "synthetic-image"])
            .kind("llm", ["synthetic", "synthetic-llm"])
            .kind("audio_stt", ["synthetic", "synthetic-stt"])
            .kind("audio_tts", ["synthetic", "synthetic-tts"])
            .kind("video", ["synthetic", "synthetic-video"])
    }

    fn compose(ask: Ask) -> Result<Composed, Failure> {
        match ask.kind.as_str() {
            "image" | "video" => Ok(ask.compose("prompt", ENGINE)),
            "audio_tts" => Ok(ask.compose("text", ENGINE)),
            "audio_stt" => Ok(ask.compose("inputUrl", ENGINE)),
            "llm" => Ok(text::conversation(ask, ENGINE)),
            other => Err(Failure::permanent(format!(
                "{ENGINE} engine cannot serve {other} tasks; it makes image, llm, audio_stt, audio_tts and video"
            ))),
        }
    }

    async fn run(context: Context, job: Job<AnyTask>) -> Result<Finished, Failure> {
        match &job.task {
            AnyTask::Image(task) => picture::make(task),
            AnyTask::Llm(task) => Ok(text::reply(task)),
            AnyTask::Stt(task) => Ok(text::transcript(task)),
            AnyTask::Tts(task) => Ok(speech::make(task)),
            AnyTask::Video(task) => clip::make(&context, task).await,
        }
    }
}

studio_plugin::engine!(Synthetic);
