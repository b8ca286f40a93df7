//! Studios that are none.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use worker_tests::wait::{rows, until};
use worker_tests::{Home, ScriptedStudio, offers};

/// Listens, says the same to everybody, and counts the connections. With nothing to say it keeps them open.
async fn listener(says: &'static [u8]) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut asked = [0; 4096];
                if says.is_empty() {
                    // Until the other side gives up.
                    while stream.read(&mut asked).await.is_ok_and(|read| read > 0) {}
                    return;
                }
                let _ = stream.read(&mut asked).await;
                let _ = stream.write_all(says).await;
            });
        }
    });
    (base, count)
}

#[tokio::test]
async fn garbage_and_silence_are_borne_and_tried_again() {
    let answers: [&'static [u8]; 7] = [
        b"",
        b"\x00\x01\x02 garbage\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nx",
        b"HTTP/1.1 999 \xff\xfe\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: wrong\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
    ];
    rows(answers.map(|answer| {
        (String::from_utf8_lossy(answer).into_owned(), async move {
            let (base, count) = listener(answer).await;
            let home = Home::approved(&base);
            let worker = home.start();
            until("a second attempt", || {
                (count.load(Ordering::SeqCst) >= 2).then_some(())
            })
            .await;
            let printed = worker.lines().join("\n");
            assert!(!printed.contains("panicked"), "{printed}");
            worker
                .status("it waits", |status| {
                    matches!(
                        status["session"]["state"].as_str(),
                        Some("reconnecting" | "connecting")
                    )
                })
                .await;
            worker.stop().await;
        })
    }))
    .await;
}

#[tokio::test]
async fn a_register_route_that_talks_nonsense_is_borne() {
    let answers: [&'static [u8]; 3] = [
        b"nonsense",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz",
    ];
    rows(answers.map(|answer| {
        (String::from_utf8_lossy(answer).into_owned(), async move {
            let (base, count) = listener(answer).await;
            let home = Home::unregistered(&base);
            let worker = home.start();
            until("a second attempt", || {
                (count.load(Ordering::SeqCst) >= 2).then_some(())
            })
            .await;
            worker.stop().await;
        })
    }))
    .await;
}

/// A message above the bound costs the session, not the worker.
#[tokio::test]
async fn a_frame_beyond_the_bound_is_not_taken_in() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let _worker = home.start();
    let mut peer = studio.welcomed().await;
    peer.expect("heartbeat").await;
    let huge = format!("{{\"type\":\"tea\",\"x\":\"{}\"}}", "x".repeat(17 << 20));
    // It may hang up before it has read all of it.
    let _ = tokio::time::timeout(worker_tests::wait::LIMIT, peer.try_text(&huge)).await;
    drop(peer);
    let mut peer = studio.welcomed().await;
    peer.accepted(&offers::chat("job-1", "hi")).await;
    peer.expect_result().await;
}

#[tokio::test]
async fn a_flood_of_nonsense_ends_the_session_not_the_worker() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let _worker = home.start();
    let mut peer = studio.welcomed().await;
    for _ in 0..200 {
        if peer.try_text("nonsense").await.is_err() {
            break;
        }
    }
    peer.closed_with("session ended").await;
    let mut peer = studio.welcomed().await;
    peer.accepted(&offers::chat("job-1", "hi")).await;
    peer.expect_result().await;
}
