//! A session from `hello` on: the gate, heartbeats, logs, and patience with what it does not know.

use std::time::Duration;

use axum::extract::ws::Message;
use serde_json::{Value, json};
use worker_tests::wait::soon;
use worker_tests::{Home, ScriptedStudio, offers};

#[tokio::test]
async fn capabilities_are_complete_and_say_what_is_served() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let _worker = home.start();
    let mut peer = studio.peer().await;
    let hello = peer.expect("hello").await;
    let told = &hello["capabilities"];
    for field in ["machineName", "username", "agentVersion"] {
        assert!(!told[field].as_str().unwrap().is_empty(), "{field}: {told}");
    }
    assert_eq!(told["engine"], "multi");
    assert!(told["vramTotalGb"].is_number());
    assert_eq!(told["vramThresholdGb"], 12.0);
    for field in ["autoEnabled", "autoStart", "startMinimised"] {
        assert_eq!(told[field], true, "{field}");
    }
    assert_eq!(told["onlyWhenIdle"], false);
    assert!(told["autoUpdate"].is_boolean());
    // No sd-cli here, so nothing of its engine: what cannot be served is not advertised.
    assert_eq!(told["modelEngines"], json!(["synthetic"]));
    assert_eq!(
        told["taskKinds"],
        json!(["image", "llm", "audio_stt", "audio_tts", "video"])
    );
    assert_eq!(
        told["supportedModelsPerKind"],
        json!({
            "image": ["synthetic", "synthetic-image"], "llm": ["synthetic", "synthetic-llm"],
            "audio_stt": ["synthetic", "synthetic-stt"], "audio_tts": ["synthetic", "synthetic-tts"],
            "video": ["synthetic", "synthetic-video"],
        })
    );
    let all = [
        "synthetic",
        "synthetic-image",
        "synthetic-llm",
        "synthetic-stt",
        "synthetic-tts",
        "synthetic-video",
    ];
    assert_eq!(told["supportedModels"], json!(all), "sorted, each once");
}

#[tokio::test]
async fn nothing_but_hello_before_welcome() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let _worker = home.start();
    let mut peer = studio.peer().await;
    peer.expect("hello").await;
    // An offer before the gate is open is dropped, and answered by nothing.
    peer.offer(&offers::image("early", "x")).await;
    let early = tokio::time::timeout(Duration::from_secs(3), peer.frame()).await;
    assert!(early.is_err(), "{early:?}");
    peer.welcome(&[]).await;
    assert_eq!(
        peer.frame().await["type"],
        "heartbeat",
        "the first heartbeat goes out at once"
    );
    peer.logged("before welcome").await;
}

#[tokio::test]
async fn heartbeats_and_logs_keep_coming() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let _worker = home.start();
    let mut peer = studio.welcomed().await;
    for _ in 0..3 {
        let beat = peer.expect("heartbeat").await;
        assert!(beat.get("currentJobId").is_none(), "idle: {beat}");
        assert_eq!(beat["capabilities"]["autoEnabled"], true);
        peer.send(json!({"type": "heartbeatAck"})).await;
    }
    peer.accepted(&offers::chat("job-1", "hi")).await;
    let entry = peer_logged_with_job(&studio, &mut peer).await;
    assert_eq!(entry["category"], "ws");
    assert!(["info", "warn", "error"].contains(&entry["level"].as_str().unwrap()));
    let stamp = entry["ts"].as_str().unwrap();
    assert!(
        stamp.len() == 24 && stamp.ends_with('Z') && stamp.as_bytes()[19] == b'.',
        "{stamp}"
    );
}

async fn peer_logged_with_job(_studio: &ScriptedStudio, peer: &mut worker_tests::Peer) -> Value {
    peer.expect("completeJson").await;
    peer.send(json!({"type": "completeAck", "jobId": "job-1"}))
        .await;
    let entry = peer.logged("offer received job-1").await;
    assert_eq!(entry["jobId"], "job-1");
    entry
}

#[tokio::test]
async fn what_the_worker_does_not_know_never_ends_a_session() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let _worker = home.start();
    let mut peer = studio.welcomed().await;
    let odd = [
        r#"{"type":"teaBreak","minutes":5}"#,
        r#"{"type":"heartbeatAck","mood":"good","nested":{"a":[1]}}"#,
        r#"{"type":"welcome","workerId":"w-1","serverTime":"again"}"#,
        r#"{"type":"error","code":"odd_new_code","message":"x"}"#,
        r#"{"type":"completeAck"}"#,
        r#"{"type":"failAck","jobId":7}"#,
        r#"{"type":"jobCancel","jobId":"../../etc"}"#,
        r#"{"type":"jobCancel","jobId":"never-heard-of"}"#,
        r#"{"type":"offer"}"#,
        r#"{"type":"offer","claim":null}"#,
        r#"{"type":"offer","claim":{"jobId":5}}"#,
        r#"{"type":5}"#,
        "[]",
        "null",
        "",
        "garbage \u{0} \u{1b}[31m",
        r#"{"type":"heartbeatAck""#,
    ];
    for text in odd {
        peer.text(text).await;
    }
    peer.message(Message::binary(vec![0u8, 1, 255])).await;
    peer.message(Message::Ping("x".into())).await;
    let deep = format!(
        "{{\"type\":\"x\",\"y\":{}{}}}",
        "[".repeat(5000),
        "]".repeat(5000)
    );
    peer.text(&deep).await;
    peer.accepted(&offers::chat("job-1", "still there?")).await;
    peer.expect_result().await;
    assert_eq!(studio.calls("connect").len(), 1);
}

/// The connection is open and the system at the other end acknowledges, but nobody is there any more.
#[tokio::test]
async fn a_studio_that_falls_silent_is_left() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let worker = home.start();
    let silent = studio.welcomed().await;
    let mut next = studio.welcomed().await;
    next.logged("no frame from the studio").await;
    drop(silent);
    worker.connected().await;
}

#[tokio::test]
async fn a_stop_flushes_the_log_and_closes_in_order() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let worker = home.start();
    let mut peer = studio.welcomed().await;
    peer.expect("heartbeat").await;
    worker.terminate();
    let (frames, close) = peer.end().await;
    assert_eq!(close, Some((1000, "session ended".to_owned())));
    let told = frames.iter().map(Value::to_string).collect::<String>();
    assert!(
        told.contains("draining"),
        "the last lines are shipped: {told}"
    );
    drop(peer);
    let mut worker = worker;
    assert!(soon("the end", worker.ended()).await.success());
    assert!(
        !home.path("local-api.json").exists(),
        "the discovery file goes with the worker"
    );
}
