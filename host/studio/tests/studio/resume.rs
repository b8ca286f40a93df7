//! Workers that go away with a job and come back.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{Form, Rig, Worker, capabilities, modern};

/// A modern worker that has accepted a job and vanished.
async fn gone(rig: &Rig) -> (String, String, String) {
    let mut worker = rig.worker_with("i-1", modern()).await;
    rig.submit("x").await;
    let job = worker.accept().await;
    worker.beat_with(Some(&job)).await;
    let (id, token) = worker.vanish();
    disconnected(rig).await;
    (id, token, job)
}

async fn disconnected(rig: &Rig) {
    loop {
        let workers = rig.get("/workers").await;
        if workers
            .as_array()
            .unwrap()
            .iter()
            .all(|w| w["connected"] == false)
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn expect(worker: &mut Worker, kind: &str, job: &str) {
    assert_eq!(worker.frame().await, json!({"type": kind, "jobId": job}));
}

#[tokio::test]
async fn the_claim_waits_for_a_worker_that_resumes() {
    let rig = Rig::start().await;
    let (id, token, job) = gone(&rig).await;
    let mut other = rig.worker("i-2").await;
    assert_eq!(rig.job(&job).await["state"], "running");
    let mut worker = rig.greet(&id, &token, modern()).await;
    worker.beat_with(Some(&job)).await;
    worker
        .send(json!({"type": "progress", "jobId": job, "done": 1, "total": 2}))
        .await;
    rig.follow(&job, |job| job["progress"]["done"] == 1).await;
    worker.complete(&job, json!("late")).await;
    expect(&mut worker, "completeAck", &job).await;
    assert_eq!(rig.job(&job).await["attempts"], 0);
    other.expect_nothing(None).await;
    rig.end().await;
}

#[tokio::test]
async fn a_result_of_an_earlier_session_is_taken_before_any_heartbeat() {
    let rig = Rig::start().await;
    let (id, token, job) = gone(&rig).await;
    let mut worker = rig.greet(&id, &token, modern()).await;
    worker.complete(&job, json!("kept")).await;
    expect(&mut worker, "completeAck", &job).await;
    assert_eq!(rig.get(&format!("/jobs/{job}/result")).await, json!("kept"));
    // Said again after the next reconnect, as a worker does that never saw the acknowledgement.
    let _ = worker.vanish();
    let mut worker = rig.greet(&id, &token, modern()).await;
    worker.complete(&job, json!("kept")).await;
    expect(&mut worker, "completeAck", &job).await;
    rig.end().await;
}

#[tokio::test]
async fn a_failure_of_an_earlier_session_frees_the_job_at_once() {
    let rig = Rig::start().await;
    let (id, token, job) = gone(&rig).await;
    let mut worker = rig.greet(&id, &token, modern()).await;
    worker.fail(&job, "killed while it ran", true).await;
    expect(&mut worker, "failAck", &job).await;
    assert_eq!(rig.job(&job).await["attempts"], 1);
    worker.beat().await;
    assert_eq!(worker.accept().await, job);
    rig.end().await;
}

#[tokio::test]
async fn an_upload_outlives_the_session() {
    let rig = Rig::start().await;
    let (id, token, job) = gone(&rig).await;
    let form = Form::of("p", "png", b"pixels");
    assert_eq!(
        rig.upload((&id, &token), &job, form).await.status(),
        StatusCode::OK
    );
    assert_eq!(rig.job(&job).await["state"], "done");
    rig.end().await;
}

#[tokio::test]
async fn the_grace_ends() {
    let rig = Rig::with(|o| {
        o.timing.alarm = Duration::from_millis(20);
        o.timing.grace = Duration::from_millis(100);
    })
    .await;
    let (id, token, job) = gone(&rig).await;
    assert_eq!(rig.reach(&job, "queued").await["attempts"], 1);
    // Requeued, not taken by another yet: the result is still welcome.
    let mut worker = rig.greet(&id, &token, modern()).await;
    worker.complete(&job, json!("late")).await;
    expect(&mut worker, "completeAck", &job).await;
    assert_eq!(rig.job(&job).await["state"], "done");
    rig.end().await;
}

#[tokio::test]
async fn what_another_has_taken_is_ignored_without_ending_the_session() {
    let rig = Rig::with(|o| {
        o.timing.alarm = Duration::from_millis(20);
        o.timing.grace = Duration::from_millis(50);
    })
    .await;
    let (id, token, job) = gone(&rig).await;
    let mut other = rig.worker("i-2").await;
    assert_eq!(other.accept().await, job);
    other.beat_with(Some(&job)).await;
    let mut worker = rig.greet(&id, &token, modern()).await;
    worker.complete(&job, json!("mine")).await;
    worker.fail(&job, "mine", false).await;
    worker.complete("job-nobody-knows", json!(0)).await;
    // No acknowledgement, no error: the next frame answers the heartbeat.
    worker.expect_nothing(None).await;
    let form = Form::of("p", "png", b"mine");
    assert_eq!(
        rig.upload((&id, &token), &job, form).await.status(),
        StatusCode::CONFLICT
    );
    other.complete(&job, json!("theirs")).await;
    expect(&mut other, "completeAck", &job).await;
    assert_eq!(
        rig.get(&format!("/jobs/{job}/result")).await,
        json!("theirs")
    );
    // Now it is over, and may be forgotten.
    worker.complete(&job, json!("mine")).await;
    expect(&mut worker, "completeAck", &job).await;
    rig.end().await;
}

#[tokio::test]
async fn a_worker_that_comes_back_without_the_job_loses_it() {
    let rig = Rig::with(|o| o.timing.settle = Duration::ZERO).await;
    let (id, token, job) = gone(&rig).await;
    let mut worker = rig.greet(&id, &token, modern()).await;
    worker.send_beat(None).await;
    let mut kinds = Vec::new();
    for _ in 0..2 {
        kinds.push(worker.frame().await["type"].as_str().unwrap().to_owned());
    }
    assert_eq!(kinds, ["heartbeatAck", "offer"]);
    let offered = rig.job(&job).await;
    assert_eq!(
        (&offered["state"], &offered["attempts"]),
        (&json!("offered"), &json!(1))
    );
    rig.end().await;
}

#[tokio::test]
async fn without_resume_an_old_job_is_a_violation() {
    let rig = Rig::start().await;
    let mut worker = rig.worker("i-1").await;
    rig.submit("x").await;
    let job = worker.accept().await;
    worker.beat_with(Some(&job)).await;
    let (id, token) = worker.vanish();
    rig.reach(&job, "queued").await;
    let form = Form::of("p", "png", b"late");
    assert_eq!(
        rig.upload((&id, &token), &job, form).await.status(),
        StatusCode::CONFLICT
    );
    let mut worker = rig.greet(&id, &token, capabilities()).await;
    worker.complete(&job, json!(1)).await;
    assert_eq!(
        worker.ended().await,
        (Some("protocol_violation".to_owned()), 4002)
    );
    rig.end().await;
}

#[tokio::test]
async fn a_second_session_takes_the_first_ones_job_over() {
    let rig = Rig::start().await;
    let mut older = rig.worker_with("i-1", modern()).await;
    rig.submit("x").await;
    let job = older.accept().await;
    older.beat_with(Some(&job)).await;
    let mut newer = rig.greet(&older.id, &older.token, modern()).await;
    assert_eq!(
        older.ended().await,
        (Some("duplicate_worker".to_owned()), 4003)
    );
    newer.beat_with(Some(&job)).await;
    let status: Value = rig.job(&job).await;
    assert_eq!(
        (&status["state"], &status["attempts"]),
        (&json!("running"), &json!(0))
    );
    newer.complete(&job, json!(1)).await;
    expect(&mut newer, "completeAck", &job).await;
    rig.end().await;
}
