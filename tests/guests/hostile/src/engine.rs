//! The engine's exports.

use studio_plugin::bindings::engine_world::exports::studio::worker::engine::Guest;
use studio_plugin::{
    Build, Description, Failure, Finished, Next, Outcome, Progress, RawJob, SupportedKind,
    json::json,
};

use crate::misbehave::{as_built, asked, now};

#[derive(Debug)]
struct Hostile;

impl Guest for Hostile {
    fn describe() -> Description {
        let models = vec![as_built(cfg!(feature = "in-describe"), "hostile")];
        Description {
            engines: vec!["hostile".to_owned()],
            kinds: vec![SupportedKind {
                kind: "hostile".to_owned(),
                models,
            }],
            backends: Vec::new(),
        }
    }

    fn builds(_: String, release: String) -> Result<Vec<Build>, Failure> {
        let url = now(asked(&release, "builds"), "https://localhost/hostile.zip");
        Ok(vec![Build {
            os: "linux".to_owned(),
            arch: "x86_64".to_owned(),
            url,
            sha256: None,
        }])
    }

    fn compose(_: String, text: String, _: String) -> Result<(String, String), Failure> {
        let usual = json!({ "kind": "hostile", "prompt": text }).to_string();
        let task = now(asked(&text, "compose"), &usual);
        let source = r#"{"engine":"hostile","files":[],"cliDefaults":{"cfgScale":0,"steps":0,"width":0,"height":0}}"#;
        Ok((task, source.to_owned()))
    }

    fn subject(job: RawJob) -> String {
        now(asked(&job.task, "subject"), "hostile")
    }

    fn step(job: RawJob, _: Vec<Outcome>) -> Result<Next, Failure> {
        // A later version that breaks where the one before did not.
        if cfg!(feature = "spoiled") {
            match asked(&job.task, "spoil") {
                "fail" => {
                    return Err(Failure {
                        message: "spoiled".to_owned(),
                        retryable: false,
                    });
                }
                how => drop(now(how, "")),
            }
        }
        let text = now(asked(&job.task, "step"), "harmless");
        Ok(Next::Finish(Finished::media(text, "txt")))
    }

    fn read_progress(_: String, state: u64, lines: Vec<String>) -> (u64, Option<Progress>) {
        let note = Some(now(asked(&lines.join(" "), "read-progress"), "half"));
        let progress = Progress {
            done: 1,
            total: 2,
            note,
        };
        (state, Some(progress))
    }
}

#[cfg(target_arch = "wasm32")]
studio_plugin::bindings::engine_world::export_engine!(
    Hostile with_types_in studio_plugin::bindings::engine_world
);

#[cfg(not(target_arch = "wasm32"))]
const _: fn() -> Description = <Hostile as Guest>::describe;
