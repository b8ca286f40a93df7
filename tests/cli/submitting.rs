//! `submit`: words, options, claims, and the ways out of waiting.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use worker_tests::wait::until;
use worker_tests::{FileServer, Home, SdCli, built, media, offers};

#[tokio::test]
async fn the_five_kinds_by_hand() {
    let home = Home::new();
    let worker = home.start();
    worker.connected().await;
    let koi = home.path("koi.webp");
    let told = home
        .run(&[
            "submit",
            "image",
            "a koi pond",
            "--model",
            "synthetic",
            "-o",
            koi.to_str().unwrap(),
        ])
        .await;
    assert!(told.stderr.contains("queued"), "{told:?}");
    assert!(told.ok().contains("koi.webp"));
    media::still(&std::fs::read(&koi).unwrap());

    let chat = home.run(&["submit", "llm", "hello"]).await.json();
    assert_eq!(chat["object"], "chat.completion");
    let transcript = home
        .run(&[
            "submit",
            "audio_stt",
            "https://h.example/a.wav",
            "--set",
            "language=de",
        ])
        .await
        .json();
    assert_eq!(transcript["language"], "de");
    // Without -o a file is named after the job.
    let told = home
        .run(&["submit", "audio_tts", "good morning", "--json"])
        .await
        .json();
    let file = home.path(told["file"].as_str().unwrap());
    media::wav(&std::fs::read(file).unwrap());
    let waves = home.path("waves.webp");
    let line = [
        "submit",
        "video",
        "waves",
        "--set",
        "seconds=0.5",
        "--set",
        "fps=4",
        "--set",
        "width=64",
        "--set",
        "height=48",
    ];
    let line: Vec<&str> = line
        .into_iter()
        .chain(["-o", waves.to_str().unwrap()])
        .collect();
    home.run(&line).await.ok();
    let frames = media::frames(&std::fs::read(waves).unwrap());
    assert_eq!((frames.len(), frames[0].dimensions()), (2, (64, 48)));
}

#[tokio::test]
async fn text_that_looks_like_a_flag_is_text() {
    let home = Home::new();
    let worker = home.start();
    let api = worker.connected().await;
    for text in ["--help", "-o", "--", "", "-", "--json=x"] {
        let line = ["submit", "--no-wait", "image", "--", text];
        let id = home.run(&line).await.ok();
        assert_eq!(api.over(id.trim()).await["prompt"], text);
    }
    // What is no option of the command needs no dashes before it.
    let id = home
        .run(&["submit", "--no-wait", "image", "-5 degrees"])
        .await
        .ok();
    assert_eq!(api.over(id.trim()).await["prompt"], "-5 degrees");
}

#[tokio::test]
async fn a_claim_goes_as_it_is() {
    let home = Home::new();
    let worker = home.start();
    let api = worker.connected().await;
    let mut claim = offers::image("my-own-id", "a fox");
    claim["task"]["ext"] = json!("png");
    let file = home.path("offer.json");
    for content in [claim.clone(), json!({"type": "offer", "claim": claim})] {
        let mut content = content;
        if content.get("claim").is_some() {
            content["claim"]["jobId"] = json!("my-other-id");
        }
        std::fs::write(&file, content.to_string()).unwrap();
        let out = home.path("out.png");
        home.run(&[
            "submit",
            "--offer",
            file.to_str().unwrap(),
            "-o",
            out.to_str().unwrap(),
        ])
        .await
        .ok();
        assert_eq!(
            media::still(&std::fs::read(out).unwrap()).0,
            image::ImageFormat::Png
        );
    }
    assert_eq!(api.job("my-own-id").await["state"], "done");
    assert_eq!(api.job("my-other-id").await["state"], "done");
    let error = home
        .run(&["submit", "--offer", file.to_str().unwrap()])
        .await
        .error();
    assert!(
        error.contains("my-other-id"),
        "a job of that id is there already: {error}"
    );
}

#[tokio::test]
async fn what_cannot_be_composed_says_what_can() {
    let home = Home::new();
    let worker = home.start();
    worker.connected().await;
    let error = home.run(&["submit", "sculpture", "x"]).await.error();
    assert!(
        error.contains("image") && error.contains("audio_tts"),
        "{error}"
    );
    let error = home
        .run(&["submit", "llm", "x", "--model", "no-such-model"])
        .await
        .error();
    assert!(error.contains("synthetic"), "{error}");
    let line = [
        "submit",
        "image",
        "x",
        "--model",
        "synthetic",
        "--set",
        "width=null",
    ];
    let error = home.run(&line).await.error();
    assert!(error.contains("task.width"), "{error}");
}

#[tokio::test]
async fn a_failed_job_is_a_failed_command() {
    let home = Home::new();
    let worker = home.start();
    worker.connected().await;
    let out = home.path("never.webp");
    let line = [
        "submit",
        "video",
        "x",
        "--set",
        "seconds=999",
        "-o",
        out.to_str().unwrap(),
    ];
    let error = home.run(&line).await.error();
    assert!(error.contains("240"), "{error}");
    assert!(!out.exists());
    let error = home
        .run(&[
            "submit",
            "image",
            "x",
            "--model",
            "synthetic",
            "-o",
            "no/such/folder/x.webp",
        ])
        .await
        .error();
    assert!(error.contains("no/such/folder"), "{error}");
}

#[tokio::test]
async fn ctrl_c_cancels_the_job() {
    let (home, sd, files) = (Home::new(), SdCli::install(), FileServer::start().await);
    sd.mode("hang");
    let path = sd.path();
    let worker = home.start_with(&built::root().join("plugins"), &sd.env(&path));
    let api = worker.connected().await;
    let model = offers::model_file("diffusion-model", &files.put("m.gguf", "GGUF"), "m.gguf");
    let file = home.path("offer.json");
    std::fs::write(
        &file,
        offers::sd_image("job-1", vec![model], &json!({})).to_string(),
    )
    .unwrap();
    let child = home
        .command(&["submit", "--offer", file.to_str().unwrap()])
        .spawn()
        .unwrap();
    until("the program's start", || sd.runs().first().cloned()).await;
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = tokio::task::spawn_blocking(|| child.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(api.over("job-1").await["state"], "cancelled");
    let state: Value = api.get("/daemon/status").await;
    assert_eq!(state["session"]["state"], "connected");
}

#[tokio::test]
async fn a_job_that_nobody_serves_says_so_while_it_waits() {
    let home = Home::new();
    let worker = home.start();
    let api = worker.connected().await;
    let claim = offers::claim(
        "job-1",
        "m",
        json!({"kind": "mesh"}),
        offers::source("torch"),
    );
    api.offer(&claim).await;
    let job = api
        .job_until("job-1", "a word on waiting", |job| {
            job["waiting"].is_string()
        })
        .await;
    let waiting = job["waiting"].as_str().unwrap();
    assert!(
        waiting.contains("mesh") && waiting.contains("torch"),
        "{waiting}"
    );
}
