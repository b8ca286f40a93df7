//! The host's own time in an image job whose program takes no time, from the offer to the result, the sandbox on.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use worker_tests::{FileServer, Home, ScriptedStudio, SdCli, built, offers};

use crate::{median, ms, wire};

/// Larger makes the median steadier and the bench longer.
const JOBS: usize = 60;

pub(crate) async fn measure() {
    let baseline = median((0..JOBS).map(|_| bare()).collect());
    println!("{}  bare spawn of a program, waited for", ms(baseline));
    for (sandbox, config) in [("on", ""), ("off", "program_sandbox = false")] {
        let (whole, program) = jobs(config).await;
        let own = whole.saturating_sub(program);
        println!(
            "{}  the host's own time in an image job, sandbox {sandbox} (at most 6 ms); the job took {}, its program {}",
            ms(own),
            ms(whole),
            ms(program)
        );
    }
}

fn bare() -> Duration {
    let started = Instant::now();
    let status = std::process::Command::new(built::fake_sd())
        .arg("--version")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status();
    assert!(status.is_ok(), "the stand-in starts");
    started.elapsed()
}

/// Medians of a whole job, and of the same program with the same arguments run by hand.
async fn jobs(config: &str) -> (Duration, Duration) {
    let (studio, sd, files) = (
        ScriptedStudio::start().await,
        SdCli::install(),
        FileServer::start().await,
    );
    let home = Home::approved(&studio.base());
    home.configure(config);
    let path = sd.path();
    let worker = home.start_with(&built::root().join("plugins"), &sd.env(&path));
    let mut peer = studio.welcomed().await;
    let url = files.put("m.gguf", "GGUF weights");
    let mut times = Vec::new();
    for number in 0..=JOBS {
        let model = offers::model_file("diffusion-model", &url, "m.gguf");
        let offer = offers::sd_image(&format!("job-{number}"), vec![model], &json!({"steps": 1}));
        let time = wire::one(&studio, &mut peer, &offer).await;
        // The first downloads the model.
        if number > 0 {
            times.push(time);
        }
    }
    let program = median((0..JOBS).map(|_| by_hand(&sd, &path)).collect());
    worker.stop().await;
    (median(times), program)
}

/// The program as the job ran it, but writing elsewhere.
fn by_hand(sd: &SdCli, program: &Path) -> Duration {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let runs = sd.runs();
    let last = runs.last().expect("a run");
    let words = worker_tests::sd_cli::argv(last);
    let prompt = dir.path().join("prompt");
    std::fs::write(&prompt, "a fox").expect("a prompt");
    let mut previous = String::new();
    let words = words.into_iter().map(|word| {
        let before = std::mem::replace(&mut previous, word.clone());
        match before.as_str() {
            "-o" | "--output" => dir.path().join("out.png").display().to_string(),
            "--prompt-file" => prompt.display().to_string(),
            _ => word,
        }
    });
    let words: Vec<String> = words.collect();
    let started = Instant::now();
    let status = std::process::Command::new(program)
        .args(words)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status();
    let _ = status.expect("the stand-in starts");
    started.elapsed()
}
