//! Offers, answers, and what can go wrong between them.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::sync::Semaphore;

use crate::support::*;

#[tokio::test]
async fn accept_goes_out_before_the_job_starts() {
    let studio = Studio::start().await;
    let mut run = Run::start(&studio, approved());
    *run.worker.mood.lock().unwrap() = Mood::AcceptAndFail;
    let mut peer = studio.welcomed().await;
    run.told().await;
    for n in 0..20 {
        let job = format!("j-{n}");
        peer.offer(&job).await;
        assert_eq!(peer.expect("accept").await["jobId"], job);
        assert_eq!(peer.expect("fail").await["jobId"], job);
        assert_eq!(run.told().await, Told::Offer(job.clone()));
        assert_eq!(run.told().await, Told::Started(job));
    }
}

#[tokio::test]
async fn a_reject_carries_code_and_text() {
    let studio = Studio::start().await;
    let run = Run::start(&studio, approved());
    *run.worker.mood.lock().unwrap() = Mood::Reject;
    let mut peer = studio.welcomed().await;
    peer.offer("j").await;
    assert_eq!(
        peer.expect("reject").await,
        json!({"type": "reject", "jobId": "j", "code": "busy", "reason": "worker already has an in-flight job"})
    );
}

#[tokio::test]
async fn an_unreadable_offer_is_rejected_by_its_id() {
    let studio = Studio::start().await;
    let mut run = Run::start(&studio, approved());
    let mut peer = studio.welcomed().await;
    run.told().await;
    for (field, value) in [
        ("task", json!(null)),
        ("modelSource", json!([])),
        ("vramGbEstimate", json!("much")),
        ("model", json!(7)),
    ] {
        let mut bad = claim("j");
        bad[field] = value;
        peer.send(json!({"type": "offer", "claim": bad})).await;
        let reject = peer.expect("reject").await;
        assert_eq!(reject["jobId"], "j");
        assert_eq!(reject["code"], "bad_offer");
        let reason = reject["reason"].as_str().unwrap();
        assert!(reason.contains(field), "{reason}");
        for passing in ["busy", "in-flight", "paused"] {
            assert!(!reason.contains(passing), "{reason}");
        }
    }
    // Without an id there is nobody to answer; the session goes on.
    peer.send(json!({"type": "offer", "claim": {"task": {}}}))
        .await;
    peer.send(json!({"type": "offer"})).await;
    // One that is no id for this worker is still the studio's name for the job.
    peer.send(json!({"type": "offer", "claim": claim("../x")}))
        .await;
    assert_eq!(peer.expect("reject").await["jobId"], "../x");
    peer.offer("good").await;
    assert_eq!(peer.expect("accept").await["jobId"], "good");
    assert_eq!(run.told().await, Told::Offer("good".to_owned()));
}

#[tokio::test]
async fn a_slow_decision_holds_up_nothing_else() {
    let studio = Studio::start().await;
    let mut run = Run::start(&studio, approved());
    let permits = Arc::new(Semaphore::new(0));
    *run.worker.mood.lock().unwrap() = Mood::After(permits.clone());
    let mut peer = studio.welcomed().await;
    run.told().await;
    peer.offer("a").await;
    peer.offer("b").await;
    assert_eq!(run.told().await, Told::Offer("a".to_owned()));
    peer.send(json!({"type": "completeAck", "jobId": "old"}))
        .await;
    assert_eq!(run.told().await, Told::CompleteAck("old".to_owned()));
    peer.expect("heartbeat").await;
    permits.add_permits(2);
    assert_eq!(peer.expect("accept").await["jobId"], "a");
    assert_eq!(peer.expect("accept").await["jobId"], "b");
    let mut told = Vec::new();
    for _ in 0..3 {
        told.push(run.told().await);
    }
    let (a, b) = ("a".to_owned(), "b".to_owned());
    assert_eq!(
        told,
        [Told::Started(a), Told::Offer(b.clone()), Told::Started(b)]
    );
}

#[tokio::test]
async fn a_cancel_during_the_decision_is_not_lost() {
    let studio = Studio::start().await;
    let mut run = Run::start(&studio, approved());
    let permits = Arc::new(Semaphore::new(0));
    *run.worker.mood.lock().unwrap() = Mood::After(permits.clone());
    let mut peer = studio.welcomed().await;
    run.told().await;
    peer.offer("a").await;
    assert_eq!(run.told().await, Told::Offer("a".to_owned()));
    peer.send(json!({"type": "jobCancel", "jobId": "a"})).await;
    // Shows that the cancel has been read.
    peer.send(json!({"type": "failAck", "jobId": "mark"})).await;
    assert_eq!(run.told().await, Told::FailAck("mark".to_owned()));
    permits.add_permits(1);
    assert_eq!(run.told().await, Told::Started("a".to_owned()));
    assert_eq!(run.told().await, Told::Cancel("a".to_owned()));
}

#[tokio::test]
async fn an_undecided_offer_is_given_back() {
    let studio = Studio::start().await;
    let mut run = Run::with(studio.base(), approved(), |options, _| {
        options.timing.decision = Duration::from_millis(30);
    });
    *run.worker.mood.lock().unwrap() = Mood::Never;
    let mut peer = studio.welcomed().await;
    run.told().await;
    peer.offer("a").await;
    let reject = peer.expect("reject").await;
    assert_eq!(reject["code"], "plugin_fault");
    assert_eq!(run.told().await, Told::Offer("a".to_owned()));
    assert_eq!(run.told().await, Told::Dropped("a".to_owned()));
}

#[tokio::test]
async fn the_end_of_the_session_drops_an_undecided_offer_unstarted() {
    let studio = Studio::start().await;
    let mut run = Run::start(&studio, approved());
    *run.worker.mood.lock().unwrap() = Mood::Never;
    let mut peer = studio.welcomed().await;
    run.told().await;
    peer.offer("a").await;
    assert_eq!(run.told().await, Told::Offer("a".to_owned()));
    drop(peer);
    let mut told = [run.told().await, run.told().await];
    told.sort_by_key(|t| *t == Told::Ended);
    assert_eq!(told, [Told::Dropped("a".to_owned()), Told::Ended]);
}

#[tokio::test]
async fn offers_beyond_the_queue_are_answered_busy() {
    let studio = Studio::start().await;
    let mut run = Run::start(&studio, approved());
    *run.worker.mood.lock().unwrap() = Mood::Never;
    let mut peer = studio.welcomed().await;
    run.told().await;
    peer.offer("j-0").await;
    assert_eq!(run.told().await, Told::Offer("j-0".to_owned()));
    for n in 1..=12 {
        peer.offer(&format!("j-{n}")).await;
    }
    // Eight wait; the rest hear at once that it is too many, and the same job twice is answered once.
    peer.offer("j-0").await;
    peer.offer("j-13").await;
    for n in 9..=13 {
        let reject = peer.expect("reject").await;
        assert_eq!(reject["jobId"], format!("j-{n}"));
        assert_eq!(reject["code"], "busy");
        assert_eq!(reject["reason"], "worker already has an in-flight job");
    }
}
