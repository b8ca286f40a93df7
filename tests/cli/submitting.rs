//! `submit`: words, options, claims, and the ways out of waiting.

use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::sync::Notify;
use worker_tests::wait::until;
use worker_tests::{FileServer, Home, SdCli, Worker, built, media, offers};

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
    assert!(
        told.stderr.contains("queued") && told.stderr.contains("for synthetic, model synthetic"),
        "{told:?}"
    );
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
        .run(&[
            "submit",
            "audio_tts",
            "good morning",
            "--model",
            "synthetic",
            "--json",
        ])
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
        let line = [
            "submit",
            "--no-wait",
            "--model",
            "synthetic",
            "image",
            "--",
            text,
        ];
        let id = home.run(&line).await.ok();
        assert_eq!(api.over(id.trim()).await["prompt"], text);
    }
    // What is no option of the command needs no dashes before it.
    let id = home
        .run(&[
            "submit",
            "--no-wait",
            "--model",
            "synthetic",
            "image",
            "-5 degrees",
        ])
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
    // A placeholder never stands in for a picture that another engine would draw.
    let error = home.run(&["submit", "image", "x"]).await.error();
    assert!(error.contains("no model was named"), "{error}");
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
async fn a_job_that_is_composed_says_what_it_takes_of_the_gpu() {
    let studio = Home::new();
    let mut command = studio.command(&["studio", "--listen", "127.0.0.1:0", "--plugins"]);
    command.arg(built::root().join("plugins"));
    let running = Worker::start(command, &studio.path("local-api.json"));
    let api = running.api().await;
    let source = |files: Value| {
        let path = studio.path("source.json");
        let source = json!({"engine": "sd-cpp", "files": files, "cliDefaults": {}});
        std::fs::write(&path, source.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let files = json!([
        {"role": "diffusion-model", "url": "https://h.example/a", "filename": "a.gguf", "approxBytes": 6_u64 << 30},
        {"role": "vae", "url": "https://h.example/b", "filename": "b.gguf", "approxBytes": 2_u64 << 30},
    ]);
    let rows: [(Value, &[&str], f64); 4] = [
        (files.clone(), &[], 8.0),
        (files.clone(), &["--vram-gb", "5.5"], 5.5),
        (files, &["--vram-gb", "0"], 0.0),
        (json!([]), &[], 0.0),
    ];
    for (files, more, expected) in rows {
        let path = source(files);
        let line = [
            "submit",
            "--no-wait",
            "image",
            "x",
            "--model",
            "mine",
            "--model-source",
            &path,
        ];
        let line = [&line[..], more].concat();
        let id = studio.run(&line).await.ok();
        let row = api.job(id.trim()).await;
        assert_eq!(row["vramGbEstimate"], expected, "{more:?}: {row}");
    }
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

/// A studio that takes a job and then says nothing any more.
#[tokio::test]
async fn a_second_ctrl_c_ends_the_command() {
    let home = Home::new();
    let cancelled = Arc::new(Notify::new());
    let told = cancelled.clone();
    let app = axum::Router::new()
        .route(
            "/api/jobs",
            axum::routing::post(|| async { axum::Json(json!({"jobId": "job-1"})) }),
        )
        .route(
            "/api/jobs/job-1",
            axum::routing::get(|| async { std::future::pending::<()>().await }),
        )
        .route(
            "/api/jobs/job-1/cancel",
            axum::routing::post(move || async move {
                told.notify_one();
                std::future::pending::<()>().await
            }),
        );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let found = json!({"url": format!("http://{}", listener.local_addr().unwrap()), "token": "t".repeat(64)});
    tokio::spawn(async move { axum::serve(listener, app).await });
    std::fs::write(home.path("local-api.json"), found.to_string()).unwrap();
    let mut command = home.command(&["submit", "image", "x", "--model", "synthetic"]);
    command.stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = std::io::BufReader::new(child.stderr.take().unwrap());
    let said = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut said, &mut line).unwrap();
        (line, said)
    });
    let (line, _said) = said.await.unwrap();
    assert!(line.contains("queued job-1"), "{line}");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    cancelled.notified().await;
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let status = until("the command's end", || child.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(130));
}
