//! The upgrade, the gate, and every way a session ends.

use std::time::Duration;

use serde_json::json;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::support::{PATIENCE, Rig, but, capabilities, modern};

fn status(outcome: Result<crate::support::Worker, tungstenite::Error>) -> u16 {
    match outcome {
        Err(tungstenite::Error::Http(response)) => response.status().as_u16(),
        Err(other) => panic!("{other}"),
        Ok(_) => 101,
    }
}

#[tokio::test]
async fn the_upgrade_wants_a_known_worker_its_token_and_the_protocol() {
    let rig = Rig::start().await;
    let (id, token) = rig.register("i-1").await;
    assert_eq!(status(rig.open(&id, "wrong").await), 401);
    assert_eq!(status(rig.open("w-none", &token).await), 404);
    assert_eq!(status(rig.open("w%2F..", &token).await), 404);
    assert_eq!(status(rig.open(&id, &token).await), 101);

    let url = rig.wire(&format!("/workers/{id}/connect"));
    let plain = rig.http.get(&url).bearer_auth(&token).send().await.unwrap();
    assert_eq!(plain.status().as_u16(), 400);
    let bare = rig.http.get(&url).send().await.unwrap();
    assert_eq!(bare.status().as_u16(), 401);
    // All of an upgrade but the sub-protocol.
    let unspoken = rig
        .http
        .get(&url)
        .bearer_auth(&token)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA==")
        .send()
        .await
        .unwrap();
    assert_eq!(unspoken.status().as_u16(), 400);
    assert!(unspoken.text().await.unwrap().contains("studio-worker-v1"));
    rig.end().await;
}

#[tokio::test]
async fn nothing_but_a_good_hello_opens_the_gate() {
    let rig = Rig::start().await;
    let (id, token) = rig.register("i-1").await;
    let violation = (Some("protocol_violation".to_owned()), 4002);
    for first in [
        json!({"type": "heartbeat", "capabilities": capabilities()}).to_string(),
        json!({"type": "hello"}).to_string(),
        json!({"type": "teaBreak"}).to_string(),
        "[1, 2".to_owned(),
    ] {
        let mut worker = rig.open(&id, &token).await.unwrap();
        worker.text(first.clone()).await;
        assert_eq!(worker.ended().await, violation, "{first}");
    }
    let mut worker = rig.open(&id, &token).await.unwrap();
    worker.message(Message::Binary(vec![1].into())).await;
    assert_eq!(worker.ended().await, violation);

    let mut worker = rig.open(&id, &token).await.unwrap();
    worker
        .send(json!({"type": "hello", "authToken": "old", "capabilities": capabilities()}))
        .await;
    assert_eq!(worker.ended().await, (Some("auth_failed".to_owned()), 4001));
    rig.end().await;
}

#[tokio::test]
async fn a_silent_socket_is_closed() {
    let rig = Rig::with(|o| o.timing.hello = Duration::from_millis(50)).await;
    let (id, token) = rig.register("i-1").await;
    let mut worker = rig.open(&id, &token).await.unwrap();
    assert_eq!(
        worker.ended().await,
        (Some("protocol_violation".to_owned()), 4002)
    );
    rig.end().await;
}

#[tokio::test]
async fn welcome_lists_the_extensions_and_heartbeats_are_acknowledged() {
    let rig = Rig::start().await;
    let (id, token) = rig.register("i-1").await;
    let mut worker = rig.open(&id, &token).await.unwrap();
    worker
        .send(json!({"type": "hello", "authToken": token, "capabilities": capabilities()}))
        .await;
    let welcome = worker.frame().await;
    assert_eq!(
        welcome["extensions"],
        json!([
            "progress",
            "jobCancel",
            "resume",
            "pluginUpdate",
            "pluginStatus",
            "servedBy"
        ])
    );
    assert!(welcome["serverTime"].as_str().unwrap().ends_with('Z'));
    for _ in 0..3 {
        worker.beat().await;
    }
    let seen = rig.get("/workers").await;
    assert_eq!(seen[0]["connected"], true);
    assert!(seen[0]["lastHeartbeatAt"].is_string());
    rig.end().await;
}

#[tokio::test]
async fn frames_for_jobs_that_are_not_held_end_the_session() {
    let rig = Rig::start().await;
    for (n, frame) in [
        json!({"type": "accept", "jobId": "job-x"}),
        json!({"type": "reject", "jobId": "job-x", "reason": "no"}),
        json!({"type": "completeJson", "jobId": "job-x", "result": {}}),
        json!({"type": "fail", "jobId": "job-x", "error": "e", "retryable": true}),
        json!({"type": "fail", "jobId": "../../x", "error": "e", "retryable": true}),
        json!({"type": "hello", "authToken": "t", "capabilities": capabilities()}),
        json!({"type": "fail", "jobId": 7}),
    ]
    .into_iter()
    .enumerate()
    {
        let mut worker = rig.worker(&format!("i-{n}")).await;
        worker.send(frame.clone()).await;
        let ended = worker.ended().await;
        assert_eq!(
            ended,
            (Some("protocol_violation".to_owned()), 4002),
            "{frame}"
        );
    }
    let mut worker = rig.worker("i-binary").await;
    worker.message(Message::Binary(vec![0; 4].into())).await;
    assert_eq!(
        worker.ended().await,
        (Some("protocol_violation".to_owned()), 4002)
    );
    rig.end().await;
}

#[tokio::test]
async fn what_is_unknown_is_ignored() {
    let rig = Rig::start().await;
    let mut worker = rig.worker("i-1").await;
    worker.send(json!({"type": "teaBreak", "minutes": 5})).await;
    worker.send(json!({"type": "readyForMore"})).await;
    // Progress of a job that is not held may have crossed a cancel.
    worker
        .send(json!({"type": "progress", "jobId": "job-x", "done": 1, "total": 2}))
        .await;
    worker.message(Message::Ping(vec![1].into())).await;
    worker.expect_nothing(None).await;
    rig.end().await;
}

#[tokio::test]
async fn the_older_of_two_sessions_is_closed() {
    let rig = Rig::start().await;
    let (id, token) = rig.register("i-1").await;
    let mut older = rig.connect(&id, &token, capabilities()).await;
    let mut newer = rig.connect(&id, &token, capabilities()).await;
    assert_eq!(
        older.ended().await,
        (Some("duplicate_worker".to_owned()), 4003)
    );
    newer.expect_nothing(None).await;
    let job = rig.submit("for the newer").await;
    assert_eq!(newer.accept().await, job);
    rig.end().await;
}

#[tokio::test]
async fn a_silent_session_is_swept_and_its_job_released() {
    let rig = Rig::with(|o| {
        o.timing.alarm = Duration::from_millis(20);
        o.timing.stale = Duration::from_millis(1000);
    })
    .await;
    let mut worker = rig.worker("i-1").await;
    let job = rig.submit("x").await;
    worker.accept().await;
    assert_eq!(worker.ended().await, (None, 1000));
    let released = rig.reach(&job, "queued").await;
    assert_eq!(released["attempts"], 1);
    rig.end().await;
}

#[tokio::test]
async fn stopping_says_goodbye() {
    let rig = Rig::start().await;
    let mut worker = rig.worker_with("i-1", modern()).await;
    tokio::time::timeout(PATIENCE, rig.end()).await.unwrap();
    assert_eq!(worker.ended().await, (None, 1000));
}

#[tokio::test]
async fn shipped_lines_are_kept_in_a_ring() {
    let rig = Rig::with(|o| o.limits.log_lines = 3).await;
    let mut worker = rig.worker_with("i-1", but(json!({"taskKinds": []}))).await;
    let entry = |n: usize| {
        json!({"ts": "2026-01-01T00:00:00.000Z", "level": "warn", "category": "ws",
               "message": format!("{n} {}", "é".repeat(3000)), "jobId": "job-1"})
    };
    let entries: Vec<_> = (0..5).map(entry).collect();
    worker
        .send(json!({"type": "logBatch", "entries": entries}))
        .await;
    worker.beat().await;
    let logs = rig.get("/logs").await;
    let lines = logs["entries"].as_array().unwrap();
    assert_eq!(lines.len(), 3);
    assert!(lines[2]["message"].as_str().unwrap().starts_with("4 é"));
    assert!(lines[2]["message"].as_str().unwrap().len() <= 2000);
    assert_eq!(lines[2]["workerId"], worker.id.as_str());
    let after = format!("/logs?after={}", lines[1]["seq"]);
    assert_eq!(
        rig.get(&after).await["entries"].as_array().unwrap().len(),
        1
    );
    assert_eq!(
        rig.get("/logs?after=99").await["entries"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    rig.end().await;
}
