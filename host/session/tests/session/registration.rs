//! From no identity to an approved one: each status and each half-present state.

use std::{sync::atomic::Ordering, time::Duration};

use serde_json::json;
use sha2::{Digest, Sha256};
use worker_session::{Identity, RegistrationState, SessionError, SessionState};
use worker_wire::Secret;

use crate::support::*;

const APPROVED: &str = r#"{"status":"approved","workerId":"w-1","authToken":"tok"}"#;

/// SHA-256 of the secret's text, as the protocol wants it: of the hex digits, not of the bytes they stand for.
fn hash_of(secret: &str) -> String {
    let hash = hex::encode(Sha256::digest(secret));
    if secret == "a".repeat(64) {
        // A known answer keeps this helper honest.
        let known = "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb";
        assert_eq!(hash, known);
    }
    hash
}

#[tokio::test]
async fn a_first_start_registers_waits_and_connects() {
    let studio = Studio::start().await;
    studio.on_poll(200, r#"{"status":"pending"}"#);
    studio.on_poll(200, r#"{"status":"pending"}"#);
    studio.on_poll(200, APPROVED);
    let mut run = Run::start(&studio, Identity::default());
    run.worker.capabilities.lock().unwrap().auto_enabled = false;
    let mut peer = studio.welcomed().await;

    let ask = studio.calls("register").remove(0);
    assert!(ask.headers.get("authorization").is_none());
    assert!(ask.headers.get("user-agent").is_none());
    assert_eq!(ask.body["userAgent"], "studio-worker/9.9.9");
    assert_eq!(ask.body["capabilities"]["autoEnabled"], true);

    let saved = run.store.saved.lock().unwrap().clone();
    assert_eq!(saved.len(), 3, "before asking, after asking, approved");
    let secret = saved[0]
        .registration_secret
        .clone()
        .unwrap()
        .expose()
        .to_owned();
    assert_eq!(secret.len(), 64);
    assert!(saved[0].registration_request_id.is_none());
    let id = saved[0].install_id.clone().unwrap();
    let groups: Vec<_> = id.split('-').map(str::len).collect();
    assert_eq!(groups, [8, 4, 4, 4, 12]);
    assert_eq!(ask.body["installId"], id);
    assert_eq!(ask.body["registrationSecretHash"], hash_of(&secret));
    assert!(!ask.body.to_string().contains(&secret));
    assert_eq!(saved[1].registration_request_id.as_deref(), Some("rr-1"));
    let expected = Identity {
        install_id: Some(id),
        ..approved()
    };
    assert_eq!(saved[2], expected);

    let polls = studio.calls("poll");
    assert_eq!(polls.len(), 3);
    for poll in &polls {
        assert_eq!(poll.id, "rr-1");
        assert_eq!(poll.headers["authorization"], format!("Bearer {secret}"));
    }
    assert_eq!(
        *run.states.registration().borrow(),
        RegistrationState::Approved
    );
    let batch = peer.expect("logBatch").await;
    let lines = messages(&batch);
    for step in [
        "to register this worker",
        "registration request rr-1 is pending",
        "registration approved; this worker is w-1",
    ] {
        assert!(lines.iter().any(|l| l.contains(step)), "{step}: {lines:?}");
    }
    for secret in [secret.as_str(), "Bearer", "\"tok\""] {
        assert!(!lines.iter().any(|l| l.contains(secret)));
    }
    run.stop_cleanly().await;
}

#[tokio::test]
async fn an_immediate_approval_is_collected_at_once() {
    let studio = Studio::start().await;
    studio.on_register(200, json!({"requestId": "rr-9", "status": "approved"}));
    studio.on_poll(200, APPROVED);
    let _run = Run::with(studio.base(), Identity::default(), |options, _| {
        options.timing.poll = Duration::from_secs(3600);
    });
    studio.welcomed().await;
}

#[tokio::test]
async fn a_request_that_fails_is_made_again_with_the_same_secret() {
    let studio = Studio::start().await;
    let answers = [
        (400, "bad".to_owned()),
        (401, String::new()),
        (403, String::new()),
        (404, String::new()),
        (409, String::new()),
        (429, "slow down".to_owned()),
        (500, "x".repeat(200_000)),
        (302, String::new()),
        (200, "garbage".to_owned()),
        (200, r#"{"status":"pending"}"#.to_owned()),
        (200, r#"{"requestId":"../x","status":"pending"}"#.to_owned()),
        (200, "x".repeat(200_000)),
    ];
    for (status, body) in &answers {
        studio.on_register(*status, body);
    }
    studio.on_poll(200, APPROVED);
    let mut run = Run::start(&studio, Identity::default());
    let mut peer = studio.welcomed().await;
    let asks = studio.calls("register");
    assert_eq!(asks.len(), answers.len() + 1);
    assert!(asks.iter().all(|a| a.body == asks[0].body));
    let lines = messages(&peer.expect("logBatch").await);
    let asking = lines.iter().filter(|l| l.starts_with("asking")).count();
    assert_eq!(asking, 1, "a long outage fills no log: {lines:?}");
    let has = |text: &str| {
        assert!(
            lines.iter().any(|l| l.starts_with(text)),
            "{text}: {lines:?}"
        )
    };
    has("register-request failed: 429 — slow down; trying again");
    has("register-request failed: 500 — ");
    has("register-request failed: the answer is longer than 65536 bytes");
    has("register-request failed: 302 — the studio points to http://127.0.0.1:9/elsewhere");
    assert!(lines.iter().all(|l| l.chars().count() < 500));
    run.stop_cleanly().await;
}

#[tokio::test]
async fn a_poll_that_fails_keeps_the_request() {
    let studio = Studio::start().await;
    let failing = [
        (401, ""),
        (403, ""),
        (409, ""),
        (429, ""),
        (500, ""),
        (307, ""),
        (200, "garbage"),
        (200, r#"{"status":"someday"}"#),
        (200, r#"{"status":"approved","workerId":"w-1"}"#),
        (
            200,
            r#"{"status":"approved","workerId":"a/b","authToken":"t"}"#,
        ),
        (
            200,
            r#"{"status":"approved","workerId":"w-1","authToken":"a\nb"}"#,
        ),
    ];
    for (status, body) in failing {
        studio.on_poll(status, body);
    }
    studio.on_poll(200, APPROVED);
    let run = Run::start(&studio, Identity::default());
    studio.welcomed().await;
    assert_eq!(studio.calls("register").len(), 1);
    let polls = studio.calls("poll");
    assert_eq!(polls.len(), failing.len() + 1);
    assert!(polls.iter().all(|p| p.id == "rr-1"));
    assert_eq!(run.store.saved.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn a_request_that_the_studio_forgot_is_filed_anew() {
    let studio = Studio::start().await;
    studio.on_poll(404, "x".repeat(200_000));
    studio.on_register(200, json!({"requestId": "rr-1", "status": "pending"}));
    studio.on_register(200, json!({"requestId": "rr-2", "status": "pending"}));
    let run = Run::start(&studio, Identity::default());
    let asks = studio.called("register", 2).await;
    assert_eq!(asks[0].body["installId"], asks[1].body["installId"]);
    assert_ne!(
        asks[0].body["registrationSecretHash"],
        asks[1].body["registrationSecretHash"]
    );
    let polls = studio.called("poll", 2).await;
    assert_eq!(polls[1].id, "rr-2");
    drop(run);
}

#[tokio::test]
async fn a_rejection_ends_the_run_with_its_reason() {
    for (body, reason) in [
        (r#"{"status":"rejected","reason":"not ours"}"#, "not ours"),
        (r#"{"status":"rejected"}"#, ""),
    ] {
        let studio = Studio::start().await;
        studio.on_poll(200, body);
        let mut run = Run::start(&studio, Identity::default());
        let error = run.outcome().await.unwrap_err();
        assert!(
            matches!(&error, SessionError::Rejected { reason: r } if r == reason),
            "{error}"
        );
        let text = format!(
            "registration rejected by the studio operator: {reason}. Run `studio-worker register --reset`"
        );
        assert!(error.to_string().starts_with(&text), "{error}");
        let last = run.store.last();
        assert!(last.install_id.is_some());
        assert!(last.registration_request_id.is_none() && last.registration_secret.is_none());
        let state = run.states.registration().borrow().clone();
        assert_eq!(
            state,
            RegistrationState::Rejected {
                reason: reason.to_owned()
            }
        );
    }
}

#[tokio::test]
async fn a_stop_while_waiting_is_a_clean_end() {
    let studio = Studio::start().await;
    let mut run = Run::start(&studio, Identity::default());
    studio.called("poll", 2).await;
    let state = run.states.session().borrow().clone();
    assert!(matches!(state, SessionState::WaitingForApproval { .. }));
    run.stop_cleanly().await;
    assert_eq!(*run.states.session().borrow(), SessionState::Stopped);
    // And the next start polls the same request.
    let again = Run::start(&studio, run.store.last());
    let seen = studio.calls("poll").len();
    studio.called("poll", seen + 1).await;
    assert_eq!(studio.calls("register").len(), 1);
    drop(again);
}

#[tokio::test]
async fn a_stop_before_the_start_asks_nobody() {
    let studio = Studio::start().await;
    for identity in [Identity::default(), approved()] {
        let mut run = Run::start(&studio, identity);
        // The run has not been polled yet: tests have one thread.
        run.stop.cancel();
        run.outcome().await.unwrap();
    }
    assert!(studio.calls("register").is_empty() && studio.calls("connect").is_empty());
}

#[tokio::test]
async fn pending_since_is_when_it_was_first_seen() {
    let studio = Studio::start().await;
    let run = Run::start(&studio, Identity::default());
    studio.called("poll", 1).await;
    let first = run.states.registration().borrow().clone();
    assert!(
        matches!(&first, RegistrationState::Pending { request_id, since }
        if request_id == "rr-1" && since.ends_with('Z'))
    );
    studio.called("poll", 5).await;
    assert_eq!(*run.states.registration().borrow(), first);
    let json = serde_json::to_value(&first).unwrap();
    assert_eq!(json["state"], "pending");
    assert_eq!(json["requestId"], "rr-1");
}

fn half(change: impl FnOnce(&mut Identity)) -> Identity {
    let mut identity = Identity {
        install_id: Some("install".to_owned()),
        registration_secret: Some(Secret::new("a".repeat(64))),
        registration_request_id: Some("rr-old".to_owned()),
        ..Identity::default()
    };
    change(&mut identity);
    identity
}

#[tokio::test]
async fn a_request_without_its_secret_is_filed_anew() {
    for broken in [None, Some(Secret::new("")), Some(Secret::new("a\nb"))] {
        let studio = Studio::start().await;
        let run = Run::start(&studio, half(|i| i.registration_secret = broken));
        let poll = studio.called("poll", 1).await.remove(0);
        assert_eq!(poll.id, "rr-1");
        let ask = studio.calls("register").remove(0);
        assert_eq!(ask.body["installId"], "install");
        drop(run);
    }
}

#[tokio::test]
async fn a_secret_without_a_request_is_used_again() {
    for none in [None, Some(String::new())] {
        let studio = Studio::start().await;
        let run = Run::start(&studio, half(|i| i.registration_request_id = none));
        let ask = studio.called("register", 1).await.remove(0);
        assert_eq!(ask.body["registrationSecretHash"], hash_of(&"a".repeat(64)));
        drop(run);
    }
}

#[tokio::test]
async fn a_request_with_its_secret_is_polled_at_once() {
    for install in [None, Some("install".to_owned())] {
        let studio = Studio::start().await;
        studio.on_poll(200, APPROVED);
        let _run = Run::with(
            studio.base(),
            half(|i| i.install_id = install),
            |options, _| options.timing.poll = Duration::from_secs(3600),
        );
        studio.welcomed().await;
        assert!(studio.calls("register").is_empty());
        assert_eq!(studio.calls("poll")[0].id, "rr-old");
    }
}

#[tokio::test]
async fn half_an_identity_is_none() {
    for (id, token) in [
        (Some("w-1"), None),
        (Some("w-1"), Some("")),
        (None, Some("t")),
        (Some(""), Some("t")),
    ] {
        let studio = Studio::start().await;
        let identity = Identity {
            worker_id: id.map(str::to_owned),
            auth_token: token.map(Secret::new),
            ..Identity::default()
        };
        let run = Run::start(&studio, identity);
        studio.called("register", 1).await;
        assert!(studio.calls("connect").is_empty());
        drop(run);
    }
}

#[tokio::test]
async fn an_identity_that_cannot_be_sent_ends_the_run() {
    for (id, token) in [("../x", "t"), ("w-1", "a\nb")] {
        let studio = Studio::start().await;
        let identity = Identity {
            worker_id: Some(id.to_owned()),
            auth_token: Some(Secret::new(token)),
            ..Identity::default()
        };
        let mut run = Run::start(&studio, identity);
        let error = run.outcome().await.unwrap_err();
        assert!(matches!(&error, SessionError::AuthFailed { .. }), "{error}");
        assert!(!error.to_string().contains("a\nb"));
        assert!(studio.calls("connect").is_empty());
    }
}

#[tokio::test]
async fn nothing_is_asked_before_the_secret_is_saved() {
    let studio = Studio::start().await;
    let run = Run::with(studio.base(), Identity::default(), |_, store| {
        store.broken.store(3, Ordering::Relaxed);
    });
    studio.called("poll", 1).await;
    assert_eq!(studio.calls("register").len(), 1);
    let secret = run.store.saved.lock().unwrap()[0]
        .registration_secret
        .clone()
        .unwrap();
    let ask = studio.calls("register").remove(0);
    assert_eq!(ask.body["registrationSecretHash"], hash_of(secret.expose()));
}

#[tokio::test]
async fn an_approval_that_cannot_be_saved_is_served_from_memory() {
    let studio = Studio::start().await;
    studio.on_poll(200, APPROVED);
    let mut run = Run::with(studio.base(), half(|_| {}), |_, store| {
        store.broken.store(1, Ordering::Relaxed)
    });
    let mut peer = studio.welcomed().await;
    logged(&mut peer, "could not be saved: the disk is full").await;
    run.stop_cleanly().await;
    assert!(run.store.saved.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_refusal_that_repeats_the_secret_is_quoted_without_it() {
    let studio = Studio::start().await;
    studio.on_poll(401, "hush-hush is not the secret");
    studio.on_poll(200, APPROVED);
    let identity = Identity {
        install_id: Some("i-1".to_owned()),
        registration_request_id: Some("rr-1".to_owned()),
        registration_secret: Some(Secret::new("hush-hush")),
        ..Identity::default()
    };
    let mut run = Run::start(&studio, identity);
    let mut peer = studio.welcomed().await;
    let lines = messages(&peer.expect("logBatch").await);
    let quoted = "register-poll failed: 401 — <secret> is not the secret; trying again";
    assert!(lines.iter().any(|line| line == quoted), "{lines:?}");
    assert!(!lines.concat().contains("hush-hush"));
    run.stop_cleanly().await;
}
