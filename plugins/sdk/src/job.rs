//! A job with its task and model source read.

use std::ops::Deref;

use serde_json::{Map, Value};

use crate::fields::parse_value;
use crate::{BackendStatus, Failure, Fields, ModelSource, RawJob, Task};

/// One job, as an engine gets it. Everything of the raw job is there by dereference:
/// `job.model`, `job.entropy`, `job.platform`.
#[derive(Clone, Debug)]
pub struct Job<T> {
    /// What is to be made.
    pub task: T,
    /// What the model is made of.
    pub source: ModelSource,
    raw: RawJob,
}

impl<T> Deref for Job<T> {
    type Target = RawJob;

    fn deref(&self) -> &RawJob {
        &self.raw
    }
}

impl<T: Task> Job<T> {
    /// Reads task and model source.
    ///
    /// # Errors
    ///
    /// A kind that the task type does not take; a field that is missing or of another type, named.
    pub fn read(raw: RawJob) -> Result<Self, Failure> {
        let source = ModelSource::parse(&raw.model_source)?;
        let fields = Fields::parse("task", &raw.task)?;
        let task = T::read(&raw.kind, fields)?.ok_or_else(|| {
            Failure::permanent(format!(
                "{} engine cannot serve {} tasks; queue the job with a model of that kind",
                source.engine, raw.kind
            ))
        })?;
        Ok(Self { task, source, raw })
    }
}

impl RawJob {
    /// A native program that the plugin declared, as it is on this machine.
    ///
    /// # Errors
    ///
    /// It is not there.
    pub fn backend(&self, name: &str) -> Result<&BackendStatus, Failure> {
        self.backends
            .iter()
            .find(|backend| backend.name == name)
            .ok_or_else(|| {
                Failure::retryable(format!(
                    "{name} is not on this machine; install it, or let the worker download its release"
                ))
            })
    }

    /// What the operator set for this plugin in `plugins.toml`.
    ///
    /// # Errors
    ///
    /// It is no JSON object.
    pub fn settings(&self) -> Result<Map<String, Value>, Failure> {
        read_settings(&self.settings)
    }

    /// The task as JSON, untyped.
    ///
    /// # Errors
    ///
    /// It is no JSON.
    pub fn task_value(&self) -> Result<Value, Failure> {
        parse_value("task", &self.task)
    }

    /// 63 random bits, the same at each step: a seed where the job gave none.
    pub fn random_seed(&self) -> u64 {
        self.entropy >> 1
    }
}

pub(crate) fn read_settings(text: &str) -> Result<Map<String, Value>, Failure> {
    match parse_value("settings", text)? {
        Value::Object(map) => Ok(map),
        _ => Err(Failure::permanent(
            "settings in plugins.toml must be a table; mend the plugin's entry",
        )),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{AnyTask, ImageTask, Platform};

    pub(crate) fn raw(kind: &str, task: &str, source: &str) -> RawJob {
        RawJob {
            id: "job-1".to_owned(),
            kind: kind.to_owned(),
            model: "m".to_owned(),
            task: task.to_owned(),
            model_source: source.to_owned(),
            vram_gb_estimate: 0.0,
            entropy: 9,
            settings: "{}".to_owned(),
            backends: Vec::new(),
            platform: Platform {
                os: "linux".to_owned(),
                arch: "x86_64".to_owned(),
                gpu: None,
            },
        }
    }

    const SOURCE: &str = r#"{"engine":"e","files":[],"cliDefaults":{"cfgScale":1,"steps":8,"width":1024,"height":1024,"vision":{"task":"detect"}},"revision":3}"#;

    #[test]
    fn defaults_are_filled_and_unknown_fields_kept() {
        let job: Job<ImageTask> = Job::read(raw(
            "image",
            r#"{"kind":"image","prompt":"p","seed":null,"mood":"calm"}"#,
            SOURCE,
        ))
        .unwrap();
        assert_eq!(job.task.ext, "webp");
        assert_eq!(
            (job.task.width, job.task.steps, job.task.seed),
            (None, None, None)
        );
        assert_eq!(job.task.extra.keys().collect::<Vec<_>>(), ["mood"]);
        assert_eq!(job.source.cli_defaults.steps, 8);
        assert!(job.source.cli_defaults.extra.contains_key("vision"));
        assert!(job.source.extra.contains_key("revision"));
        assert_eq!(job.id, "job-1");
    }

    #[test]
    fn a_null_number_fails_for_good_and_is_named() {
        for (task, source, named) in [
            (r#"{"prompt":"p","width":null}"#, SOURCE, "task.width"),
            (r#"{"prompt":"p","ext":null}"#, SOURCE, "task.ext"),
            (r#"{"prompt":null}"#, SOURCE, "task.prompt"),
            (
                r#"{"prompt":"p"}"#,
                r#"{"engine":"e","files":[],"cliDefaults":{"steps":null}}"#,
                "modelSource.cliDefaults.steps",
            ),
            (
                r#"{"prompt":"p"}"#,
                r#"{"engine":"e","files":[{"role":"vae","url":null,"filename":"f"}],"cliDefaults":{}}"#,
                "modelSource.files[0].url",
            ),
        ] {
            let failure = Job::<ImageTask>::read(raw("image", task, source)).unwrap_err();
            assert!(failure.message.starts_with(named), "{}", failure.message);
            assert!(!failure.retryable);
        }
    }

    #[test]
    fn a_kind_that_is_not_served_fails_for_good_in_the_wires_words() {
        let failure = Job::<ImageTask>::read(raw("llm", r#"{"messages":[]}"#, SOURCE)).unwrap_err();
        assert!(failure.message.contains("e engine cannot serve llm tasks"));
        assert!(!failure.retryable);
        assert!(Job::<AnyTask>::read(raw("mesh", "{}", SOURCE)).is_err());
    }

    #[test]
    fn each_kind_is_read_with_its_subject() {
        for (kind, task, subject) in [
            ("image", r#"{"prompt":"a fox"}"#, "a fox"),
            (
                "llm",
                r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"hi"}]}"#,
                "hi",
            ),
            ("llm", r#"{"messages":[]}"#, ""),
            (
                "audio_stt",
                r#"{"inputUrl":"https://h/a.wav"}"#,
                "https://h/a.wav",
            ),
            ("audio_tts", r#"{"text":"hello"}"#, "hello"),
            ("video", r#"{"prompt":"waves"}"#, "waves"),
        ] {
            let job = Job::<AnyTask>::read(raw(kind, task, SOURCE)).unwrap();
            assert_eq!(job.task.subject(), subject, "{kind}");
        }
    }

    #[test]
    fn an_offer_without_a_model_source_says_so() {
        for source in ["", "null"] {
            let failure = Job::<AnyTask>::read(raw("image", "{}", source)).unwrap_err();
            assert!(failure.message.contains("no modelSource"));
        }
    }
}
