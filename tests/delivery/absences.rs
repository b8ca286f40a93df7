//! A studio that vanishes with a job in hand.

use rustix::process::{Pid, Signal};
use serde_json::json;
use worker_tests::wait::{until, until_ok};
use worker_tests::{
    Api, FileServer, Home, Peer, Reply, ScriptedStudio, SdCli, Worker, built, offers,
};

use crate::{aside, one_aside, spooled};

/// A job in the stand-in that takes a few seconds, and a studio that is gone meanwhile.
async fn gone_mid_job(studio: &ScriptedStudio, home: &Home, sd: &SdCli, mode: &str) -> Worker {
    sd.mode(mode);
    let files = FileServer::start().await;
    let path = sd.path();
    let worker = home.start_with(&built::root().join("plugins"), &sd.env(&path));
    let mut peer = studio.welcomed().await;
    let model = offers::model_file("diffusion-model", &files.put("m.gguf", "GGUF"), "m.gguf");
    peer.accepted(&offers::sd_image("job-1", vec![model], &json!({})))
        .await;
    until("the program's start", || {
        sd.events()
            .iter()
            .find(|e| e["event"] == "generate")
            .cloned()
    })
    .await;
    studio.vanish().await;
    drop(peer);
    worker
}

#[tokio::test]
async fn the_job_goes_on_and_its_picture_is_posted_when_the_studio_is_back() {
    let (studio, sd) = (ScriptedStudio::start().await, SdCli::install());
    let home = Home::approved(&studio.base());
    let _worker = gone_mid_job(&studio, &home, &sd, "slow 3000").await;
    until("a result that waits", || (spooled(&home) > 0).then_some(())).await;
    assert!(studio.calls("complete").is_empty());
    studio.come_back().await;
    let mut peer = studio.welcomed().await;
    assert_eq!(studio.called("complete", 1).await[0].path, "w-1/job-1");
    until("an empty spool", || (spooled(&home) == 0).then_some(())).await;
    assert_eq!(sd.runs().len(), 1, "it was not made twice");
    assert!(aside(&home).await.is_empty());
    peer.accepted(&offers::chat("job-2", "x")).await;
    peer.expect_result().await;
}

/// The studio took the job back when the session ended, could not take its picture yet, and offers the job again.
#[tokio::test]
async fn a_job_offered_again_is_not_done_again_while_its_picture_waits() {
    let (studio, sd) = (ScriptedStudio::start().await, SdCli::install());
    let home = Home::approved(&studio.base());
    let _worker = gone_mid_job(&studio, &home, &sd, "slow 3000").await;
    until("a result that waits", || (spooled(&home) > 0).then_some(())).await;
    // By itself the worker would not come again for a long time.
    studio.on("complete", Reply::RetryAfter(503, 600));
    studio.come_back().await;
    let mut peer = studio.welcomed().await;
    studio.called("complete", 1).await;
    let model = offers::model_file("diffusion-model", "http://127.0.0.1:9/m.gguf", "m.gguf");
    peer.accepted(&offers::sd_image("job-1", vec![model], &json!({})))
        .await;
    assert_eq!(studio.called("complete", 2).await[1].path, "w-1/job-1");
    until("an empty spool", || (spooled(&home) == 0).then_some(())).await;
    assert_eq!(sd.runs().len(), 1, "it was not made twice");
    assert!(aside(&home).await.is_empty());
    peer.accepted(&offers::chat("job-2", "x")).await;
    assert_eq!(peer.expect_result().await["jobId"], "job-2");
}

#[tokio::test]
async fn while_the_old_job_runs_the_new_session_hears_of_it_and_nothing_else() {
    let (studio, sd) = (ScriptedStudio::start().await, SdCli::install());
    let home = Home::approved(&studio.base());
    sd.mode("slow 20000");
    let files = FileServer::start().await;
    let path = sd.path();
    let _worker = home.start_with(&built::root().join("plugins"), &sd.env(&path));
    let mut peer = studio.welcomed().await;
    let model = offers::model_file("diffusion-model", &files.put("m.gguf", "GGUF"), "m.gguf");
    peer.accepted(&offers::sd_image("job-1", vec![model], &json!({})))
        .await;
    until("the program's start", || {
        sd.events()
            .iter()
            .find(|e| e["event"] == "generate")
            .cloned()
    })
    .await;
    drop(peer);
    let mut peer: Peer = studio.welcomed().await;
    let beat = peer.expect("heartbeat").await;
    assert_eq!(beat["currentJobId"], "job-1");
    let (code, _) = peer.rejected(&offers::chat("job-2", "x")).await;
    assert_eq!(code, "busy");
}

#[tokio::test]
async fn a_json_result_of_the_lost_session_follows_the_rule_of_the_next() {
    for resume in [true, false] {
        let studio = ScriptedStudio::start().await;
        let home = Home::approved(&studio.base());
        let _worker = home.start();
        let mut peer = studio.welcomed_with(&["resume"]).await;
        peer.accepted(&offers::chat("job-1", "x")).await;
        let sent = peer.expect("completeJson").await;
        drop(peer);
        if resume {
            let mut peer = studio.welcomed_with(&["resume"]).await;
            assert_eq!(peer.expect_result().await, sent);
            until("an empty spool", || (spooled(&home) == 0).then_some(())).await;
        } else {
            let _peer = studio.welcomed().await;
            assert_eq!(one_aside(&home).await["result"], sent["result"]);
        }
    }
}

#[tokio::test]
async fn a_failure_of_the_lost_session_is_not_said_to_a_studio_without_resume() {
    let (studio, sd) = (ScriptedStudio::start().await, SdCli::install());
    let home = Home::approved(&studio.base());
    let worker = gone_mid_job(&studio, &home, &sd, "hang").await;
    let pid = i32::try_from(sd.runs()[0]["pid"].as_i64().unwrap()).unwrap();
    rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    worker
        .status("the job's end", |status| status["busy"] == false)
        .await;
    studio.come_back().await;
    let mut peer = studio.welcomed().await;
    let kept = one_aside(&home).await;
    assert_eq!(kept["jobId"], "job-1");
    assert!(
        kept["failure"].as_str().unwrap().contains("SIGKILL"),
        "{kept}"
    );
    peer.accepted(&offers::chat("job-2", "x")).await;
    assert_eq!(peer.expect_result().await["jobId"], "job-2");
}

/// Every state that a job is shown in, from version to version, until it is over.
async fn shown(api: &Api, id: &str) -> Vec<String> {
    let (mut states, mut seen) = (Vec::new(), 0);
    loop {
        let job = api
            .get(&format!("/api/jobs/{id}?after={seen}&waitMs=5000"))
            .await;
        seen = job["version"].as_u64().unwrap();
        let state = job["state"].as_str().unwrap().to_owned();
        let over = ["done", "failed", "cancelled"].contains(&state.as_str());
        states.push(state);
        if over {
            return states;
        }
    }
}

/// A worker whose studio inside cannot record a change `when` this is so of it, up to three seconds after `since`, a time
/// of the job's record.
async fn ailing(home: &Home, when: &str, since: &str) -> Worker {
    let worker = home.start();
    worker.connected().await;
    worker.stop().await;
    // The studio alone has its database open, so that what ails it must be there before, and pass by itself.
    let database = rusqlite::Connection::open(home.path("state/studio/studio.sqlite")).unwrap();
    database
        .execute_batch(&format!(
            "CREATE TRIGGER full BEFORE UPDATE ON jobs
             WHEN {when}
               AND unixepoch('now') < json_extract(NEW.detail, '$.{since}') / 1000 + 3
             BEGIN SELECT RAISE(ABORT, 'disk full'); END;"
        ))
        .unwrap();
    drop(database);
    home.start()
}

/// Has a job queued, under a number of the studio's.
async fn queued(api: &Api) -> String {
    let mut claim = offers::chat("x", "words");
    claim.as_object_mut().unwrap().remove("jobId");
    api.offer(&claim).await
}

/// The studio inside cannot write down what its worker sends. Both go on, nobody is told of an end that is not in the
/// record, and the result comes when it can.
#[tokio::test]
async fn a_result_that_the_studio_cannot_record_ends_nobody() {
    let home = Home::new();
    let worker = ailing(&home, "NEW.state IN ('done', 'failed')", "started_at").await;
    let api = worker.connected().await;
    let id = queued(&api).await;
    let states = shown(&api, &id).await;
    worker.line("could not be recorded").await;
    assert_eq!(states.last().unwrap(), "done", "{states:?}");
    let answer: serde_json::Value = serde_json::from_slice(&api.result(&id).await).unwrap();
    assert_eq!(answer["object"], "chat.completion");
    worker.stop().await;
}

/// Nor does it say that a job is cancelled, and have it run after its next start.
#[tokio::test]
async fn a_cancellation_that_the_studio_cannot_record_is_none() {
    let home = Home::new();
    let worker = ailing(&home, "NEW.state = 'cancelled'", "queued_at").await;
    let api = worker.connected().await;
    let (status, _) = api.post("/daemon/pause", &json!({})).await;
    assert_eq!(status, 200);
    let id = queued(&api).await;
    let cancel = format!("/api/jobs/{id}/cancel");
    let (status, answer) = api.post(&cancel, &json!({})).await;
    assert_eq!(status, 500, "{answer}");
    assert_ne!(api.job(&id).await["state"], "cancelled");
    until_ok("a cancellation", || async {
        let (status, answer) = api.post(&cancel, &json!({})).await;
        (status == 200).then_some(answer)
    })
    .await;
    assert_eq!(api.job(&id).await["state"], "cancelled");
    worker.stop().await;
}
