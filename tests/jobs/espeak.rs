//! An engine that the host has never heard of, through the real program: `espeak-ng` as the distribution ships it.
//!
//! Where the program is missing they say so, and nothing is run.

use std::process::{Command, Stdio};

use bytes::Bytes;
use serde_json::{Value, json};
use worker_tests::{Api, Home, Worker, built, media, needs, offers};

/// A worker that finds programs as an operator's does: on `PATH`, and nowhere by name. None where there is no program.
async fn start() -> Option<(Home, Worker, Api)> {
    needs::program("speech through espeak-ng", "espeak-ng", "espeak-ng")?;
    let home = Home::new();
    let mut command = home.command(&["run", "--plugins"]);
    command
        .arg(built::root().join("plugins"))
        .env("PATH", needs::PATH)
        .env_remove("STUDIO_WORKER_ESPEAK_NG");
    let worker = Worker::start(command, &home.path("local-api.json"));
    let api = worker.connected().await;
    Some((home, worker, api))
}

/// The claim of a speech job for the engine.
fn claim(job: &str, task: Value) -> Value {
    let mut whole = json!({"kind": "audio_tts", "text": "hello"});
    for (name, value) in task.as_object().unwrap() {
        whole[name] = value.clone();
    }
    let defaults = json!({"cfgScale": 0.0, "steps": 0, "width": 0, "height": 0});
    let source = json!({"engine": "espeak", "files": [], "cliDefaults": defaults});
    offers::claim(job, "espeak", whole, source)
}

/// The samples of a WAV, as hound and Python's `wave` both read them.
fn samples(home: &Home, bytes: &Bytes) -> Vec<i16> {
    let (rate, channels, samples) = media::wav(bytes);
    assert_eq!((rate, channels), (22_050, 1));
    read_again(home, bytes, samples.len());
    assert!(
        samples.iter().any(|sample| sample.unsigned_abs() > 1000),
        "silence"
    );
    samples
}

/// Has Python's `wave` count the same samples.
fn read_again(home: &Home, bytes: &Bytes, count: usize) {
    let file = home.path("said.wav");
    std::fs::write(&file, bytes).unwrap();
    let Some(python) = needs::program("a second reader of the sound", "python3", "python3") else {
        return;
    };
    let read = "import sys, wave\nw = wave.open(sys.argv[1])\n\
                print(w.getframerate(), w.getnchannels(), w.getsampwidth(), w.getnframes(), len(w.readframes(1 << 30)))";
    let output = Command::new(python)
        .args(["-c", read])
        .arg(&file)
        .stdin(Stdio::null())
        .output()
        .expect("Python starts");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(
        told.trim(),
        format!("22050 1 2 {count} {}", count * 2),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test]
async fn it_speaks() {
    let Some((home, _worker, api)) = start().await else {
        return;
    };
    let told = api.get("/api/workers").await;
    let engines = &told[0]["capabilities"]["modelEngines"];
    assert!(
        engines.as_array().unwrap().contains(&json!("espeak")),
        "{told:#}"
    );

    let say = async |job: &str, task: Value| {
        let id = api.offer(&claim(job, task)).await;
        samples(&home, &api.result(&id).await)
    };
    let short = say("short", json!({"text": "hello"})).await;
    let long = say(
        "long",
        json!({"text": "hello, this is a sentence that takes a good while longer to say"}),
    )
    .await;
    assert!(
        long.len() > 3 * short.len(),
        "{} {}",
        short.len(),
        long.len()
    );
    let fast = say("fast", json!({"text": "hello", "speed": 2.0})).await;
    assert!(fast.len() < short.len(), "{} {}", fast.len(), short.len());
    let german = say("german", json!({"text": "hello", "language": "de"})).await;
    assert_ne!(german, short, "another language sounds otherwise");
    let woman = say("woman", json!({"text": "hello", "voice": "en+f3"})).await;
    assert_ne!(woman, short, "another voice sounds otherwise");
    // What looks like an option, or like markup of the program's, is words.
    for (job, text) in [
        ("flag", "--version"),
        ("file", "-f /etc/passwd"),
        ("mark", "[[h@l@U]] <b>"),
    ] {
        say(job, json!({ "text": text })).await;
    }
}

#[tokio::test]
async fn what_it_cannot_say_is_refused_in_words() {
    let Some((_home, _worker, api)) = start().await else {
        return;
    };
    for (job, task, said) in [
        ("voice", json!({"voice": "nobody"}), "no voice \"nobody\""),
        ("path", json!({"voice": "../../../etc/passwd"}), "no voice"),
        ("variant", json!({"voice": "en+nobody"}), "no variant"),
        ("language", json!({"language": "tlh-x"}), "no language"),
        ("speed", json!({"speed": 0}), "task.speed"),
        ("empty", json!({"text": "  "}), "task.text is empty"),
    ] {
        let id = api.offer(&claim(job, task)).await;
        let (error, retryable) = api.failure(&id).await;
        assert!(error.contains(said), "{job}: {error}");
        assert!(!retryable, "{job}: {error}");
    }
}

#[tokio::test]
async fn a_persons_words_are_enough() {
    let Some((home, _worker, _api)) = start().await else {
        return;
    };
    let out = home.path("hello.wav");
    home.run(&[
        "submit",
        "audio_tts",
        "hello",
        "--model",
        "espeak",
        "-o",
        out.to_str().unwrap(),
    ])
    .await
    .ok();
    samples(&home, &std::fs::read(out).unwrap().into());
}
