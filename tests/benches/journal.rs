//! What a job's journal costs: all the calls that an image job makes, with what it gives them.
//!
//! It cannot be switched off, so it is measured around the calls. A thread writes what they are given, so two times are told: until
//! the calls have returned, which is what the job takes longer where a core is idle, and until all is written.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use worker_plugins::contract::{
    Argument, Command, Download, Effect, Exit, File, Job, Outcome, OutputKind, Piece, Range,
    Setting,
};
use worker_runner::JournalStore;
use worker_wire::JobId;

use crate::{calls, median, p95, us};

/// Enough for the folder to be full, which makes pruning cost what it costs after a year.
const JOBS: usize = 1500;

pub(crate) fn measure() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = JournalStore::open(dir.path(), true, std::time::Duration::from_secs(86_400))
        .expect("a folder of journals");
    let (job, claim) = (Arc::new(calls::job()), calls::claim().to_string());
    let one = |number| one(&store, &job, &claim, number);
    let mut times: Vec<(Duration, Duration)> = (0..JOBS).map(one).collect();
    let (handed, whole): (Vec<_>, Vec<_>) = times.split_off(500).into_iter().unzip();
    for (times, until) in [
        (handed, "handed over (under 1 ms)"),
        (whole, "written, in bundles"),
    ] {
        let mean = times.iter().sum::<Duration>() / u32::try_from(times.len()).expect("a few");
        println!(
            "{}  the journal of an image job, until it is {until}; {} on average, {} at p95",
            us(median(times.clone())),
            us(mean),
            us(p95(times))
        );
    }
}

/// Until all was told, and until it was written.
fn one(store: &JournalStore, job: &Arc<Job>, claim: &str, number: usize) -> (Duration, Duration) {
    let id = JobId::parse(&format!("job-{number}")).expect("an id");
    let rounds = [
        (
            Effect::Fetch(vec![download()]),
            Outcome::Files(vec![file(0)]),
        ),
        (
            Effect::Write(("prompt.txt".to_owned(), Vec::new())),
            Outcome::Files(vec![file(1)]),
        ),
        (Effect::Run(command()), Outcome::Exited(exit())),
        (
            Effect::Read(Range {
                file: 2,
                offset: 0,
                length: 4096,
            }),
            Outcome::Bytes(vec![7; 4096]),
        ),
    ];
    let started = Instant::now();
    let journal = store.start(&id);
    let stage = |name: &str| json!(name);
    journal.write("stage", stage("accepted"));
    let plugins = json!([{"name": "sd-cpp", "version": "1", "sha256": "ab".repeat(32)}, {"name": "finisher", "version": "1", "sha256": "cd".repeat(32)}]);
    let (name, claim, told) = (id.to_string(), claim.to_owned(), job.clone());
    journal.tell("offered", move |teller| {
        json!({"job": name, "kind": "image", "model": "m", "claim": teller.document(&claim), "engine": "sd-cpp", "generation": "g", "plugins": plugins})
    });
    journal.tell("job", move |teller| teller.job(&told));
    for (step, (effect, outcome)) in (0..).zip(&rounds) {
        journal.write("stage", stage("stepping"));
        journal.write("stage", stage("performing"));
        journal.effect(step, effect);
        journal.outcome(step, outcome);
    }
    for name in ["stepping", "finishing"] {
        journal.write("stage", stage(name));
    }
    journal.write(
        "finished",
        json!({"facts": [["seed", "7"], ["steps", "8"], ["width", "1024"]]}),
    );
    for name in ["keeping", "delivering"] {
        journal.write("stage", stage(name));
    }
    journal.write("delivered", json!("Some(Done)"));
    journal.write("stage", stage("ended"));
    let handed = started.elapsed();
    journal.wait();
    (handed, started.elapsed())
}

fn download() -> Download {
    Download {
        url: "https://models.example/z_image_turbo-Q4_K.gguf?token=x".to_owned(),
        cache_as: Some("z_image_turbo-Q4_K.gguf".to_owned()),
        sha256: Some("ab".repeat(32)),
        approx_bytes: Some(4 << 30),
        max_bytes: None,
    }
}

fn file(id: u32) -> File {
    File {
        id,
        name: "z_image_turbo-Q4_K.gguf".to_owned(),
        size: 4 << 30,
        media_type: None,
    }
}

/// As many options as a real run has.
fn command() -> Command {
    let setting = |number: u32| {
        Argument::Setting(Setting {
            name: format!("--option-{number}"),
            value: vec![Piece::Text("value".to_owned()), Piece::File(number)],
            equals: false,
        })
    };
    Command {
        backend: "sd-cli".to_owned(),
        arguments: (0..25).map(setting).collect(),
        environment: Vec::new(),
        outputs: vec![OutputKind::File("png".to_owned())],
        input: Vec::new(),
        timeout_ms: Some(600_000),
    }
}

/// With last lines as long as they are kept.
fn exit() -> Exit {
    Exit {
        code: Some(0),
        signal: None,
        timed_out: false,
        out_of_memory: false,
        stdout_tail: "[INFO ] stable-diffusion.cpp:258  - loading weights\n".repeat(50),
        stderr_tail: "[WARN ] model.cpp:376  - nothing\n".repeat(20),
        wall_ms: 12_345,
        outputs: vec![vec![file(2)]],
        extra: Vec::new(),
    }
}
