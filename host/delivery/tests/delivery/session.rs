//! JSON results and failures: frames, and their acknowledgement.

use serde_json::json;
use tokio_util::sync::CancellationToken;
use worker_delivery::{Delivered, Event, Interruption};

use crate::support::{
    Uploads, Worker, failure, frame, frames, json as result, prompt, quick, session,
};

const RESUME: &[&str] = &["resume"];

#[tokio::test]
async fn a_result_stays_until_it_is_acknowledged() {
    let state = tempfile::tempdir().unwrap();
    let worker = Worker::start(state.path(), quick());
    let (link, mut outlet) = session(([127, 0, 0, 1], 9).into(), "w-1", &[], 1);
    worker.delivery.welcomed(link.clone());
    assert_eq!(
        worker.deliver(&link, "job-1", result()).await,
        Delivered::Sent
    );
    let sent = json!({
        "type": "completeJson", "jobId": "job-1", "prompt": prompt(),
        "result": {"b": 1, "a": [18446744073709551615u64]},
    });
    assert_eq!(frames(&mut outlet), [sent]);
    assert_eq!(worker.waiting(), 1);
    // Of another job, and of another sort: neither is this one's.
    worker.delivery.complete_ack("job-2");
    worker.delivery.fail_ack("job-1");
    tokio::task::yield_now().await;
    assert_eq!(worker.waiting(), 1);
    worker.delivery.complete_ack("job-1");
    worker.emptied().await;
    assert!(worker.aside().is_empty());
}

#[tokio::test]
async fn a_failure_stays_until_it_is_acknowledged() {
    let state = tempfile::tempdir().unwrap();
    let worker = Worker::start(state.path(), quick());
    let (link, mut outlet) = session(([127, 0, 0, 1], 9).into(), "w-1", &[], 1);
    assert_eq!(
        worker.deliver(&link, "job-1", failure()).await,
        Delivered::Sent
    );
    let sent = json!({"type": "fail", "jobId": "job-1", "error": "no room", "retryable": true});
    assert_eq!(frames(&mut outlet), [sent]);
    worker.delivery.complete_ack("job-1");
    assert_eq!(worker.waiting(), 1);
    worker.delivery.fail_ack("job-1");
    worker.emptied().await;
}

#[tokio::test]
async fn an_unacknowledged_one_goes_again_to_a_studio_that_resumes() {
    for payload in [result, failure] {
        let state = tempfile::tempdir().unwrap();
        let worker = Worker::start(state.path(), quick());
        let (first, mut outlet) = session(([127, 0, 0, 1], 9).into(), "w-1", RESUME, 1);
        worker.delivery.welcomed(first.clone());
        assert_eq!(
            worker.deliver(&first, "job-1", payload()).await,
            Delivered::Sent
        );
        let sent = frames(&mut outlet);
        drop(outlet);
        worker.delivery.session_ended();
        // An acknowledgement that no session can have sent.
        worker.delivery.complete_ack("job-1");
        worker.delivery.fail_ack("job-1");

        let (second, mut outlet) = session(([127, 0, 0, 1], 9).into(), "w-1", RESUME, 2);
        worker.delivery.welcomed(second);
        assert_eq!(frame(&mut outlet).await, sent[0]);
        assert_eq!(worker.waiting(), 1);
        worker.delivery.complete_ack("job-1");
        worker.delivery.fail_ack("job-1");
        worker.emptied().await;
        assert!(frames(&mut outlet).is_empty(), "once per session");
        assert!(worker.aside().is_empty());
    }
}

#[tokio::test]
async fn for_any_other_studio_it_is_kept_aside() {
    for payload in [result, failure] {
        let state = tempfile::tempdir().unwrap();
        let mut worker = Worker::start(state.path(), quick());
        let (first, outlet) = session(([127, 0, 0, 1], 9).into(), "w-1", &[], 1);
        worker.delivery.welcomed(first.clone());
        worker.deliver(&first, "job-1", payload()).await;
        drop(outlet);
        worker.delivery.session_ended();
        let (second, mut outlet) = session(([127, 0, 0, 1], 9).into(), "w-1", &["progress"], 2);
        worker.delivery.welcomed(second);
        worker.event(|e| matches!(e, Event::KeptAside { .. })).await;
        assert!(frames(&mut outlet).is_empty());
        assert_eq!((worker.waiting(), worker.aside().len()), (0, 1));
    }
}

#[tokio::test]
async fn nothing_goes_through_the_wrong_session() {
    let state = tempfile::tempdir().unwrap();
    let studio = Uploads::start(vec![]).await;
    let worker = Worker::start(state.path(), quick());
    let (first, outlet) = session(studio.address, "w-1", &[], 1);
    let kept = worker.keep(&first, "job-1", result()).await;
    drop(outlet);
    let (second, mut outlet) = session(studio.address, "w-1", &[], 2);
    let because = Interruption::SessionEnded;
    for link in [&first, &second] {
        let cancel = CancellationToken::new();
        let delivered = worker.delivery.deliver(kept.clone(), link, &cancel).await;
        assert_eq!(delivered, Delivered::Later { because });
    }
    assert!(frames(&mut outlet).is_empty());
    assert_eq!(worker.waiting(), 1);
}

#[tokio::test]
async fn a_full_queue_gives_way_to_cancelling() {
    let state = tempfile::tempdir().unwrap();
    let worker = Worker::start(state.path(), quick());
    let (link, mut outlet) = session(([127, 0, 0, 1], 9).into(), "w-1", &[], 1);
    while tokio::time::timeout(
        std::time::Duration::from_millis(20),
        link.send(worker_wire::WorkerFrame::ReadyForMore),
    )
    .await
    .is_ok()
    {}
    let kept = worker.keep(&link, "job-1", result()).await;
    let cancel = CancellationToken::new();
    cancel.cancel();
    let delivered = worker.delivery.deliver(kept, &link, &cancel).await;
    let because = Interruption::Cancelled;
    assert_eq!(delivered, Delivered::Later { because });
    let sent = frames(&mut outlet);
    assert!(sent.iter().all(|frame| frame["type"] == "readyForMore"));
    worker.delivery.complete_ack("job-1");
    assert_eq!(worker.waiting(), 1, "it was never sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redelivery_never_takes_what_a_slot_is_about_to_deliver() {
    let state = tempfile::tempdir().unwrap();
    let worker = Worker::start(state.path(), quick());
    let (link, mut outlet) = session(([127, 0, 0, 1], 9).into(), "w-1", RESUME, 1);
    for round in 0..100 {
        let kept = worker.keep(&link, "job-1", result()).await;
        worker.delivery.welcomed(link.clone());
        for _ in 0..round {
            tokio::task::yield_now().await;
        }
        let cancel = CancellationToken::new();
        let delivered = worker.delivery.deliver(kept, &link, &cancel).await;
        assert_eq!(delivered, Delivered::Sent, "round {round}");
        worker.delivery.complete_ack("job-1");
    }
    worker.emptied().await;
    assert_eq!(frames(&mut outlet).len(), 100, "each one once");
}

#[tokio::test]
async fn a_cancelled_job_still_says_that_it_failed() {
    let state = tempfile::tempdir().unwrap();
    let worker = Worker::start(state.path(), quick());
    let (link, mut outlet) = session(([127, 0, 0, 1], 9).into(), "w-1", &[], 1);
    let cancel = CancellationToken::new();
    cancel.cancel();
    for round in 0..50 {
        let kept = worker.keep(&link, "job-1", failure()).await;
        let delivered = worker.delivery.deliver(kept, &link, &cancel).await;
        assert_eq!(delivered, Delivered::Sent, "round {round}");
    }
    assert_eq!(frames(&mut outlet).len(), 50);
}
