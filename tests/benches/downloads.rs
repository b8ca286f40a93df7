//! A model through the worker's own downloader, `models pull`, against `curl` and `sha256sum` after it, from the same host.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use worker_tests::{Home, SdCli, offers};

use crate::{host, median};

/// From loopback.
const NEAR: u64 = 2 << 30;
/// Over the long line. Smaller is over before several connections help; larger takes longer and shows the same.
const FAR: u64 = 256 << 20;
const ROUND_TRIP: Duration = Duration::from_millis(40);
/// Bytes a second of one connection of the long line.
const RATE: u64 = 16 << 20;
/// Of each, taking turns.
const TURNS: usize = 3;

pub(crate) async fn measure() {
    let near = host::serve();
    let (ours, theirs) = compare(&format!("http://{near}/{NEAR}"), NEAR, TURNS).await;
    println!(
        "{:5.2} x  the speed of `curl` and `sha256sum` after it: 2 GiB from loopback, {} against {} (at least 1 x)",
        theirs.as_secs_f64() / ours.as_secs_f64(),
        rate(NEAR, ours),
        rate(NEAR, theirs)
    );
    let far = host::far_away(near, ROUND_TRIP, RATE).await;
    let (ours, theirs) = compare(&format!("http://{far}/{FAR}"), FAR, 1).await;
    println!(
        "{:5.2} x  the speed of one stream over a line of 40 ms and 16 MiB/s a connection: 256 MiB, {} against {} (at least 3 x)",
        theirs.as_secs_f64() / ours.as_secs_f64(),
        rate(FAR, ours),
        rate(FAR, theirs)
    );
}

/// The worker's time, and that of `curl` and `sha256sum`.
async fn compare(url: &str, size: u64, turns: usize) -> (Duration, Duration) {
    let digest = host::digest(size);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..turns {
        theirs.push(by_hand(url, &digest));
        ours.push(by_worker(url, size, &digest).await);
    }
    (median(ours), median(theirs))
}

async fn by_worker(url: &str, size: u64, digest: &str) -> Duration {
    let (home, sd) = (Home::new(), SdCli::install());
    let mut model = offers::model_file("diffusion-model", url, "m.gguf");
    model["sha256"] = digest.into();
    model["approxBytes"] = size.into();
    let offer = home.path("offer.json");
    let claim = offers::sd_image("job-1", vec![model], &json!({}));
    std::fs::write(&offer, claim.to_string()).expect("an offer");
    let mut command = home.command(&["models", "pull", offer.to_str().expect("a path")]);
    command.env("STUDIO_WORKER_SD_CLI", sd.path());
    calm();
    let started = Instant::now();
    let ended = tokio::task::spawn_blocking(move || command.output());
    let output = ended.await.expect("a thread").expect("the worker starts");
    let took = started.elapsed();
    assert!(output.status.success(), "{output:?}");
    took
}

fn by_hand(url: &str, digest: &str) -> Duration {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("m.gguf");
    calm();
    let started = Instant::now();
    let fetched = Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--output"])
        .arg(&file)
        .arg(url)
        .status();
    assert!(fetched.expect("curl").success(), "curl brings it");
    let found = sha256sum(&file);
    let took = started.elapsed();
    assert_eq!(found, digest);
    took
}

fn sha256sum(file: &Path) -> String {
    let output = Command::new("sha256sum")
        .arg(file)
        .stderr(Stdio::inherit())
        .output();
    let output = output.expect("sha256sum");
    let text = String::from_utf8(output.stdout).expect("a text");
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// What earlier runs left to be written to the disk is no cost of the next.
fn calm() {
    rustix::fs::sync();
}

fn rate(bytes: u64, time: Duration) -> String {
    format!(
        "{:.0} MiB/s",
        bytes as f64 / f64::from(1 << 20) / time.as_secs_f64()
    )
}
