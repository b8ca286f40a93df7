//! From no identity to an approved one.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;
use sha2::{Digest, Sha256};
use worker_tests::wait::{rows, until};
use worker_tests::{Home, Reply, ScriptedStudio};

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn has_install_id_shape(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    lengths == [8, 4, 4, 4, 12] && groups.iter().all(|group| is_hex(group, group.len()))
}

#[tokio::test]
async fn a_worker_registers_is_approved_and_connects() {
    let studio = ScriptedStudio::start().await;
    let home = Home::unregistered(&studio.base());
    let worker = home.start();
    let mut peer = studio.peer().await;
    let hello = peer.expect("hello").await;

    let asked = &studio.calls("register")[0];
    assert_eq!(
        asked.header("authorization"),
        None,
        "nothing proves anything yet"
    );
    let body = asked.json();
    assert!(
        has_install_id_shape(body["installId"].as_str().unwrap()),
        "{body}"
    );
    assert!(
        body["userAgent"]
            .as_str()
            .unwrap()
            .starts_with("studio-worker/"),
        "{body}"
    );
    assert_eq!(body["capabilities"]["autoEnabled"], true);
    assert_eq!(
        body["capabilities"]["taskKinds"],
        hello["capabilities"]["taskKinds"]
    );

    let poll = &studio.calls("poll")[0];
    assert_eq!(poll.path, "rr-1");
    let secret = poll
        .header("authorization")
        .unwrap()
        .strip_prefix("Bearer ")
        .unwrap();
    assert!(is_hex(secret, 64), "{secret}");
    assert_eq!(
        body["registrationSecretHash"],
        hex::encode(Sha256::digest(secret)),
        "the hash is of the hex text"
    );

    let upgrade = &studio.calls("connect")[0];
    assert_eq!(upgrade.path, "w-1");
    assert_eq!(upgrade.header("authorization"), Some("Bearer tok"));
    assert_eq!(
        upgrade.header("sec-websocket-protocol"),
        Some("studio-worker-v1")
    );
    assert_eq!(hello["authToken"], "tok");

    let config = home.config_text();
    assert!(
        config.contains("worker_id = \"w-1\"") && config.contains("auth_token = \"tok\""),
        "{config}"
    );
    assert!(!config.contains(secret), "the secret has served");
    assert!(!config.contains("rr-1"), "and so has the request");
    let mode = home.config().metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let printed = worker.lines().join("\n");
    assert!(
        !printed.contains(secret) && !printed.contains("tok\""),
        "{printed}"
    );
    peer.welcome(&[]).await;
    worker.connected().await;
}

#[tokio::test]
async fn the_secret_is_on_disk_before_it_is_needed_and_survives_a_restart() {
    let studio = ScriptedStudio::start().await;
    studio.on(
        "register",
        Reply::Status(
            200,
            json!({"requestId": "rr-7", "status": "pending"}).to_string(),
        ),
    );
    let home = Home::unregistered(&studio.base());
    let mut worker = home.start();
    let body = studio.called("register", 1).await[0].json();
    until("the request on disk", || {
        home.config_text().contains("rr-7").then_some(())
    })
    .await;
    worker.kill().await;

    // The one that starts anew polls for the same request with the same secret, at once.
    let _worker = home.start();
    let poll = &studio.called("poll", 1).await[0];
    assert_eq!(poll.path, "rr-7");
    let secret = poll
        .header("authorization")
        .unwrap()
        .strip_prefix("Bearer ")
        .unwrap();
    assert_eq!(
        body["registrationSecretHash"],
        hex::encode(Sha256::digest(secret))
    );
    assert_eq!(studio.calls("register").len(), 1);
    studio.welcomed().await;
}

/// Every answer to the register request that is no success is asked again at the next tick.
#[tokio::test]
async fn a_refused_register_request_is_sent_again() {
    let answers = [
        Reply::Cut,
        Reply::status(401),
        Reply::status(403),
        Reply::status(404),
        Reply::status(409),
        Reply::RetryAfter(429, 1),
        Reply::status(500),
        Reply::Status(200, "<html>garbage".to_owned()),
        Reply::Status(200, json!({"status": "pending"}).to_string()),
    ];
    rows(answers.map(|answer| {
        (format!("{answer:?}"), async move {
            let studio = ScriptedStudio::start().await;
            studio.on("register", answer);
            let home = Home::unregistered(&studio.base());
            let _worker = home.start();
            let calls = studio.called("register", 2).await;
            assert_eq!(
                calls[0].json(),
                calls[1].json(),
                "the same install and secret ask again"
            );
            studio.welcomed().await;
        })
    }))
    .await;
}

/// Every answer to a poll that is no decision leaves the request pending, except 404.
#[tokio::test]
async fn a_poll_without_a_decision_is_repeated() {
    let answers = [
        Reply::Status(200, json!({"status": "pending"}).to_string()),
        Reply::Cut,
        Reply::status(401),
        Reply::status(403),
        Reply::status(409),
        Reply::RetryAfter(429, 1),
        Reply::status(500),
        Reply::status(302),
        Reply::Status(200, "garbage".to_owned()),
        Reply::Status(200, json!({"status": "maybe"}).to_string()),
        Reply::Status(
            200,
            json!({"status": "approved", "workerId": "w-1"}).to_string(),
        ),
    ];
    rows(answers.map(|answer| {
        (format!("{answer:?}"), async move {
            let studio = ScriptedStudio::start().await;
            studio.on("poll", answer);
            let home = Home::unregistered(&studio.base());
            let worker = home.start();
            studio.called("poll", 1).await;
            worker
                .status("waiting for approval", |status| {
                    status["registration"]["state"] == "pending"
                })
                .await;
            let polls = studio.called("poll", 2).await;
            assert_eq!(polls[0].path, polls[1].path);
            assert_eq!(
                polls[0].header("authorization"),
                polls[1].header("authorization")
            );
            assert_eq!(
                studio.calls("register").len(),
                1,
                "no second request is filed"
            );
            studio.welcomed().await;
        })
    }))
    .await;
}

#[tokio::test]
async fn a_request_that_the_studio_forgot_is_filed_anew() {
    let studio = ScriptedStudio::start().await;
    studio.on("poll", Reply::status(404));
    let home = Home::unregistered(&studio.base());
    let _worker = home.start();
    let calls = studio.called("register", 2).await;
    let (first, second) = (calls[0].json(), calls[1].json());
    assert_eq!(first["installId"], second["installId"]);
    assert_ne!(
        first["registrationSecretHash"],
        second["registrationSecretHash"]
    );
    studio.welcomed().await;
}

#[tokio::test]
async fn a_rejection_ends_the_worker_with_the_operators_reason() {
    let studio = ScriptedStudio::start().await;
    studio.on_json(
        "poll",
        json!({"status": "rejected", "reason": "not this one"}),
    );
    let home = Home::unregistered(&studio.base());
    let mut worker = home.start();
    assert_eq!(worker.ended().await.code(), Some(1));
    let line = worker
        .line("rejected by the studio operator: not this one")
        .await;
    assert!(
        worker
            .lines()
            .join("\n")
            .contains("studio-worker register --reset"),
        "{line}"
    );
    // What was rejected is forgotten: the next start asks again.
    assert!(!home.config_text().contains("rr-1"));
    let _worker = home.start();
    studio.called("register", 2).await;
}

#[tokio::test]
async fn a_stop_while_waiting_for_approval_is_a_clean_one() {
    let studio = ScriptedStudio::start().await;
    studio.on(
        "register",
        Reply::Status(
            200,
            json!({"requestId": "rr-1", "status": "pending"}).to_string(),
        ),
    );
    let home = Home::unregistered(&studio.base());
    let worker = home.start();
    worker
        .status("waiting for approval", |status| {
            status["session"]["state"] == "waiting_for_approval"
        })
        .await;
    worker.stop().await;
}

/// What a crash between two writes, or a hand-made file, can leave behind.
#[tokio::test]
async fn half_an_identity_on_disk_is_no_obstacle() {
    let halves = [
        "registration_request_id = \"rr-old\"",
        "registration_secret = \"aa\"",
        "worker_id = \"w-1\"",
        "auth_token = \"tok\"",
        "worker_id = \"\"\nauth_token = \"\"",
        "install_id = \"install\"",
    ];
    rows(halves.map(|half| {
        (half, async move {
            let studio = ScriptedStudio::start().await;
            let home = Home::unregistered(&studio.base());
            home.configure(half);
            let _worker = home.start();
            let asked = studio.called("register", 1).await[0].json();
            if half.starts_with("install_id") {
                assert_eq!(asked["installId"], "install");
            }
            studio.welcomed().await;
        })
    }))
    .await;
}
