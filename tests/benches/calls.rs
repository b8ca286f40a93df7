//! A `step` of a real policy against a call that does nothing, both instantiated anew for each call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use worker_plugins::{BackendStatus, Engine, Job, Platform, Sandbox, SandboxOptions, Source, load};
use worker_tests::{PluginFolder, SdCli, offers};

use crate::{median, ratio, us};

/// Calls of each kind. They take turns, so that both meet the same machine.
const CALLS: usize = 3000;

pub(crate) async fn measure() {
    let folder = PluginFolder::first_party().add("haiku");
    let sandbox = Sandbox::new(SandboxOptions::default()).expect("a sandbox");
    let loaded = load(&sandbox, Source::Folder(folder.path()))
        .await
        .expect("plugins");
    assert!(loaded.refused.is_empty(), "{:?}", loaded.refused);
    let engine = |name: &str| loaded.generation.engine(name).expect("an engine").clone();
    let (policy, nothing) = (engine("sd-cpp"), engine("haiku"));
    let job = Arc::new(job());
    let (mut steps, mut empties) = (Vec::new(), Vec::new());
    for call in 0..CALLS + 200 {
        let (step, empty) = (step(&policy, &job).await, empty(&nothing).await);
        // The first ones fill caches.
        if call >= 200 {
            steps.push(step);
            empties.push(empty);
        }
    }
    let (step, empty) = (median(steps), median(empties));
    println!(
        "{:5.2} x  one step of sd-cpp on a realistic offer, {}, against an empty call, {} (at most 3 x)",
        ratio(step, empty),
        us(step),
        us(empty)
    );
}

async fn step(engine: &Engine, job: &Arc<Job>) -> Duration {
    let history = Arc::new(Vec::new());
    let started = Instant::now();
    let answer = engine.step(job, &history).await;
    let took = started.elapsed();
    answer.expect("no fault").expect("no failure");
    took
}

/// The export that does nothing in an engine without progress.
async fn empty(engine: &Engine) -> Duration {
    let started = Instant::now();
    let answer = engine.read_progress("", 0, Vec::new()).await;
    let took = started.elapsed();
    answer.expect("no fault");
    took
}

/// A claim as a studio sends it.
pub(crate) fn claim() -> Value {
    let url = "https://models.example/z_image_turbo-Q4_K.gguf";
    let files = vec![
        offers::model_file("diffusion-model", url, "z_image_turbo-Q4_K.gguf"),
        offers::model_file(
            "text-encoder",
            "https://models.example/qwen.gguf",
            "Qwen3-4B-Instruct-2507-Q4_K_M.gguf",
        ),
        offers::model_file(
            "vae",
            "https://models.example/ae.safetensors",
            "ae.safetensors",
        ),
    ];
    offers::sd_image(
        "job-1",
        files,
        &json!({"prompt": offers::long_prompt(), "width": 1024, "height": 1024}),
    )
}

/// Its job as the engine sees it, with the help text of a real release.
pub(crate) fn job() -> Job {
    let claim = claim();
    let help = std::process::Command::new(SdCli::install().path())
        .arg("--help")
        .output()
        .expect("the stand-in");
    Job {
        id: "job-1".to_owned(),
        kind: "image".to_owned(),
        model: "z-image-turbo-q4_k_m.gguf".to_owned(),
        task: claim["task"].to_string(),
        model_source: claim["modelSource"].to_string(),
        vram_gb_estimate: 6.5,
        entropy: 7,
        settings: "{}".to_owned(),
        backends: vec![BackendStatus {
            name: "sd-cli".to_owned(),
            release: None,
            digest: "ab".repeat(32),
            probes: vec![String::from_utf8_lossy(&help.stdout).into_owned()],
        }],
        platform: Platform {
            os: "linux".to_owned(),
            arch: "x86_64".to_owned(),
            gpu: None,
        },
    }
}
