//! What the guests of a synthetic picture compute, each call in a fresh sandbox: the step that renders and encodes it, and the
//! finisher that decodes it to the last pixel.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use worker_plugins::contract::{Next, Output, Part, Product, Provenance};
use worker_plugins::{Job, Sandbox, SandboxOptions, Source, load};
use worker_tests::PluginFolder;

use crate::{calls, median, ms};

/// Larger makes the median steadier and the bench longer.
const PICTURES: usize = 300;

pub(crate) async fn measure() {
    let folder = PluginFolder::first_party();
    let sandbox = Sandbox::new(SandboxOptions::default()).expect("a sandbox");
    let loaded = load(&sandbox, Source::Folder(folder.path()))
        .await
        .expect("plugins");
    let engine = loaded.generation.engine("synthetic").expect("the engine");
    let finisher = loaded.generation.finishers().first().expect("a finisher");
    for ext in ["webp", "png"] {
        let (mut steps, mut finishes, mut size) = (Vec::new(), Vec::new(), 0);
        for number in 0..PICTURES {
            let job = Arc::new(job(number, ext));
            let history = Arc::new(Vec::new());
            let (took, answer) = timed(engine.step(&job, &history)).await;
            steps.push(took);
            let Ok(Ok(Next::Finish(finished))) = answer else {
                panic!("no picture");
            };
            let Output::Media(media) = finished.output else {
                panic!("no file");
            };
            let Part::Bytes(bytes) = media.content else {
                panic!("no bytes");
            };
            size = bytes.len();
            let product = Arc::new(Product::Media((bytes, media.ext)));
            let (took, answer) = timed(finisher.finish(&job, product, provenance())).await;
            answer.expect("no fault").expect("a whole picture");
            finishes.push(took);
        }
        println!(
            "{}  a synthetic {ext} of {size} bytes made, and {} to check it",
            ms(median(steps)),
            ms(median(finishes))
        );
    }
}

async fn timed<T>(call: impl Future<Output = T>) -> (Duration, T) {
    let started = Instant::now();
    let answer = call.await;
    (started.elapsed(), answer)
}

fn job(number: usize, ext: &str) -> Job {
    Job {
        model: "synthetic".to_owned(),
        task: json!({"kind": "image", "prompt": format!("words {number}"), "ext": ext}).to_string(),
        model_source: json!({"engine": "synthetic"}).to_string(),
        backends: Vec::new(),
        ..calls::job()
    }
}

fn provenance() -> Provenance {
    Provenance {
        generation: "g".to_owned(),
        plugins: Vec::new(),
        programs: Vec::new(),
        facts: Vec::new(),
    }
}
