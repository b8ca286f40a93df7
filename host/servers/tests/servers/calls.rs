//! What comes back, and what does not.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use worker_servers::{Body, CallError, Repeat, ServerError};

use crate::rig::{Rig, get, is_there, launch, text};

#[tokio::test]
async fn the_host_speaks_for_the_connection() {
    let rig = Rig::new();
    let answer = rig.get(&launch(&[]), "/v1/echo?a=b").await.unwrap();
    let head = text(&answer).to_ascii_lowercase();
    let port = rig.servers.list()[0].port;
    assert!(head.starts_with("get /v1/echo?a=b http/1.1\r\n"), "{head}");
    assert!(
        head.contains(&format!("host: 127.0.0.1:{port}\r\n")),
        "{head}"
    );
    assert!(
        answer
            .headers
            .contains(&("x-echo".to_owned(), "yes".to_owned()))
    );
}

#[tokio::test]
async fn a_redirect_is_an_answer() {
    let rig = Rig::new();
    let answer = rig.get(&launch(&[]), "/v1/redirect").await.unwrap();
    assert_eq!(answer.status, 302);
    assert_eq!(text(&answer), "");
    assert_eq!(rig.servers.list()[0].calls, 1, "nothing else was asked");
}

#[tokio::test]
async fn a_long_answer_is_a_file_and_one_too_long_is_refused() {
    let rig = Rig::new();
    let server = launch(&[]);
    let short = rig.get(&server, "/v1/big?n=65536").await.unwrap();
    assert!(matches!(&short.body, Body::Bytes(bytes) if bytes.len() == 65536));
    let long = rig.get(&server, "/v1/big?n=1000000").await.unwrap();
    assert!(matches!(&long.body, Body::File(path) if path.metadata().unwrap().len() == 1_000_000));
    std::fs::remove_file(rig.dir.path().join("answer")).unwrap();
    let refused = rig.get(&server, "/v1/big?n=3000000").await.unwrap_err();
    assert!(
        matches!(
            refused,
            CallError::TooLarge {
                limit: 1_048_576,
                ..
            }
        ),
        "{refused}"
    );
    assert!(
        !rig.dir.path().join("answer").exists(),
        "nothing of it is left"
    );
    assert_eq!(
        rig.servers.list()[0].starts,
        1,
        "the server is none the worse"
    );
}

#[tokio::test]
async fn it_is_asked_again_while_it_says_so() {
    let rig = Rig::new();
    let mut request = get("/v1/poll");
    request.repeat = Some(Repeat {
        every: Duration::from_millis(1),
        pointer: "/job/state".to_owned(),
        pending: vec!["pending".to_owned()],
    });
    let lease = rig.lease(&launch(&[])).await.unwrap();
    let answer = rig
        .ask(lease, &request, None, &CancellationToken::new())
        .await
        .unwrap();
    assert!(text(&answer).contains("done"), "{}", text(&answer));
    assert_eq!(rig.servers.list()[0].calls, 3);
}

#[tokio::test]
async fn one_that_does_not_speak_http_is_ended() {
    for target in ["/v1/garbage", "/v1/short"] {
        let rig = Rig::new();
        let server = launch(&[]);
        let lease = rig.lease(&server).await.unwrap();
        let pid = lease.id();
        let garbled = rig
            .ask(lease, &get(target), None, &CancellationToken::new())
            .await
            .unwrap_err();
        assert!(
            matches!(garbled, CallError::Garbled { .. }) && garbled.is_passing(),
            "{target}: {garbled}"
        );
        assert!(!is_there(pid), "{target}");
        rig.pid(&server).await;
    }
}

#[tokio::test]
async fn one_that_dies_says_so_and_is_started_again() {
    let rig = Rig::new();
    let server = launch(&["--die-after", "2"]);
    let first = rig.pid(&server).await;
    let died = rig.get(&server, "/v1/pid").await.unwrap_err();
    assert!(
        matches!(died, CallError::Died { .. }) && died.is_passing(),
        "{died}"
    );
    assert!(
        died.to_string().contains("exit code 9") && died.to_string().contains("out of luck"),
        "{died}"
    );
    assert_ne!(rig.pid(&server).await, first);
    // It dies with every second call: no use in starting it for ever.
    for _ in 0..2 {
        rig.get(&server, "/v1/pid").await.unwrap_err();
        if let Ok(lease) = rig.lease(&server).await {
            rig.ask(lease, &get("/v1/pid"), None, &CancellationToken::new())
                .await
                .unwrap();
        }
    }
    assert!(matches!(
        rig.lease(&server).await,
        Err(ServerError::CrashLoop { .. })
    ));
}

#[tokio::test]
async fn what_it_prints_during_a_call_can_be_read() {
    let rig = Rig::new();
    let lease = rig.lease(&launch(&[])).await.unwrap();
    let mut lines = lease.lines();
    rig.ask(
        lease,
        &get("/v1/work?ms=20"),
        None,
        &CancellationToken::new(),
    )
    .await
    .unwrap();
    let mut seen = Vec::new();
    while !seen.iter().any(|line| line == "progress 2/2") {
        seen.extend(
            tokio::time::timeout(crate::rig::LIMIT, lines.recv())
                .await
                .unwrap()
                .unwrap(),
        );
    }
    assert!(seen.iter().any(|line| line == "progress 1/2"), "{seen:?}");
}
