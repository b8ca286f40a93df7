//! What goes over a healthy session, and in which order.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use worker_session::{LOG_QUEUE_LINES, SessionState};
use worker_wire::{Extension, LogEntry, LogLevel, WorkerFrame};

use crate::support::*;

#[tokio::test]
async fn the_upgrade_and_hello_say_who_the_worker_is() {
    let studio = Studio::start().await;
    let run = Run::start(&studio, approved());
    let mut peer = studio.peer().await;
    let hello = peer.frame().await;
    assert_eq!(hello["type"], "hello");
    assert_eq!(hello["authToken"], "tok");
    assert_eq!(
        hello["capabilities"]["extensions"],
        json!([
            "progress",
            "jobCancel",
            "resume",
            "pluginUpdate",
            "pluginStatus",
            "servedBy"
        ])
    );
    let call = studio.calls("connect").remove(0);
    assert_eq!(call.id, "w-1");
    assert_eq!(call.headers["authorization"], "Bearer tok");
    assert_eq!(call.headers["sec-websocket-protocol"], "studio-worker-v1");
    assert!(call.headers.get("user-agent").is_none());
    assert!(studio.calls("register").is_empty());
    drop(run);
}

#[tokio::test]
async fn nothing_but_hello_comes_before_welcome() {
    let studio = Studio::start().await;
    let mut run = Run::start(&studio, approved());
    let mut peer = studio.peer().await;
    assert_eq!(peer.frame().await["type"], "hello");
    // Dropped, and many heartbeat periods long nothing is sent.
    peer.offer("early").await;
    peer.send(json!({"type": "heartbeatAck"})).await;
    let silence = tokio::time::timeout(Duration::from_millis(150), peer.socket.recv()).await;
    assert!(silence.is_err(), "{silence:?}");
    assert_eq!(*run.states.session().borrow(), SessionState::Connecting);
    peer.send(welcome()).await;
    assert_eq!(peer.frame().await["type"], "heartbeat");
    let line = logged(&mut peer, "before welcome").await;
    assert!(line.contains("offer"), "{line}");
    assert_eq!(run.told().await, Told::Welcomed);
    peer.offer("late").await;
    assert_eq!(run.told().await, Told::Offer("late".to_owned()));
    assert_eq!(*run.states.session().borrow(), SessionState::Connected);
}

#[tokio::test]
async fn heartbeats_are_live() {
    let studio = Studio::start().await;
    let run = Run::start(&studio, approved());
    let mut peer = studio.welcomed().await;
    let first = peer.expect("heartbeat").await;
    assert_eq!(first["capabilities"]["autoEnabled"], true);
    assert!(first.get("currentJobId").is_none());
    run.worker.capabilities.lock().unwrap().auto_enabled = false;
    *run.worker.job.lock().unwrap() = Some("j-1".to_owned());
    let changed = soon("a live heartbeat", async {
        loop {
            let beat = peer.expect("heartbeat").await;
            if beat["currentJobId"] == "j-1" {
                return beat;
            }
        }
    });
    assert_eq!(changed.await["capabilities"]["autoEnabled"], false);
    let mark = run.states.heartbeat().borrow().clone().unwrap();
    assert_eq!(mark.outcome, "ok");
}

#[tokio::test]
async fn extensions_are_those_that_both_sides_listed() {
    let studio = Studio::start().await;
    let mut run = Run::start(&studio, approved());
    let mut peer = studio.peer().await;
    peer.expect("hello").await;
    let mut greeting = welcome();
    greeting["extensions"] = json!(["resume", "teaBreak"]);
    peer.send(greeting).await;
    run.told().await;
    let link = run.worker.links.lock().unwrap()[0].clone();
    assert!(link.speaks(Extension::Resume));
    assert!(!link.speaks(Extension::Progress) && !link.speaks(Extension::JobCancel));
    assert_eq!(link.account().worker_id, "w-1");
}

#[tokio::test]
async fn frames_of_the_link_keep_their_order() {
    let studio = Studio::start().await;
    let mut run = Run::start(&studio, approved());
    let mut peer = studio.welcomed().await;
    run.told().await;
    let link = run.worker.links.lock().unwrap()[0].clone();
    for n in 0..500 {
        let frame = WorkerFrame::Accept {
            job_id: n.to_string(),
        };
        link.send(frame).await.unwrap();
    }
    for n in 0..500 {
        assert_eq!(peer.expect("accept").await["jobId"], n.to_string());
    }
}

#[tokio::test]
async fn acknowledgements_reach_the_worker() {
    let studio = Studio::start().await;
    let mut run = Run::start(&studio, approved());
    let mut peer = studio.welcomed().await;
    run.told().await;
    peer.send(json!({"type": "completeAck", "jobId": "a"}))
        .await;
    peer.send(json!({"type": "failAck", "jobId": "b"})).await;
    peer.send(json!({"type": "jobCancel", "jobId": "c"})).await;
    assert_eq!(run.told().await, Told::CompleteAck("a".to_owned()));
    assert_eq!(run.told().await, Told::FailAck("b".to_owned()));
    assert_eq!(run.told().await, Told::Cancel("c".to_owned()));
}

#[tokio::test]
async fn a_stop_sends_what_is_queued_and_closes() {
    let studio = Studio::start().await;
    let mut run = Run::with(studio.base(), approved(), |options, _| {
        // Nothing is flushed by the clock.
        options.timing.log_flush = Duration::from_secs(3600);
    });
    let mut peer = studio.welcomed().await;
    run.told().await;
    peer.expect("logBatch").await;
    let link = run.worker.links.lock().unwrap()[0].clone();
    run.log.push(LogEntry::now(
        LogLevel::Info,
        "test",
        "last line".to_owned(),
        None,
    ));
    let fail = WorkerFrame::Fail {
        job_id: "j".to_owned(),
        error: "stopped".to_owned(),
        retryable: true,
    };
    link.send(fail).await.unwrap();
    run.stop.cancel();
    let (frames, close) = peer.end().await;
    assert_eq!(close, Some((1000, "session ended".to_owned())));
    let kinds = |kind: &str| -> Vec<Value> {
        let of_kind = frames.iter().filter(|f| f["type"] == kind);
        of_kind.cloned().collect()
    };
    assert_eq!(kinds("fail").len(), 1);
    let lines: Vec<_> = kinds("logBatch").iter().flat_map(messages).collect();
    assert!(lines.contains(&"last line".to_owned()), "{lines:?}");
    run.outcome().await.unwrap();
    assert_eq!(run.told().await, Told::Ended);
    assert_eq!(*run.states.session().borrow(), SessionState::Stopped);
    assert!(link.ended());
}

#[tokio::test]
async fn a_stop_is_seen_while_waiting_for_welcome() {
    let studio = Studio::start().await;
    let mut run = Run::start(&studio, approved());
    let mut peer = studio.peer().await;
    peer.expect("hello").await;
    run.stop.cancel();
    peer.closed_with("session ended").await;
    run.outcome().await.unwrap();
    assert!(run.told.try_recv().is_err(), "the worker heard of it");
}

#[tokio::test]
async fn a_dropped_run_leaves_nothing_open() {
    let studio = Studio::start().await;
    let mut run = Run::start(&studio, approved());
    let mut peer = studio.welcomed().await;
    assert_eq!(run.told().await, Told::Welcomed);
    let worker = Arc::downgrade(&run.worker);
    run.task.abort();
    assert_eq!(run.told().await, Told::Ended);
    let (_, close) = peer.end().await;
    assert_eq!(close, None);
    drop(run);
    soon("the worker's release", async {
        while worker.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_log_queue_is_bounded_and_says_what_it_lost() {
    let studio = Studio::start().await;
    let mut run = Run::start(&studio, approved());
    let mut peer = studio.peer().await;
    peer.expect("hello").await;
    let pushed = LOG_QUEUE_LINES + 1000;
    for n in 0..pushed {
        run.log.push(LogEntry::now(
            LogLevel::Info,
            "test",
            n.to_string(),
            Some("j".to_owned()),
        ));
    }
    peer.send(welcome()).await;
    let last = (pushed - 1).to_string();
    let mut entries = Vec::new();
    while !entries.iter().any(|e: &Value| e["message"] == last) {
        let batch = peer.expect("logBatch").await;
        entries.extend(batch["entries"].as_array().unwrap().clone());
    }
    assert_eq!(entries[0]["category"], "logs");
    assert_eq!(entries[0]["level"], "warn");
    let lost: usize = entries[0]["message"]
        .as_str()
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let kept = entries.iter().filter(|e| e["category"] == "test").count();
    assert!(kept <= LOG_QUEUE_LINES);
    let own = entries.iter().filter(|e| e["category"] == "ws").count();
    assert!(own >= 1, "the worker's own newest lines are there");
    // The session's two first lines (connecting, advertising) are among the lost.
    assert_eq!(kept + lost, pushed + 2);
    assert_eq!(entries[1]["jobId"], "j");
    run.stop_cleanly().await;
}

#[tokio::test]
async fn lines_of_a_broken_session_arrive_in_the_next() {
    let studio = Studio::start().await;
    let run = Run::start(&studio, approved());
    let peer = studio.welcomed().await;
    drop(peer);
    let mut state = run.states.session();
    soon(
        "the loss of the session",
        state.wait_for(|s| matches!(s, SessionState::Reconnecting { .. })),
    )
    .await
    .unwrap();
    run.log.push(LogEntry::now(
        LogLevel::Warn,
        "test",
        "between sessions".to_owned(),
        None,
    ));
    let mut peer = studio.welcomed().await;
    let line = logged(&mut peer, "reconnect attempt 1 in").await;
    assert!(line.starts_with("disconnected ("), "{line}");
    logged_or_seen(&mut peer, &run).await;
}

/// The line may have come in the same batch as the one before.
async fn logged_or_seen(peer: &mut Peer, run: &Run) {
    soon("an empty queue", async {
        while run.log.waiting() > 0 {
            peer.frame().await;
        }
    })
    .await;
}
