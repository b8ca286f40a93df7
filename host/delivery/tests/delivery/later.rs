//! What an earlier session, or an earlier process, left in the spool.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use worker_delivery::{Delivered, Event, Interruption, Timing, Waiting};

use crate::support::{PIXELS, Reply, Uploads, Worker, frame, frames, json, media, quick, session};

#[tokio::test]
async fn media_is_posted_again_after_the_next_welcome() {
    // Pauses too long for the test: only the end of the session ends the first one.
    let timing = Timing {
        first_pause: std::time::Duration::from_secs(30),
        longest_pause: std::time::Duration::from_secs(30),
        ..quick()
    };
    let studio = Uploads::start(vec![Reply::Status(503, "")]).await;
    let state = tempfile::tempdir().unwrap();
    let mut worker = Worker::start(state.path(), timing);
    let (first, outlet) = session(studio.address, "w-1", &[], 1);
    worker.delivery.welcomed(first.clone());
    let kept = worker.keep(&first, "job-1", media()).await;
    let cancel = CancellationToken::new();
    let delivering = worker.delivery.deliver(kept, &first, &cancel);
    let (delivered, ()) = tokio::join!(delivering, async {
        studio.wait_for(1).await;
        drop(outlet);
        worker.delivery.session_ended();
    });
    let because = Interruption::SessionEnded;
    assert_eq!(delivered, Delivered::Later { because });
    assert_eq!(worker.waiting(), 1);

    let (second, mut outlet) = session(studio.address, "w-1", &[], 2);
    worker.delivery.welcomed(second);
    let done = worker.event(|e| matches!(e, Event::Uploaded { .. })).await;
    assert!(
        matches!(done, Event::Uploaded { earlier: true, .. }),
        "{done:?}"
    );
    assert_eq!(studio.requests().len(), 2);
    assert!(frames(&mut outlet).is_empty());
    assert_eq!((worker.waiting(), worker.aside().len()), (0, 0));
}

#[tokio::test]
async fn a_product_let_go_of_after_the_next_welcome_is_not_forgotten() {
    let studio = Uploads::start(vec![]).await;
    let state = tempfile::tempdir().unwrap();
    let mut worker = Worker::start(state.path(), quick());
    let (first, outlet) = session(studio.address, "w-1", &[], 1);
    drop(outlet);
    let (second, _outlet) = session(studio.address, "w-1", &[], 2);
    worker.delivery.welcomed(second);
    // The job of the first session ends only now; the redelivery may have taken its product in hand already.
    let delivered = worker.deliver(&first, "job-1", media()).await;
    assert!(
        matches!(delivered, Delivered::Later { .. }),
        "{delivered:?}"
    );
    worker
        .event(|e| matches!(e, Event::Uploaded { earlier: true, .. }))
        .await;
    assert_eq!(studio.requests().len(), 1);
}

#[tokio::test]
async fn a_restarted_worker_delivers_all_that_was_left() {
    let studio = Uploads::start(vec![]).await;
    let state = tempfile::tempdir().unwrap();
    {
        let worker = Worker::start(state.path(), quick());
        let (link, _outlet) = session(studio.address, "w-1", &["resume"], 1);
        worker.keep(&link, "job-1", media()).await;
        worker.keep(&link, "job-2", json()).await;
        worker.keep(&link, "job-3", media()).await;
    }
    let mut worker = Worker::start(state.path(), quick());
    assert_eq!(worker.delivery.spool().recovered().waiting, 3);
    // Session numbers begin anew, which makes nothing this session's own.
    let (link, mut outlet) = session(studio.address, "w-1", &["resume"], 1);
    worker.delivery.welcomed(link);
    for _ in 0..2 {
        worker
            .event(|e| matches!(e, Event::Uploaded { earlier: true, .. }))
            .await;
    }
    // Products leave side by side: a studio acknowledges what it has got, so the frame comes first.
    assert_eq!(frame(&mut outlet).await["jobId"], "job-2");
    worker.delivery.complete_ack("job-2");
    worker.emptied().await;
    assert!(frames(&mut outlet).is_empty());
    assert_eq!(studio.requests().len(), 2);
}

#[tokio::test]
async fn what_the_studio_refuses_now_is_kept_aside_without_a_frame() {
    for reply in [
        Reply::Status(409, ""),
        Reply::Status(404, "no such job"),
        Reply::Status(401, ""),
    ] {
        let studio = Uploads::start(vec![reply]).await;
        let state = tempfile::tempdir().unwrap();
        {
            let worker = Worker::start(state.path(), quick());
            let (link, _outlet) = session(studio.address, "w-1", &["resume"], 1);
            worker.keep(&link, "job-1", media()).await;
        }
        let mut worker = Worker::start(state.path(), quick());
        let (link, mut outlet) = session(studio.address, "w-1", &["resume"], 1);
        worker.delivery.welcomed(link);
        worker.event(|e| matches!(e, Event::KeptAside { .. })).await;
        assert!(frames(&mut outlet).is_empty());
        assert_eq!((worker.waiting(), worker.aside().len()), (0, 1));
        assert_eq!(studio.requests().len(), 1);
    }
}

#[tokio::test]
async fn one_that_must_wait_does_not_hold_up_the_others() {
    let studio = Uploads::start(vec![Reply::Status(503, ""), Reply::Status(200, "")]).await;
    let state = tempfile::tempdir().unwrap();
    {
        let worker = Worker::start(state.path(), quick());
        let (link, _outlet) = session(studio.address, "w-1", &[], 1);
        worker.keep(&link, "job-1", media()).await;
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        worker.keep(&link, "job-2", media()).await;
    }
    let mut worker = Worker::start(state.path(), quick());
    let (link, _outlet) = session(studio.address, "w-1", &[], 1);
    worker.delivery.welcomed(link);
    let mut order = Vec::new();
    for _ in 0..2 {
        let done = worker.event(|e| matches!(e, Event::Uploaded { .. })).await;
        order.push(done.job().unwrap().to_owned());
    }
    assert_eq!(order, ["job-2", "job-1"]);
    assert_eq!(studio.requests().len(), 3);
}

#[tokio::test]
async fn another_studio_or_another_worker_gets_nothing() {
    let studio = Uploads::start(vec![]).await;
    let elsewhere = Uploads::start(vec![]).await;
    for (address, worker_id) in [(studio.address, "w-2"), (elsewhere.address, "w-1")] {
        let state = tempfile::tempdir().unwrap();
        {
            let worker = Worker::start(state.path(), quick());
            let (link, _outlet) = session(studio.address, "w-1", &["resume"], 1);
            worker.keep(&link, "job-1", media()).await;
            worker.keep(&link, "job-2", json()).await;
        }
        let mut worker = Worker::start(state.path(), quick());
        let (link, mut outlet) = session(address, worker_id, &["resume"], 1);
        worker.delivery.welcomed(link);
        for _ in 0..2 {
            worker.event(|e| matches!(e, Event::KeptAside { .. })).await;
        }
        assert!(frames(&mut outlet).is_empty());
        assert_eq!((worker.waiting(), worker.aside().len()), (0, 2));
    }
    assert!(studio.requests().is_empty() && elsewhere.requests().is_empty());
}

#[tokio::test]
async fn a_spoiled_row_is_kept_aside_with_its_media() {
    let studio = Uploads::start(vec![]).await;
    let state = tempfile::tempdir().unwrap();
    let id = {
        let worker = Worker::start(state.path(), quick());
        let (link, _outlet) = session(studio.address, "w-1", &[], 1);
        worker.keep(&link, "job-1", media()).await.id().clone()
    };
    let row = state.path().join(format!("spool/{id}.row"));
    std::fs::write(&row, "{\"version\":1").unwrap();
    // Not one of the spool's names: somebody else's, left alone.
    let foreign = state.path().join("spool/notes.tmp");
    std::fs::write(&foreign, "mine").unwrap();
    let worker = Worker::start(state.path(), quick());
    assert_eq!(worker.delivery.spool().recovered().set_aside, 1);
    let aside = worker.aside();
    assert_eq!((worker.waiting(), aside.len()), (0, 1));
    let copy = state.path().join("copy");
    worker
        .delivery
        .spool()
        .aside()
        .write_out(&aside[0], &copy)
        .unwrap();
    assert_eq!(std::fs::read(copy).unwrap(), PIXELS);
    assert!(foreign.exists());
}

/// The job of a product that is being sent is offered again: the answer to the upload is the answer to the job.
#[tokio::test]
async fn a_job_that_is_offered_again_hears_what_became_of_its_product() {
    for (status, refused) in [(200, false), (413, true)] {
        let told = Arc::new(Notify::new());
        let studio = Uploads::start(vec![Reply::Told(told.clone(), status)]).await;
        let state = tempfile::tempdir().unwrap();
        {
            let worker = Worker::start(state.path(), quick());
            let (link, _outlet) = session(studio.address, "w-1", &[], 1);
            worker.keep(&link, "job-1", media()).await;
        }
        let worker = Worker::start(state.path(), quick());
        let (link, mut outlet) = session(studio.address, "w-1", &[], 1);
        worker.delivery.welcomed(link.clone());
        studio.wait_for(1).await;
        let waiting = tokio::spawn({
            let (delivery, link) = (worker.delivery.clone(), link.clone());
            async move { delivery.waiting_for("job-1", &link).await }
        });
        // Longer than any wait of this rig: it is the session that bounds it.
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(!waiting.is_finished(), "its product is being sent");
        told.notify_one();
        let waiting = waiting.await.unwrap();
        match waiting {
            Waiting::Delivered => assert!(!refused),
            Waiting::Refused { reason } => assert!(refused && reason.contains("413"), "{reason}"),
            other => panic!("{other:?}"),
        }
        assert!(
            frames(&mut outlet).is_empty(),
            "what is said of it is the job's to say"
        );
        let nothing = worker.delivery.waiting_for("job-1", &link).await;
        assert!(matches!(nothing, Waiting::Nothing), "{nothing:?}");
    }
}
