//! Each row of the status, error and close-code tables of the socket.

use std::{num::NonZeroU32, time::Duration};

use serde_json::json;

use worker_session::{Identity, SessionError, SessionState};
use worker_wire::ErrorCode;

use crate::support::*;

#[tokio::test]
async fn error_frames_that_end_the_run() {
    for welcomed in [false, true] {
        for (code, reason) in [
            ("auth_failed", "auth failed"),
            ("protocol_violation", "session ended"),
            ("internal_error", "session ended"),
        ] {
            let studio = Studio::start().await;
            let mut run = Run::start(&studio, approved());
            let mut peer = studio.peer().await;
            peer.expect("hello").await;
            if welcomed {
                peer.send(welcome()).await;
            }
            peer.error(code).await;
            // The frame wins over the close that follows it.
            peer.close(1000).await;
            let error = run.outcome().await.unwrap_err();
            match code {
                "auth_failed" => assert!(matches!(error, SessionError::AuthFailed { .. })),
                _ => {
                    let expected = ErrorCode::from_wire(code);
                    let SessionError::Fatal { code, message } = error else {
                        panic!("{error}")
                    };
                    assert_eq!((code, message.as_str()), (expected, "because"));
                }
            }
            assert_eq!(studio.calls("connect").len(), 1, "{code} {reason}");
            let state = run.states.session().borrow().clone();
            match code {
                "auth_failed" => assert!(matches!(state, SessionState::AuthFailed { .. })),
                _ => assert!(matches!(state, SessionState::Fatal { .. })),
            }
            assert_eq!(run.store.saved.lock().unwrap().len(), 0);
        }
    }
}

#[tokio::test]
async fn the_workers_own_close_says_why() {
    for (code, before, after) in [
        ("auth_failed", "auth failed", "auth failed"),
        ("protocol_violation", "protocol violation", "session ended"),
        ("internal_error", "protocol violation", "session ended"),
        (
            "worker_deleted",
            "registration revoked",
            "registration revoked",
        ),
        ("duplicate_worker", "session ended", "session ended"),
    ] {
        for (welcomed, reason) in [(false, before), (true, after)] {
            let studio = Studio::start().await;
            let _run = Run::start(&studio, approved());
            let mut peer = studio.peer().await;
            peer.expect("hello").await;
            if welcomed {
                peer.send(welcome()).await;
            }
            peer.error(code).await;
            peer.closed_with(reason).await;
        }
    }
}

#[tokio::test]
async fn an_unknown_error_ends_nothing() {
    let studio = Studio::start().await;
    let run = Run::start(&studio, approved());
    let mut peer = studio.peer().await;
    peer.expect("hello").await;
    peer.error("tea_break").await;
    peer.send(welcome()).await;
    peer.error("tea_break").await;
    peer.offer("j").await;
    peer.expect("accept").await;
    assert!(!run.task.is_finished());
}

#[tokio::test]
async fn close_codes_that_mean_another_attempt() {
    for code in [1000, 1001, 1011, 4002, 4999] {
        let studio = Studio::start().await;
        let mut run = Run::start(&studio, approved());
        let mut peer = studio.welcomed().await;
        peer.close(code).await;
        let mut peer = studio.welcomed().await;
        let line = logged(&mut peer, "disconnected").await;
        assert!(line.contains(&format!("close {code}: because")), "{line}");
        assert!(
            line.contains("reconnect attempt 1 in"),
            "the count starts anew: {line}"
        );
        for told in [Told::Welcomed, Told::Ended, Told::Welcomed] {
            assert_eq!(run.told().await, told);
        }
        run.stop_cleanly().await;
    }
}

#[tokio::test]
async fn a_hang_up_without_a_code_means_another_attempt() {
    let studio = Studio::start().await;
    let _run = Run::start(&studio, approved());
    let mut peer = studio.welcomed().await;
    peer.socket
        .send(axum::extract::ws::Message::Close(None))
        .await
        .unwrap();
    let peer = studio.welcomed().await;
    drop(peer);
    let mut peer = studio.peer().await;
    peer.expect("hello").await;
    drop(peer);
    studio.welcomed().await;
}

#[tokio::test]
async fn close_4001_ends_the_run() {
    let studio = Studio::start().await;
    let mut run = Run::start(&studio, approved());
    studio.welcomed().await.close(4001).await;
    let error = run.outcome().await.unwrap_err();
    assert!(matches!(error, SessionError::AuthFailed { reason } if reason.contains("4001")));
}

#[tokio::test]
async fn a_second_worker_makes_this_one_wait_long() {
    for by_frame in [true, false] {
        let studio = Studio::start().await;
        let run = Run::with(studio.base(), approved(), |options, _| {
            options.timing.duplicate = Duration::from_secs(3600);
        });
        let mut peer = studio.welcomed().await;
        if by_frame {
            peer.error("duplicate_worker").await;
        }
        peer.close(4003).await;
        let mut state = run.states.session();
        let attempt = SessionState::Reconnecting { attempt: 1 };
        soon("the wait", state.wait_for(|s| *s == attempt))
            .await
            .unwrap();
        // Ordinary pauses are over in 10 ms here.
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(studio.calls("connect").len(), 1);
        assert!(!run.task.is_finished());
    }
    // And then it comes back.
    let studio = Studio::start().await;
    let _run = Run::start(&studio, approved());
    studio.welcomed().await.error("duplicate_worker").await;
    studio.welcomed().await;
}

#[tokio::test]
async fn a_removed_worker_registers_anew() {
    for how in ["404", "frame before", "frame after", "close 4004"] {
        let studio = Studio::start().await;
        if how == "404" {
            studio.refuse(404, "worker not found");
        }
        let mut run = Run::start(&studio, approved());
        match how {
            "frame before" => {
                let mut peer = studio.peer().await;
                peer.expect("hello").await;
                peer.error("worker_deleted").await;
            }
            "frame after" => studio.welcomed().await.error("worker_deleted").await,
            "close 4004" => studio.welcomed().await.close(4004).await,
            _ => {}
        }
        let ask = studio.called("register", 1).await.remove(0);
        let saved = run.store.saved.lock().unwrap().clone();
        assert_eq!(
            saved[0],
            Identity::default(),
            "{how}: the old identity is gone"
        );
        assert_ne!(ask.body["installId"], "install", "{how}");
        assert!(!run.task.is_finished(), "{how}");
        studio.on_poll(
            200,
            r#"{"status":"approved","workerId":"w-2","authToken":"tok-2"}"#,
        );
        let mut peer = studio.peer().await;
        assert_eq!(peer.frame().await["authToken"], "tok-2");
        peer.send(welcome()).await;
        logged(&mut peer, "the studio removed this worker").await;
        run.stop_cleanly().await;
    }
}

#[tokio::test]
async fn upgrade_401_ends_the_run() {
    let studio = Studio::start().await;
    studio.refuse(401, "no");
    let mut run = Run::start(&studio, approved());
    let error = run.outcome().await.unwrap_err();
    assert!(
        matches!(&error, SessionError::AuthFailed { reason } if reason == "401 on websocket upgrade — no"),
        "{error}"
    );
    assert!(error.to_string().contains("register --reset"));
}

#[tokio::test]
async fn other_refusals_are_tried_again_and_quoted() {
    let studio = Studio::start().await;
    let long = format!("id tok {}", "é".repeat(400));
    for status in [200, 302, 403, 409, 429, 500, 503] {
        studio.refuse(status, &long);
    }
    studio.on_upgrade(Upgrade::WithoutSubprotocol);
    let mut run = Run::start(&studio, approved());
    // The connection without sub-protocol, which the worker hangs up on without a word.
    let (frames, _) = studio.peer().await.end().await;
    assert!(frames.is_empty(), "{frames:?}");
    let mut peer = studio.welcomed().await;
    let batch = peer.expect("logBatch").await;
    let lines: Vec<_> = messages(&batch)
        .into_iter()
        .filter(|m| m.starts_with("disconnected"))
        .collect();
    assert_eq!(lines.len(), 8);
    for (n, status) in [200, 302, 403, 409, 429, 500, 503].into_iter().enumerate() {
        let line = &lines[n];
        assert!(
            line.contains(&format!("({status} on websocket upgrade — id <secret> ééé")),
            "{line}"
        );
        assert!(
            line.contains(&format!("reconnect attempt {}", n + 1)),
            "{line}"
        );
        assert!(line.chars().count() < 420, "{line}");
    }
    assert!(lines[7].contains("SubProtocol"), "{}", lines[7]);
    run.stop_cleanly().await;
    assert_eq!(run.store.saved.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn attempts_are_unlimited_unless_capped() {
    let studio = Studio::start().await;
    for _ in 0..25 {
        studio.refuse(500, "");
    }
    let mut run = Run::start(&studio, approved());
    studio.welcomed().await;
    run.stop_cleanly().await;

    let studio = Studio::start().await;
    for _ in 0..10 {
        studio.refuse(500, "down");
    }
    let mut run = Run::with(studio.base(), approved(), |options, _| {
        options.reconnect_attempts = NonZeroU32::new(3);
    });
    let error = run.outcome().await.unwrap_err();
    assert!(
        error.to_string().contains("ws reconnect cap reached"),
        "{error}"
    );
    assert!(matches!(error, SessionError::ReconnectCap { attempts, .. } if attempts.get() == 3));
    assert_eq!(studio.calls("connect").len(), 4);
}

#[tokio::test]
async fn a_welcome_resets_the_count() {
    let studio = Studio::start().await;
    let mut run = Run::with(studio.base(), approved(), |options, _| {
        options.reconnect_attempts = NonZeroU32::new(2);
    });
    for _ in 0..4 {
        studio.refuse(500, "");
        drop(studio.welcomed().await);
    }
    assert!(!run.task.is_finished());
    studio.welcomed().await;
    run.stop_cleanly().await;
}

#[tokio::test]
async fn a_stop_ends_a_long_pause() {
    let studio = Studio::start().await;
    studio.refuse(500, "");
    let mut run = Run::with(studio.base(), approved(), |options, _| {
        options.timing.backoff_first = Duration::from_secs(3600);
        options.timing.backoff_cap = Duration::from_secs(3600);
    });
    let mut state = run.states.session();
    soon(
        "the pause",
        state.wait_for(|s| matches!(s, SessionState::Reconnecting { .. })),
    )
    .await
    .unwrap();
    run.stop_cleanly().await;
}

#[tokio::test]
async fn a_studio_that_repeats_the_token_is_quoted_without_it() {
    let studio = Studio::start().await;
    let mut run = Run::start(&studio, approved());
    let mut peer = studio.welcomed().await;
    peer.send(json!({"type": "error", "code": "odd", "message": "tok is odd"}))
        .await;
    logged(
        &mut peer,
        "the studio reports odd: <secret> is odd; going on",
    )
    .await;
    run.stop_cleanly().await;
}
