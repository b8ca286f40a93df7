//! What an answer to the upgrade leads to.

use worker_tests::wait::rows;
use worker_tests::{Home, Reply, ScriptedStudio};

#[tokio::test]
async fn an_upgrade_that_fails_is_tried_again() {
    let answers = [
        Reply::status(400),
        Reply::status(403),
        Reply::status(409),
        Reply::RetryAfter(429, 1),
        Reply::Status(500, "reference abc-123".to_owned()),
        Reply::status(503),
        Reply::status(307),
        Reply::Status(200, "<html>a login page".to_owned()),
        Reply::WithoutSubprotocol,
    ];
    rows(answers.map(|answer| {
        (format!("{answer:?}"), async move {
            let studio = ScriptedStudio::start().await;
            studio.on("connect", answer.clone());
            let home = Home::approved(&studio.base());
            let worker = home.start();
            if matches!(answer, Reply::WithoutSubprotocol) {
                // The socket is open on this side, and left by the worker.
                drop(studio.peer().await);
            }
            let mut peer = studio.welcomed().await;
            peer.logged("reconnect attempt 1").await;
            assert_eq!(studio.calls("connect").len(), 2);
            assert!(studio.calls("register").is_empty(), "the identity stays");
            if let Reply::Status(500, body) = answer {
                worker.line(&body).await;
            }
        })
    }))
    .await;
}

#[tokio::test]
async fn a_refused_token_ends_the_worker() {
    let studio = ScriptedStudio::start().await;
    studio.on("connect", Reply::status(401));
    let home = Home::approved(&studio.base());
    let mut worker = home.start();
    assert_eq!(worker.ended().await.code(), Some(1));
    worker.line("studio-worker register --reset").await;
    assert!(
        home.config_text().contains("auth_token = \"tok\""),
        "an operator may mend the studio instead"
    );
    assert_eq!(studio.calls("connect").len(), 1);
}

#[tokio::test]
async fn a_worker_that_was_deleted_registers_anew() {
    let studio = ScriptedStudio::start().await;
    studio.on("connect", Reply::Status(404, "worker not found".to_owned()));
    let home = Home::approved(&studio.base());
    let worker = home.start();
    let asked = studio.called("register", 1).await[0].json();
    assert_ne!(
        asked["installId"], "install",
        "the old installation was deleted"
    );
    let _peer = studio.welcomed().await;
    worker.connected().await;
}

#[tokio::test]
async fn a_studio_that_is_not_there_is_waited_for() {
    let studio = ScriptedStudio::start().await;
    studio.vanish().await;
    let home = Home::approved(&studio.base());
    let worker = home.start();
    worker
        .status("a second attempt", |status| {
            status["session"]["attempt"].as_u64() >= Some(2)
        })
        .await;
    studio.come_back().await;
    let _peer = studio.welcomed().await;
    worker.connected().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_limit_on_reconnects_ends_the_worker() {
    let studio = ScriptedStudio::start().await;
    for _ in 0..3 {
        studio.on("connect", Reply::status(503));
    }
    let home = Home::approved(&studio.base());
    home.configure("ws_reconnect_attempts = 2");
    let mut worker = home.start();
    assert_eq!(worker.ended().await.code(), Some(1));
    worker.line("ws reconnect cap reached").await;
    assert_eq!(
        studio.calls("connect").len(),
        3,
        "failure number three is one too many"
    );
}
