//! The table of `error` frames and close codes.

use std::time::Duration;

use worker_tests::wait::rows;
use worker_tests::{Home, ScriptedStudio, Worker};

/// What the studio does to a session.
#[derive(Clone, Copy, Debug)]
enum Signal {
    Error(&'static str),
    ErrorBeforeWelcome(&'static str),
    /// An error, and the close that the protocol pairs with it right behind.
    ErrorAndClose(&'static str, u16),
    Close(Option<u16>),
    HangUp,
}

/// What the worker makes of it.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// Ends with exit code 1 and its close says this.
    Ends(&'static str),
    /// Connects again under the same identity.
    Reconnects,
    /// Stays up, and waits long before it connects again.
    Waits,
    /// Forgets its identity and registers anew.
    Registers,
}

const TABLE: &[(Signal, Then)] = &[
    (Signal::Error("auth_failed"), Then::Ends("auth failed")),
    (
        Signal::ErrorBeforeWelcome("auth_failed"),
        Then::Ends("auth failed"),
    ),
    (
        Signal::ErrorAndClose("auth_failed", 4001),
        Then::Ends("auth failed"),
    ),
    (
        Signal::Error("protocol_violation"),
        Then::Ends("session ended"),
    ),
    (
        Signal::ErrorBeforeWelcome("protocol_violation"),
        Then::Ends("protocol violation"),
    ),
    (
        Signal::ErrorAndClose("protocol_violation", 4002),
        Then::Ends("session ended"),
    ),
    (Signal::Error("internal_error"), Then::Ends("session ended")),
    (
        Signal::ErrorAndClose("internal_error", 1000),
        Then::Ends("session ended"),
    ),
    (Signal::Error("worker_deleted"), Then::Registers),
    (
        Signal::ErrorBeforeWelcome("worker_deleted"),
        Then::Registers,
    ),
    (
        Signal::ErrorAndClose("worker_deleted", 4004),
        Then::Registers,
    ),
    (Signal::Error("duplicate_worker"), Then::Waits),
    (Signal::ErrorAndClose("duplicate_worker", 4003), Then::Waits),
    (Signal::Close(Some(1000)), Then::Reconnects),
    (Signal::Close(Some(4001)), Then::Ends("auth failed")),
    (Signal::Close(Some(4002)), Then::Reconnects),
    (Signal::Close(Some(4003)), Then::Waits),
    (Signal::Close(Some(4004)), Then::Registers),
    (Signal::Close(Some(1011)), Then::Reconnects),
    (Signal::Close(Some(4999)), Then::Reconnects),
    (Signal::Close(None), Then::Reconnects),
    (Signal::HangUp, Then::Reconnects),
];

#[tokio::test]
async fn each_ending_leads_where_the_table_says() {
    // A few at a time: every row is a worker of its own.
    for part in TABLE.chunks(6) {
        rows(
            part.iter()
                .map(|(signal, then)| (format!("{signal:?}"), row(*signal, *then))),
        )
        .await;
    }
}

async fn row(signal: Signal, then: Then) {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let worker = home.start();
    let mut peer = studio.peer().await;
    peer.expect("hello").await;
    if !matches!(signal, Signal::ErrorBeforeWelcome(_)) {
        peer.welcome(&[]).await;
        peer.expect("heartbeat").await;
    }
    let heard = match signal {
        Signal::Error(code) | Signal::ErrorBeforeWelcome(code) => {
            peer.error(code).await;
            let close = peer.end().await.1;
            assert!(close.is_some(), "the worker hung up without a close");
            close
        }
        Signal::ErrorAndClose(code, close) => {
            peer.error(code).await;
            peer.close(Some(close)).await;
            None
        }
        Signal::Close(code) => {
            peer.close(code).await;
            None
        }
        Signal::HangUp => None,
    };
    drop(peer);
    let says = |reason: &str| {
        if let Some((code, text)) = &heard {
            assert_eq!((*code, text.as_str()), (1000, reason));
        }
    };
    match then {
        Then::Ends(reason) => {
            says(reason);
            ends(worker, &studio).await;
        }
        Then::Reconnects => {
            studio.welcomed().await;
            assert!(studio.calls("register").is_empty());
        }
        Then::Waits => {
            says("session ended");
            let reconnecting =
                |status: &serde_json::Value| status["session"]["state"] == "reconnecting";
            worker.status("a pause", reconnecting).await;
            // Far longer than the first pause of an ordinary disconnect, far shorter than this one.
            tokio::time::sleep(Duration::from_secs(4)).await;
            assert_eq!(
                studio.calls("connect").len(),
                1,
                "it does not push the other one out again"
            );
            worker.stop().await;
        }
        Then::Registers => {
            says("registration revoked");
            let asked = studio.called("register", 1).await[0].json();
            assert_ne!(asked["installId"], "install");
            studio.welcomed().await;
        }
    }
}

async fn ends(mut worker: Worker, studio: &ScriptedStudio) {
    assert_eq!(worker.ended().await.code(), Some(1));
    assert_eq!(studio.calls("connect").len(), 1);
    assert!(studio.calls("register").is_empty());
}
