//! `kill -9` with a result in hand, and what the next start makes of it.

use serde_json::Value;
use worker_tests::wait::{soon, until};
use worker_tests::{Home, Peer, Reply, ScriptedStudio, Worker, built, media, needs, offers};

use crate::{aside, one_aside, spooled};

/// A worker that was killed when its upload was on the way.
async fn killed_uploading(studio: &ScriptedStudio, home: &Home) {
    studio.on("complete", Reply::Silence);
    let mut worker = home.start();
    let mut peer = studio.welcomed().await;
    peer.accepted(&offers::image("job-1", "a fox")).await;
    studio.called("complete", 1).await;
    worker.kill().await;
    assert!(spooled(home) > 0, "it was on disk before it was sent");
}

#[tokio::test]
async fn media_is_posted_again_after_a_crash() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    killed_uploading(&studio, &home).await;
    let _worker = home.start();
    let _peer = studio.welcomed().await;
    let calls = studio.called("complete", 2).await;
    assert_eq!(calls[1].path, "w-1/job-1");
    let (first, second) = (calls[0].form(), calls[1].form());
    assert_eq!(first[2].content, second[2].content, "byte for byte");
    assert_eq!(second[0].text(), "a fox");
    media::still(&second[2].content);
    until("an empty spool", || (spooled(&home) == 0).then_some(())).await;
    assert!(aside(&home).await.is_empty());
}

#[tokio::test]
async fn media_that_another_worker_has_delivered_meanwhile_is_kept_aside() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    killed_uploading(&studio, &home).await;
    studio.on("complete", Reply::status(409));
    let _worker = home.start();
    let mut peer = studio.welcomed().await;
    let kept = one_aside(&home).await;
    assert!(
        kept["reason"].as_str().unwrap().contains("another worker"),
        "{kept}"
    );
    peer.accepted(&offers::chat("job-2", "x")).await;
    peer.expect_result().await;
}

#[tokio::test]
async fn media_of_another_identity_goes_to_nobody() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    killed_uploading(&studio, &home).await;
    let config = home.config_text().replace("\"w-1\"", "\"w-2\"");
    std::fs::write(home.config(), config).unwrap();
    let _worker = home.start();
    let _peer = studio.welcomed().await;
    one_aside(&home).await;
    assert_eq!(studio.calls("complete").len(), 1);
}

/// A worker that was killed when its JSON result, or its failure, was sent and not acknowledged.
async fn killed_unacknowledged(studio: &ScriptedStudio, home: &Home, fails: bool) -> Value {
    let mut worker = home.start();
    let mut peer = studio.welcomed_with(&["resume"]).await;
    let sent = if fails {
        peer.accepted(&offers::video("job-1", "x", 64, 64, 99.0, 9))
            .await;
        peer.expect("fail").await
    } else {
        peer.accepted(&offers::chat("job-1", "what is lost?")).await;
        peer.expect("completeJson").await
    };
    worker.kill().await;
    assert!(spooled(home) > 0, "it is on disk until it is acknowledged");
    sent
}

#[tokio::test]
async fn a_json_result_is_sent_again_to_a_studio_that_takes_it() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let sent = killed_unacknowledged(&studio, &home, false).await;
    let _worker = home.start();
    let mut peer = studio.welcomed_with(&["resume"]).await;
    assert_eq!(peer.expect_result().await, sent);
    until("an empty spool", || (spooled(&home) == 0).then_some(())).await;
    assert!(aside(&home).await.is_empty());
}

#[tokio::test]
async fn a_failure_is_sent_again_to_a_studio_that_takes_it() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let sent = killed_unacknowledged(&studio, &home, true).await;
    let _worker = home.start();
    let mut peer = studio.welcomed_with(&["resume"]).await;
    let (error, _) = peer.expect_fail().await;
    assert_eq!(sent["error"], error.as_str());
    until("an empty spool", || (spooled(&home) == 0).then_some(())).await;
}

/// To a studio without `resume`, a frame about an earlier session's job is a protocol violation.
#[tokio::test]
async fn a_json_result_is_kept_aside_where_no_studio_takes_it() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let sent = killed_unacknowledged(&studio, &home, false).await;
    let _worker = home.start();
    let mut peer = studio.welcomed().await;
    let kept = one_aside(&home).await;
    assert_eq!(kept["result"], sent["result"]);
    assert_eq!(kept["prompt"], "what is lost?");
    assert!(
        kept["reason"].as_str().unwrap().contains("earlier session"),
        "{kept}"
    );
    only_the_next_job_is_spoken_of(&mut peer).await;
}

async fn only_the_next_job_is_spoken_of(peer: &mut Peer) {
    peer.accepted(&offers::chat("job-2", "x")).await;
    assert_eq!(peer.expect_result().await["jobId"], "job-2");
}

#[tokio::test]
async fn the_studio_inside_and_its_worker_survive_a_crash_together() {
    let home = Home::new();
    let mut worker = home.start();
    let api = worker.connected().await;
    let done = api.offer(&offers::speech("job-done", "x")).await;
    let first = api.result(&done).await;
    // A long one in hand, and one behind it.
    api.offer(&offers::video("job-long", "the sea", 640, 416, 30.0, 8))
        .await;
    api.offer(&offers::chat("job-next", "hi")).await;
    api.job_until("job-long", "the long job's start", |job| {
        job["state"] == "running"
    })
    .await;
    worker.kill().await;

    let worker = home.start();
    let api = worker.connected().await;
    assert_eq!(
        api.result(&done).await,
        first,
        "history and results outlive it"
    );
    assert_eq!(media::frames(&api.result("job-long").await).len(), 240);
    api.result("job-next").await;
    soon("a stop", worker.stop()).await;
}

/// What a power cut leaves, no killed process shows: the system still has what was never synced. So the system calls are
/// looked at, at the moment when the first byte has reached the studio.
#[tokio::test]
async fn a_result_is_synced_before_anything_of_it_is_sent() {
    let what = "that a result is synced before it is sent";
    let Some(strace) = needs::program(what, "strace", "strace") else {
        return;
    };
    let small = (offers::image("job-1", "a fox"), &["/spool-in-place/0>"][..]);
    let large = (
        offers::video("job-1", "the sea", 320, 320, 3.0, 8),
        &["/spool/*.media>", "/spool/*.row>", "/spool>"][..],
    );
    for (offer, places) in [small, large] {
        let calls = calls_before_the_first_byte(&strace, &offer).await;
        for place in places {
            let (begins, ends) = place.split_once('*').unwrap_or((place, ""));
            let synced = calls
                .lines()
                .any(|line| line.contains(begins) && line.contains(ends));
            assert!(synced, "{place} was not synced: {calls}");
        }
    }
}

/// What a worker had synced when the first byte of a result reached its studio.
async fn calls_before_the_first_byte(
    strace: &std::path::Path,
    offer: &serde_json::Value,
) -> String {
    let studio = ScriptedStudio::start().await;
    studio.on("complete", Reply::Silence);
    let home = Home::approved(&studio.base());
    let log = home.path("calls");
    let run = home.command(&["run", "--plugins"]);
    let mut command = std::process::Command::new(strace);
    command
        .args(["-f", "-y", "-e", "trace=fsync,fdatasync", "-o"])
        .arg(&log)
        .arg(run.get_program())
        .args(run.get_args())
        .arg(built::root().join("plugins"))
        .env_clear()
        .envs(
            run.get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .current_dir(home.path(""))
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let _worker = Worker::start(command, &home.path("local-api.json"));
    let mut peer = studio.welcomed().await;
    peer.accepted(offer).await;
    studio.called("complete", 1).await;
    std::fs::read_to_string(&log).unwrap()
}
