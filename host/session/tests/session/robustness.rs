//! A studio that is broken, hostile, newer than the worker, or not there.

use std::{collections::BTreeSet, time::Duration};

use axum::extract::ws::Message;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use worker_session::{LOG_LINE_BYTES, SessionError, SessionState};
use worker_wire::{ApiBase, LogEntry, LogLevel};

use crate::support::*;

#[tokio::test]
async fn what_is_not_known_ends_nothing() {
    let studio = Studio::start().await;
    let mut run = Run::start(&studio, approved());
    let mut peer = studio.welcomed().await;
    run.told().await;
    for n in 0..20 {
        peer.send(json!({"type": "teaBreak", "minutes": n})).await;
    }
    for _ in 0..5 {
        peer.text("nonsense").await;
        peer.send(json!({"type": "completeAck", "jobId": 7})).await;
        peer.send(json!({"type": "jobCancel", "jobId": "../x"}))
            .await;
        peer.socket
            .send(Message::Binary(vec![1, 2, 3].into()))
            .await
            .unwrap();
        peer.socket
            .send(Message::Ping(vec![1].into()))
            .await
            .unwrap();
        peer.send(welcome()).await;
        peer.send(json!({"type": "heartbeatAck", "extra": null}))
            .await;
    }
    peer.offer("j").await;
    peer.expect("accept").await;
    assert_eq!(run.told().await, Told::Offer("j".to_owned()));
    assert_eq!(studio.calls("connect").len(), 1);
}

#[tokio::test]
async fn oddities_are_shipped_once_each() {
    let studio = Studio::start().await;
    let mut run = Run::with(studio.base(), approved(), |options, _| {
        options.timing.log_flush = Duration::from_secs(3600);
    });
    let mut peer = studio.welcomed().await;
    run.told().await;
    peer.expect("logBatch").await;
    for _ in 0..5 {
        peer.text("nonsense").await;
        peer.send(json!({"type": "teaBreak"})).await;
        peer.socket
            .send(Message::Binary(vec![1].into()))
            .await
            .unwrap();
    }
    peer.send(json!({"type": "failAck", "jobId": "mark"})).await;
    assert_eq!(run.told().await, Told::FailAck("mark".to_owned()));
    run.stop.cancel();
    let (frames, _) = peer.end().await;
    let lines: Vec<_> = frames
        .iter()
        .filter(|f| f["type"] == "logBatch")
        .flat_map(messages)
        .collect();
    for kind in ["teaBreak", "binary", "not a JSON object"] {
        let count = lines.iter().filter(|l| l.contains(kind)).count();
        assert_eq!(count, 1, "{kind}: {lines:?}");
    }
}

#[tokio::test]
async fn a_flood_of_nonsense_ends_the_session_and_not_the_run() {
    let studio = Studio::start().await;
    let mut run = Run::start(&studio, approved());
    let mut peer = studio.welcomed().await;
    for _ in 0..99 {
        peer.text("nonsense").await;
    }
    peer.offer("still-there").await;
    peer.expect("accept").await;
    peer.text("nonsense").await;
    peer.closed_with("session ended").await;
    let mut peer = studio.welcomed().await;
    logged(&mut peer, "100 messages that make no sense").await;
    run.stop_cleanly().await;
}

#[tokio::test]
async fn a_flood_before_welcome_ends_the_session() {
    let studio = Studio::start().await;
    let _run = Run::start(&studio, approved());
    let mut peer = studio.peer().await;
    for _ in 0..100 {
        peer.send(json!({"type": "heartbeatAck"})).await;
    }
    peer.closed_with("session ended").await;
    studio.welcomed().await;
}

#[tokio::test]
async fn a_message_beyond_the_limit_ends_the_session_and_not_the_run() {
    let studio = Studio::start().await;
    let _run = Run::start(&studio, approved());
    let mut peer = studio.welcomed().await;
    let huge = "x".repeat(worker_wire::MAX_FRAME_BYTES + 1);
    // The worker may hang up while this is still being written.
    let _ = peer.socket.send(Message::text(huge)).await;
    let mut next = studio.welcomed().await;
    logged(&mut next, "the connection broke").await;
}

#[tokio::test]
async fn a_silent_studio_is_taken_for_dead_though_pings_arrive() {
    for welcomed in [false, true] {
        let studio = Studio::start().await;
        let run = Run::with(studio.base(), approved(), |options, _| {
            options.timing.read_idle = Duration::from_millis(200);
        });
        let mut silent = studio.peer().await;
        silent.expect("hello").await;
        if welcomed {
            silent.send(welcome()).await;
        }
        let pinging = async {
            while silent
                .socket
                .send(Message::Ping(vec![1].into()))
                .await
                .is_ok()
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let next = tokio::select! {
            peer = studio.peer() => peer,
            () = pinging => studio.peer().await,
        };
        drop(next);
        assert!(!run.task.is_finished());
    }
}

#[tokio::test]
async fn frames_keep_a_session_alive() {
    let studio = Studio::start().await;
    let _run = Run::with(studio.base(), approved(), |options, _| {
        options.timing.read_idle = Duration::from_millis(600);
    });
    let mut peer = studio.welcomed().await;
    for _ in 0..15 {
        peer.send(json!({"type": "laterFrame"})).await;
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    assert_eq!(studio.calls("connect").len(), 1);
}

#[tokio::test]
async fn a_studio_that_stops_reading_is_given_up() {
    let studio = Studio::start().await;
    let run = Run::with(studio.base(), approved(), |options, _| {
        options.timing.write = Duration::from_millis(200);
        options.timing.close = Duration::from_millis(100);
    });
    let mut deaf = studio.welcomed().await;
    // More per heartbeat than socket buffers hold for long.
    run.worker.capabilities.lock().unwrap().machine_name = "x".repeat(4 * 1024 * 1024);
    let talking = async {
        while deaf
            .socket
            .send(Message::text(r#"{"type":"heartbeatAck"}"#))
            .await
            .is_ok()
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = studio.called("connect", 2) => {}
        () = talking => {}
    }
}

#[tokio::test]
async fn what_the_studio_says_counts_more_than_a_failed_write() {
    let studio = Studio::start().await;
    let mut run = Run::with(studio.base(), approved(), |options, _| {
        options.timing.write = Duration::from_millis(100);
        options.timing.linger = SOON;
        options.timing.close = Duration::from_millis(100);
    });
    let mut deaf = studio.welcomed().await;
    run.worker.capabilities.lock().unwrap().machine_name = "x".repeat(4 * 1024 * 1024);
    let mut beats = run.states.heartbeat();
    let failed = beats.wait_for(|mark| mark.as_ref().is_some_and(|m| m.outcome != "ok"));
    soon("a failed heartbeat", failed).await.unwrap();
    deaf.error("auth_failed").await;
    let error = run.outcome().await.unwrap_err();
    assert!(matches!(error, SessionError::AuthFailed { .. }), "{error}");
}

#[tokio::test]
async fn no_line_is_lost_with_a_session_that_stalls() {
    let studio = Studio::start().await;
    let run = Run::with(studio.base(), approved(), |options, _| {
        options.timing.write = Duration::from_millis(300);
        options.timing.close = Duration::from_millis(50);
    });
    let mut deaf = studio.peer().await;
    deaf.expect("hello").await;
    // Ten times what socket buffers hold.
    let lines = 4000;
    for n in 0..lines {
        let text = format!("{n:04}{}", "x".repeat(LOG_LINE_BYTES - 4));
        let entry = LogEntry::now(LogLevel::Info, "test", text, None);
        run.log.push(entry);
    }
    deaf.send(welcome()).await;
    let mut next = studio.welcomed().await;
    // What had already left arrives late; the rest comes again.
    let (early, _) = deaf.end().await;
    let mut seen = BTreeSet::new();
    let mut see = |batch: &Value| {
        seen.extend(
            messages(batch)
                .iter()
                .filter_map(|m| m.get(..4)?.parse::<u32>().ok()),
        );
        seen.len()
    };
    for batch in early.iter().filter(|f| f["type"] == "logBatch") {
        see(batch);
    }
    while see(&next.expect("logBatch").await) < lines {}
}

#[tokio::test]
async fn an_address_that_never_answers_is_bounded_and_stoppable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let base = ApiBase::parse(&base).unwrap();
    let mut run = Run::with(base.clone(), approved(), |options, _| {
        options.timing.connect = Duration::from_millis(50);
    });
    let first = listener.accept().await.unwrap();
    let second = soon("another attempt", listener.accept()).await.unwrap();
    run.stop_cleanly().await;
    drop((first, second));

    let mut run = Run::with(base, approved(), |_, _| {});
    let held = soon("an attempt", listener.accept()).await.unwrap();
    run.stop_cleanly().await;
    drop(held);
}

#[tokio::test]
async fn garbage_instead_of_http_means_another_attempt() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let mut run = Run::with(ApiBase::parse(&base).unwrap(), approved(), |_, _| {});
    for answer in [
        "\0\0\0\0garbage\r\n\r\n",
        "HTTP/1.1 999 x\r\n\r\n",
        "HTTP/1.1 101 ok\r\n\r\n",
        "",
    ] {
        let (mut stream, _) = soon("an attempt", listener.accept()).await.unwrap();
        let mut request = [0; 64];
        stream.read_exact(&mut request).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
    soon("another attempt", listener.accept()).await.unwrap();
    assert!(!run.task.is_finished());
    run.stop_cleanly().await;
}

#[tokio::test]
async fn an_encrypted_address_with_a_plain_studio_means_another_attempt() {
    let studio = Studio::start().await;
    let base = ApiBase::parse(&format!("https://{}", studio.address)).unwrap();
    let mut run = Run::with(base, approved(), |_, _| {});
    let mut state = run.states.session();
    soon(
        "the second attempt",
        state.wait_for(|s| matches!(s, SessionState::Reconnecting { attempt } if *attempt >= 2)),
    )
    .await
    .unwrap();
    assert!(studio.calls("connect").is_empty(), "the token stays here");
    run.stop_cleanly().await;
}

#[tokio::test]
async fn nobody_listening_means_another_attempt() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let mut run = Run::with(ApiBase::parse(&base).unwrap(), approved(), |_, _| {});
    let mut state = run.states.session();
    soon(
        "the fifth attempt",
        state.wait_for(|s| matches!(s, SessionState::Reconnecting { attempt } if *attempt >= 5)),
    )
    .await
    .unwrap();
    run.stop_cleanly().await;
}
