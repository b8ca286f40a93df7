//! The row of the status table that is about uploads.

use serde_json::json;
use worker_tests::wait::{rows, until};
use worker_tests::{Home, Reply, ScriptedStudio, media, offers};

use crate::{aside, one_aside, spooled};

#[tokio::test]
async fn success_is_any_2xx_and_leaves_nothing() {
    rows([200, 201, 202, 204].map(|status| {
        (status, async move {
            let studio = ScriptedStudio::start().await;
            studio.on("complete", Reply::status(status));
            let home = Home::approved(&studio.base());
            let _worker = home.start();
            let mut peer = studio.welcomed().await;
            peer.accepted(&offers::speech("job-1", "x")).await;
            studio.called("complete", 1).await;
            until("an empty spool", || (spooled(&home) == 0).then_some(())).await;
            assert!(aside(&home).await.is_empty());
            peer.accepted(&offers::chat("job-2", "x")).await;
            peer.expect_result().await;
            assert_eq!(studio.calls("complete").len(), 1);
        })
    }))
    .await;
}

#[tokio::test]
async fn a_refusal_for_good_fails_the_job_once_and_keeps_the_result_aside() {
    rows([400, 401, 403, 404, 413, 422, 302].map(|status| {
        (status, async move {
            let studio = ScriptedStudio::start().await;
            studio.on(
                "complete",
                Reply::Status(status, "because of this".to_owned()),
            );
            let home = Home::approved(&studio.base());
            let worker = home.start();
            let mut peer = studio.welcomed().await;
            peer.accepted(&offers::speech("job-1", "some words")).await;
            let (error, retryable) = peer.expect_fail().await;
            assert_eq!(
                error,
                format!("complete failed: {status} \u{2014} because of this")
            );
            assert!(retryable);
            let kept = one_aside(&home).await;
            assert_eq!(kept["jobId"], "job-1");
            assert_eq!(kept["prompt"], "some words");
            assert!(
                kept["reason"]
                    .as_str()
                    .unwrap()
                    .contains(&status.to_string()),
                "{kept}"
            );
            assert_eq!(studio.calls("complete").len(), 1, "asked once");
            assert_eq!(spooled(&home), 0);

            // It can be had, and removed.
            let out = home.path("out.wav");
            home.run(&["results", "show", "job-1", "-o", out.to_str().unwrap()])
                .await
                .ok();
            media::wav(&std::fs::read(out).unwrap());
            home.run(&["results", "remove", "job-1"]).await.ok();
            assert!(aside(&home).await.is_empty());
            worker.stop().await;
        })
    }))
    .await;
}

#[tokio::test]
async fn a_409_in_the_session_that_took_the_job_is_a_failure_that_may_be_tried_again() {
    let studio = ScriptedStudio::start().await;
    studio.on("complete", Reply::status(409));
    let home = Home::approved(&studio.base());
    let _worker = home.start();
    let mut peer = studio.welcomed().await;
    peer.accepted(&offers::speech("job-1", "x")).await;
    let (error, retryable) = peer.expect_fail().await;
    assert!(error.contains("409") && retryable, "{error}");
    let kept = one_aside(&home).await;
    assert!(kept["reason"].as_str().unwrap().contains("409"), "{kept}");
    peer.accepted(&offers::chat("job-2", "x")).await;
    peer.expect_result().await;
}

#[tokio::test]
async fn what_may_pass_is_tried_until_it_does() {
    let answers = [
        vec![Reply::status(500)],
        vec![Reply::status(503), Reply::status(502)],
        vec![Reply::status(408)],
        vec![Reply::RetryAfter(429, 1)],
        vec![Reply::RetryAfter(503, 2)],
    ];
    rows(answers.map(|answers| {
        (format!("{answers:?}"), async move {
            let studio = ScriptedStudio::start().await;
            let count = answers.len();
            for answer in answers {
                studio.on("complete", answer);
            }
            let home = Home::approved(&studio.base());
            let _worker = home.start();
            let mut peer = studio.welcomed().await;
            peer.accepted(&offers::speech("job-1", "x")).await;
            let calls = studio.called("complete", count + 1).await;
            let bytes: Vec<_> = calls
                .iter()
                .map(|call| call.form()[2].content.clone())
                .collect();
            assert!(
                bytes.windows(2).all(|pair| pair[0] == pair[1]),
                "the same result each time"
            );
            until("an empty spool", || (spooled(&home) == 0).then_some(())).await;
            // Only now is the slot free, and nothing was said of a failure.
            peer.accepted(&offers::chat("job-2", "x")).await;
            peer.expect_result().await;
            assert!(aside(&home).await.is_empty());
        })
    }))
    .await;
}

#[tokio::test]
async fn a_studio_that_stops_listening_for_a_moment_gets_the_result() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let _worker = home.start();
    let mut peer = studio.welcomed().await;
    // The socket stays; new connections are refused.
    studio.vanish().await;
    peer.accepted(&offers::speech("job-1", "x")).await;
    until("a result that waits", || (spooled(&home) > 0).then_some(())).await;
    peer.send(json!({"type": "heartbeatAck"})).await;
    studio.come_back().await;
    studio.called("complete", 1).await;
    until("an empty spool", || (spooled(&home) == 0).then_some(())).await;
}

/// A failure needs no disk while its session lives: it is the same failure as ever.
#[tokio::test]
async fn a_failure_that_cannot_be_kept_is_told_as_it_is() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let _worker = home.start();
    let mut peer = studio.welcomed().await;
    // As a disk that takes nothing more.
    let spool = home.path("state/spool");
    std::fs::remove_dir_all(&spool).unwrap();
    for taken in [spool, home.path("state/spool-in-place")] {
        std::fs::write(taken, "").unwrap();
    }
    let mut bad = offers::image("job-1", "a fox");
    bad["task"]["width"] = json!(null);
    peer.accepted(&bad).await;
    let (error, retryable) = peer.expect_fail().await;
    assert!(error.contains("task.width") && !retryable, "{error}");
    peer.accepted(&offers::chat("job-2", "x")).await;
    let (error, retryable) = peer.expect_fail().await;
    assert!(error.contains("cannot keep") && retryable, "{error}");
}

/// The socket goes straight, and so does everything else: a proxy that is named and not there costs nothing.
#[tokio::test]
async fn no_proxy_is_used_for_the_studio() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let nowhere = std::path::Path::new("http://127.0.0.1:9");
    let names = ["http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"];
    let env = names.map(|name| (name, nowhere));
    let plugins = worker_tests::built::root().join("plugins");
    let _worker = home.start_with(&plugins, &env);
    let mut peer = studio.welcomed().await;
    peer.accepted(&offers::speech("job-1", "x")).await;
    studio.called("complete", 1).await;
}
