//! What a studio finds again after it stopped.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use worker_studio::{OpenError, Studio};

use crate::support::pushing::{able, push, pushed};
use crate::support::{Form, Rig, capabilities, modern, options};

/// A database as the first version of the schema left it.
const FIRST: &str = include_str!("schema-1.sql");

#[tokio::test]
async fn queued_jobs_workers_and_results_are_there_again() {
    let rig = Rig::start().await;
    let mut worker = rig.worker("i-1").await;
    let done = rig.submit("done").await;
    worker.accept().await;
    worker.complete(&done, json!({"kept": true})).await;
    assert_eq!(worker.frame().await["type"], "completeAck");
    let running = rig.submit("running").await;
    worker.accept().await;
    worker.beat_with(Some(&running)).await;
    let queued = rig.submit("queued").await;
    let (id, token) = worker.vanish();
    let claim_before = rig.job(&queued).await["prompt"].clone();
    rig.studio.close().await;

    let rig = rig.restart().await;
    assert_eq!(
        rig.get(&format!("/jobs/{done}/result")).await,
        json!({"kept": true})
    );
    assert_eq!(rig.job(&queued).await["prompt"], claim_before);
    let back = rig.job(&running).await;
    assert_eq!(
        (&back["state"], &back["attempts"]),
        (&json!("queued"), &json!(1))
    );
    // The same token, the same order.
    let mut worker = rig.connect(&id, &token, capabilities()).await;
    assert_eq!(worker.accept().await, running);
    worker.complete(&running, json!(1)).await;
    assert_eq!(worker.frame().await["type"], "completeAck");
    let claim = worker.offer().await;
    assert_eq!(claim["jobId"], queued.as_str());
    assert_eq!(claim["task"]["text"], "queued");
    rig.end().await;
}

#[tokio::test]
async fn a_worker_that_resumes_keeps_its_job_across_the_restart() {
    let rig = Rig::start().await;
    let mut worker = rig.worker_with("i-1", modern()).await;
    let job = rig.submit("x").await;
    worker.accept().await;
    worker.beat_with(Some(&job)).await;
    let (id, token) = worker.vanish();
    let rig = rig.restart().await;
    let mut other = rig.worker("i-2").await;
    let kept = rig.job(&job).await;
    assert_eq!(kept["state"], "queued");
    assert!(
        kept["waiting"]
            .as_str()
            .unwrap()
            .contains("kept for the worker")
    );
    other.expect_nothing(None).await;
    let mut worker = rig.greet(&id, &token, modern()).await;
    worker.beat_with(Some(&job)).await;
    assert_eq!(rig.job(&job).await["state"], "running");
    let form = Form::of("p", "png", b"pixels");
    assert_eq!(
        rig.upload((&id, &token), &job, form)
            .await
            .status()
            .as_u16(),
        200
    );
    assert_eq!(rig.job(&job).await["attempts"], 0);
    rig.end().await;
}

#[tokio::test]
async fn one_that_never_returns_loses_it() {
    let rig = Rig::with(|o| {
        o.timing.alarm = Duration::from_millis(20);
        o.timing.grace = Duration::from_millis(100);
    })
    .await;
    let mut worker = rig.worker_with("i-1", modern()).await;
    let job = rig.submit("x").await;
    worker.accept().await;
    worker.beat_with(Some(&job)).await;
    worker.vanish();
    let rig = rig.restart().await;
    let mut other = rig.worker("i-2").await;
    assert_eq!(other.accept().await, job);
    assert_eq!(rig.job(&job).await["attempts"], 1);
    rig.end().await;
}

#[tokio::test]
async fn half_written_uploads_are_swept_and_foreign_files_left() {
    let rig = Rig::start().await;
    let results = rig.dir.path().join("studio/results");
    for name in [".upload-1234", "job-gone.png", ".hidden", "README"] {
        std::fs::write(results.join(name), b"x").unwrap();
    }
    let rig = rig.restart().await;
    let left = |name: &str| results.join(name).exists();
    assert!(!left(".upload-1234") && !left("job-gone.png"));
    assert!(left(".hidden") && left("README"));
    rig.end().await;
}

#[tokio::test]
async fn one_folder_one_studio() {
    let rig = Rig::start().await;
    let second = Studio::open(options(rig.dir.path().join("studio"))).await;
    assert!(matches!(second, Err(OpenError::InUse { .. })), "{second:?}");
    let dir = Arc::clone(&rig.dir);
    rig.end().await;
    let third = Studio::open(options(dir.path().join("studio")))
        .await
        .unwrap();
    third.close().await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    let opened = Studio::open(options(file.clone())).await;
    assert!(matches!(opened, Err(OpenError::Folder { path, .. }) if path == file));

    let folder = dir.path().join("garbage");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("studio.sqlite"), vec![7u8; 8192]).unwrap();
    let opened = Studio::open(options(folder)).await;
    assert!(
        matches!(opened, Err(OpenError::Database { .. })),
        "{opened:?}"
    );
}

/// A studio whose database refuses every job that is done with the prompt `poison`.
async fn poisoned() -> Rig {
    let rig = Rig::start().await;
    let dir = Arc::clone(&rig.dir);
    rig.end().await;
    let database = rusqlite::Connection::open(dir.path().join("studio/studio.sqlite")).unwrap();
    database
        .execute_batch(
            "CREATE TRIGGER poison BEFORE UPDATE ON jobs
             WHEN NEW.detail LIKE '%poison%' AND NEW.state IN ('done', 'failed')
             BEGIN SELECT RAISE(ABORT, 'disk full'); END",
        )
        .unwrap();
    drop(database);
    Rig::at(dir, |_| {}).await
}

#[tokio::test]
async fn a_result_that_cannot_be_recorded_is_not_acknowledged_and_can_be_sent_again() {
    let rig = poisoned().await;
    let mut worker = rig.worker_with("i-1", modern()).await;
    let job = rig.submit("x").await;
    worker.accept().await;
    let result =
        |prompt: &str| json!({"type": "completeJson", "jobId": job, "result": 1, "prompt": prompt});
    worker.send(result("poison")).await;
    assert_eq!(worker.ended().await, (None, 1000));
    assert_eq!(rig.job(&job).await["state"], "running");
    let mut worker = rig.greet(&worker.id, &worker.token, modern()).await;
    worker.send(result("p")).await;
    assert_eq!(
        worker.frame().await,
        json!({"type": "completeAck", "jobId": job})
    );
    assert_eq!(rig.job(&job).await["state"], "done");

    // A failure likewise.
    worker.beat().await;
    let job = rig.submit("x").await;
    worker.accept().await;
    worker.fail(&job, "poison", false).await;
    assert_eq!(worker.ended().await, (None, 1000));
    let mut worker = rig.greet(&worker.id, &worker.token, modern()).await;
    worker.fail(&job, "bad input", false).await;
    assert_eq!(
        worker.frame().await,
        json!({"type": "failAck", "jobId": job})
    );
    assert_eq!(rig.job(&job).await["state"], "failed");
    rig.end().await;
}

#[tokio::test]
async fn an_upload_that_cannot_be_recorded_can_be_posted_again() {
    let rig = poisoned().await;
    let mut worker = rig.worker("i-1").await;
    rig.submit("x").await;
    let job = worker.accept().await;
    worker.beat_with(Some(&job)).await;
    let refused = rig
        .upload(worker.key(), &job, Form::of("poison", "png", b"x"))
        .await;
    assert_eq!(refused.status().as_u16(), 500);
    assert_eq!(rig.job(&job).await["state"], "running");
    worker.expect_nothing(Some(&job)).await;
    let taken = rig
        .upload(worker.key(), &job, Form::of("p", "png", b"xy"))
        .await;
    assert_eq!(taken.status().as_u16(), 200);
    assert_eq!(rig.job(&job).await["resultBytes"], 2);
    rig.end().await;
}

#[tokio::test]
async fn a_database_of_the_first_schema_is_taken_over_whole() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let folder = dir.path().join("studio");
    std::fs::create_dir_all(&folder).unwrap();
    let first = rusqlite::Connection::open(folder.join("studio.sqlite")).unwrap();
    first.execute_batch(FIRST).unwrap();
    drop(first);
    let rig = Rig::at(dir, |_| {}).await;
    let kept = rig.get("/jobs/job-1/result").await;
    assert_eq!(kept, json!({"kept": true}));
    let running = rig.job("job-2").await;
    assert_eq!(
        (&running["state"], &running["attempts"]),
        (&json!("queued"), &json!(1))
    );
    assert_eq!(rig.job("job-3").await["error"], "it failed once");
    let pending = rig.get("/workers/pending").await;
    assert_eq!(pending[0]["requestId"], "r-1");
    let (token, mut able) = ("token-of-the-first-schema", able());
    let mut worker = rig.connect("w-1", token, able.clone()).await;
    for job in ["job-2", "job-3"] {
        assert_eq!(worker.accept().await, job);
        worker.complete(job, json!(job)).await;
        assert_eq!(worker.frame().await["type"], "completeAck");
    }
    assert_eq!(rig.get("/updates").await, json!([]));
    // What the first schema had no place for is kept from now on.
    let id = push(&rig, json!({})).await;
    pushed(&mut worker).await;
    worker.vanish();
    let rig = rig.restart().await;
    assert_eq!(rig.get("/updates").await[0]["updateId"], id.as_str());
    assert_eq!(rig.job("job-3").await["state"], "done");
    able["extensions"] = json!([]);
    rig.connect("w-1", token, able).await;
    rig.end().await;
}
