//! `run` and `studio`: what they say, who may run, how they end.

use serde_json::json;
use worker_tests::{Home, ScriptedStudio, Worker, built, media, offers};

/// What the worker cannot do for an operator it says, in the log and to the studio.
#[tokio::test]
async fn a_setting_that_it_cannot_honour_is_said() {
    let home = Home::bare("only_when_idle = true\n");
    let worker = home.start();
    worker
        .line("does not measure whether somebody uses the computer")
        .await;
    let home = Home::new();
    let worker = home.start();
    worker.connected().await;
    let said = worker.lines().join("\n");
    assert!(!said.contains("does not measure"), "{said}");
}

#[tokio::test]
async fn run_says_where_its_studio_is_and_what_it_serves() {
    let home = Home::new();
    let worker = home.start();
    let api = worker.connected().await;
    worker.line(&api.url).await;
    worker.line("image llm audio_stt audio_tts video").await;
    worker.line(home.config().to_str().unwrap()).await;
    // One line names each engine, with kinds, version and digest.
    let line = worker
        .lines()
        .into_iter()
        .find(|line| line.contains("synthetic") && line.contains("audio_stt"));
    let line = line.unwrap_or_else(|| worker.lines().join("\n"));
    let status = home.run(&["status", "--json"]).await.json();
    let plugins = status["plugins"].as_array().unwrap();
    let synthetic = plugins
        .iter()
        .find(|plugin| plugin["name"] == "synthetic")
        .unwrap();
    assert!(
        line.contains(synthetic["version"].as_str().unwrap()),
        "{line}"
    );
    assert!(
        line.contains(&synthetic["digest"].as_str().unwrap()[..8]),
        "{line}"
    );
    let printed = worker.lines().join("\n");
    assert!(
        !printed.contains(&api.token),
        "the token is in the discovery file only"
    );
    use std::os::unix::fs::PermissionsExt;
    let mode = home
        .path("local-api.json")
        .metadata()
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    worker.stop().await;
    assert!(!home.path("local-api.json").exists());
}

#[tokio::test]
async fn without_a_folder_the_embedded_plugins_serve() {
    let home = Home::new();
    let worker = Worker::start(home.command(&["run"]), &home.path("local-api.json"));
    worker.connected().await;
    let out = home.path("koi.webp");
    home.run(&[
        "submit",
        "image",
        "a koi pond",
        "--model",
        "synthetic",
        "-o",
        out.to_str().unwrap(),
    ])
    .await
    .ok();
    media::still(&std::fs::read(out).unwrap());
}

#[tokio::test]
async fn a_second_worker_says_so_and_ends_well() {
    let home = Home::new();
    let first = home.start();
    first.connected().await;
    let second = home.run(&["run"]).await;
    assert_eq!(second.code(), 0, "{second:?}");
    assert!(
        second.stdout.contains("another worker") && second.stdout.contains(&first.id().to_string()),
        "{second:?}"
    );
    // The first one is undisturbed, its discovery file included.
    home.run(&["pause"]).await.ok();
    first.stop().await;
}

#[tokio::test]
async fn a_lock_of_a_killed_worker_does_not_hold() {
    let home = Home::new();
    let mut first = home.start();
    first.connected().await;
    first.kill().await;
    let second = home.start();
    second.connected().await;
    second.stop().await;
}

#[tokio::test]
async fn the_usual_port_taken_is_no_obstacle() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let home = Home::new();
    let mut command = home.command(&["run"]);
    command.env("STUDIO_WORKER_LOCAL_API_PORT", &port);
    let worker = Worker::start(command, &home.path("local-api.json"));
    let api = worker.connected().await;
    assert!(!api.url.ends_with(&port), "{}", api.url);
    // An address that was named as a whole is meant.
    let other = Home::bare(&format!("listen = \"127.0.0.1:{port}\""));
    let error = other.run(&["run"]).await.error();
    assert!(error.contains(&port), "{error}");
}

#[tokio::test]
async fn a_studio_alone_serves_workers_elsewhere() {
    let (studio_home, worker_home) = (Home::new(), Home::new());
    let mut command = studio_home.command(&[
        "studio",
        "--listen",
        "127.0.0.1:0",
        "--approve",
        "auto",
        "--plugins",
    ]);
    command.arg(built::root().join("plugins"));
    let studio = Worker::start(command, &studio_home.path("local-api.json"));
    let api = studio.api().await;
    worker_home
        .run(&["register", "--api-base-url", &api.url])
        .await
        .ok();
    let worker = worker_home.start();
    worker.connected().await;
    let out = studio_home.path("out.wav");
    studio_home
        .run(&[
            "submit",
            "audio_tts",
            "hello",
            "--model",
            "synthetic",
            "-o",
            out.to_str().unwrap(),
        ])
        .await
        .ok();
    media::wav(&std::fs::read(out).unwrap());
    let id = api.offer(&offers::image("job-1", "x")).await;
    media::still(&api.result(&id).await);
    worker.stop().await;
    studio.stop().await;
}

#[tokio::test]
async fn an_operator_approves_or_rejects_workers() {
    let studio_home = Home::new();
    let command =
        studio_home.command(&["studio", "--listen", "127.0.0.1:0", "--approve", "manual"]);
    let studio = Worker::start(command, &studio_home.path("local-api.json"));
    let api = studio.api().await;
    let pending = async || {
        let listed = worker_tests::wait::until_ok("a pending request", || async {
            let (_, listed) = api.try_get("/api/workers/pending").await?;
            listed[0]["requestId"].is_string().then_some(listed)
        });
        listed.await[0]["requestId"].as_str().unwrap().to_owned()
    };
    let unwanted = Home::unregistered(&api.url);
    let mut worker = unwanted.start();
    let request = pending().await;
    let (status, _) = api
        .post(
            &format!("/api/workers/pending/{request}/reject"),
            &json!({"reason": "too slow"}),
        )
        .await;
    assert!((200..300).contains(&status), "{status}");
    assert_eq!(worker.ended().await.code(), Some(1));
    worker.line("too slow").await;

    let wanted = Home::unregistered(&api.url);
    let worker = wanted.start();
    let request = pending().await;
    let (status, _) = api
        .post(
            &format!("/api/workers/pending/{request}/approve"),
            &json!({}),
        )
        .await;
    assert!((200..300).contains(&status), "{status}");
    worker.connected().await;
    // A worker that is deleted asks to be registered again.
    let workers = api.get("/api/workers").await;
    let id = workers[0]["workerId"].as_str().unwrap();
    let deleted = api
        .request(reqwest::Method::DELETE, &format!("/api/workers/{id}"))
        .send()
        .await
        .unwrap();
    assert!(deleted.status().is_success());
    pending().await;
}

#[tokio::test]
async fn status_tells_people_and_scripts() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let before = home.run(&["status"]).await.ok();
    assert!(before.contains(&studio.base()), "{before}");
    let worker = home.start();
    let _peer = studio.welcomed().await;
    worker.connected().await;
    home.run(&["pause"]).await.ok();
    let status = home.run(&["status", "--json"]).await.json();
    assert_eq!(status["paused"], true);
    assert_eq!(status["session"]["state"], "connected");
    assert_eq!(status["registration"]["state"], "approved");
    assert_eq!(status["currentJobId"], json!(null));
    let shown = home.run(&["status"]).await.ok();
    assert!(
        shown.contains("paused") && shown.contains("connected"),
        "{shown}"
    );
    assert!(!shown.contains("tok"), "{shown}");
}

#[tokio::test]
async fn a_new_threshold_holds_at_once() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let worker = home.start();
    let mut peer = studio.welcomed().await;
    let api = worker.connected().await;
    assert_eq!(api.get("/daemon/status").await["vramThresholdGb"], 12.0);
    let told = home.run(&["set-threshold", "7.5"]).await.ok();
    assert!(told.contains("up to 7.5 GiB from now on"), "{told}");
    assert_eq!(api.get("/daemon/status").await["vramThresholdGb"], 7.5);
    let mut large = offers::image("job-1", "x");
    large["vramGbEstimate"] = json!(8);
    let (code, reason) = peer.rejected(&large).await;
    assert_eq!(code, "insufficient_memory", "{reason}");
    assert!(reason.contains("7.50"), "{reason}");
    worker.stop().await;
    let told = home.run(&["set-threshold", "9"]).await.ok();
    assert!(!told.contains("from now on"), "nobody runs: {told}");
}
