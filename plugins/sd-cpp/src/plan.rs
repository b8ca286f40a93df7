//! Everything about a job that is decided before anything is downloaded.

use studio_plugin::{Failure, ImageTask, Job};

use crate::inputs::Source;
use crate::probe::Probe;
use crate::prompt::Prompt;
use crate::weights::Weights;
use crate::{RELEASE, choices};

/// Minutes after which a run is ended where the operator set no `timeout-minutes`. Loading 20 GB from a slow disk and
/// 50 steps on an old GPU stay below it; a program that hangs blocks the machine no longer than this.
const TIMEOUT_MINUTES: u64 = 60;

/// One job, decided.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) weights: Weights,
    pub(crate) source: Source,
    pub(crate) prompt: Prompt,
    pub(crate) cfg_scale: f32,
    pub(crate) steps: u32,
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) ext: &'static str,
    pub(crate) seed: u64,
    pub(crate) sampler: Option<String>,
    pub(crate) flow_shift: Option<f32>,
    pub(crate) zero_cond_t: bool,
    pub(crate) offload: bool,
    pub(crate) mmap: bool,
    pub(crate) max_vram: Option<f32>,
    pub(crate) timeout_minutes: u64,
    /// Whether a server may be used where one is there.
    pub(crate) use_server: bool,
    /// How the machine's GPU is called, for failures.
    pub(crate) gpu: Option<String>,
}

impl Plan {
    /// Decides, or says which field of the task or of the model cannot be done.
    pub(crate) fn make(job: &Job<ImageTask>, probe: &Probe) -> Result<Self, Failure> {
        let (task, model) = (&job.task, &job.source.cli_defaults);
        let weights = Weights::sort(&job.source, probe)?;
        let tags: Vec<_> = weights.loras.iter().map(|lora| lora.tag.clone()).collect();
        Ok(Self {
            source: Source::of(task)?,
            prompt: Prompt::make(&task.prompt, task.negative_prompt.as_deref(), &tags, probe)?,
            cfg_scale: choices::cfg_scale(task, model),
            steps: choices::steps(task, model)?,
            width: choices::side("width", task.width, model.width, probe.rounds_sizes())?,
            height: choices::side("height", task.height, model.height, probe.rounds_sizes())?,
            ext: choices::ext(&task.ext, probe.writes_webp()),
            seed: choices::seed(task, job.entropy)?,
            sampler: choices::sampler(task, model, probe)?,
            flow_shift: model.flow_shift,
            zero_cond_t: model.zero_cond_t == Some(true),
            offload: model.offload_to_cpu == Some(true),
            mmap: model.mmap == Some(true),
            max_vram: model.max_vram_gib,
            timeout_minutes: timeout_minutes(job)?,
            use_server: use_server(job)?,
            gpu: job.platform.gpu.clone(),
            weights,
        })
    }

    /// The longest that a picture may take, in milliseconds.
    pub(crate) fn timeout_ms(&self) -> u64 {
        self.timeout_minutes * 60 * 1000
    }

    /// The release this plugin was written for, for failures.
    pub(crate) fn release() -> &'static str {
        RELEASE
    }
}

fn timeout_minutes(job: &Job<ImageTask>) -> Result<u64, Failure> {
    match job.settings()?.get("timeout-minutes") {
        None => Ok(TIMEOUT_MINUTES),
        Some(value) => value.as_u64().filter(|minutes| (1..=7 * 24 * 60).contains(minutes)).ok_or_else(|| {
            Failure::permanent("the setting timeout-minutes of sd-cpp in plugins.toml must be a whole number from 1 to 10080")
        }),
    }
}

fn use_server(job: &Job<ImageTask>) -> Result<bool, Failure> {
    match job.settings()?.get("use-server") {
        None => Ok(true),
        Some(value) => value.as_bool().ok_or_else(|| {
            Failure::permanent(
                "the setting use-server of sd-cpp in plugins.toml must be true or false",
            )
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NEWEST, probe, raw};

    #[test]
    fn the_operators_time_limit() {
        let with = |settings: &str| {
            let mut raw = raw("", &[("model", "m.gguf")]);
            raw.settings = settings.to_owned();
            Plan::make(&Job::read(raw).unwrap(), &probe(NEWEST)).map(|plan| plan.timeout_minutes)
        };
        assert_eq!(with("{}"), Ok(60));
        assert_eq!(with(r#"{"timeout-minutes":5}"#), Ok(5));
        assert_eq!(
            with(r#"{"timeout-minutes":600,"use-server":false}"#),
            Ok(600)
        );
        for wrong in [r#"{"timeout-minutes":0}"#, r#"{"timeout-minutes":"5"}"#] {
            assert!(with(wrong).unwrap_err().message.contains("timeout-minutes"));
        }
        assert!(
            with(r#"{"use-server":"no"}"#)
                .unwrap_err()
                .message
                .contains("use-server")
        );
    }
}
