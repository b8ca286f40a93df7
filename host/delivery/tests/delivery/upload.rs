//! Media in the session that its job was accepted in.

use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;
use worker_delivery::{AsideContent, Delivered, Event, MediaContent, Payload, Timing};

use crate::support::{
    PIXELS, Reply, Uploads, Worker, frames, header, media, prompt, quick, session,
};

#[tokio::test]
async fn the_request_is_the_protocols() {
    let studio = Uploads::start(vec![]).await;
    let state = tempfile::tempdir().unwrap();
    let worker = Worker::start(state.path(), quick());
    let (link, mut outlet) = session(studio.address, "w-1", &[], 1);
    let made = state.path().join("made.webp");
    std::fs::write(&made, PIXELS).unwrap();
    let payload = Payload::Media {
        content: MediaContent::File(made.clone()),
        ext: "WEBP".into(),
        media_type: None,
    };
    let delivered = worker.deliver(&link, "job-1", payload).await;
    assert_eq!(delivered, Delivered::Uploaded { attempts: 1 });

    let requests = studio.requests();
    let [request] = requests.as_slice() else {
        panic!("{} requests", requests.len())
    };
    let head = &request.head;
    assert!(
        head.starts_with("POST /graphics/api/workers/w-1/jobs/job-1/complete HTTP/1.1\r\n"),
        "{head}"
    );
    assert_eq!(header(head, "authorization"), Some("Bearer tok-1"));
    assert_eq!(
        header(head, "content-length"),
        Some(request.body.len().to_string().as_str())
    );
    assert_eq!(header(head, "transfer-encoding"), None);
    let boundary = header(head, "content-type").unwrap();
    let boundary = boundary
        .strip_prefix("multipart/form-data; boundary=")
        .unwrap();
    let expected = [
        format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\n{}\r\n",
            prompt()
        ),
        format!("--{boundary}\r\nContent-Disposition: form-data; name=\"ext\"\r\n\r\nWEBP\r\n"),
        format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"image\"; filename=\"job-1.WEBP\"\r\n\
             Content-Type: image/webp\r\n\r\n"
        ),
    ];
    let mut expected = expected.concat().into_bytes();
    expected.extend_from_slice(PIXELS);
    expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    assert_eq!(
        String::from_utf8_lossy(&request.body),
        String::from_utf8_lossy(&expected)
    );
    assert!(!made.exists(), "it was moved");
    assert_eq!(worker.waiting(), 0);
    assert!(worker.aside().is_empty());
    assert!(frames(&mut outlet).is_empty());
}

#[tokio::test]
async fn a_media_type_that_the_job_knows_wins_and_a_bad_one_does_not() {
    let studio = Uploads::start(vec![]).await;
    let state = tempfile::tempdir().unwrap();
    let worker = Worker::start(state.path(), quick());
    let (link, _outlet) = session(studio.address, "w-1", &[], 1);
    for (given, sent) in [
        ("text/x-haiku", "text/x-haiku"),
        ("not a\r\ntype", "application/octet-stream"),
    ] {
        let payload = Payload::Media {
            content: MediaContent::Bytes("snow".into()),
            ext: "haiku".into(),
            media_type: Some(given.into()),
        };
        worker.deliver(&link, "job-1", payload).await;
        let body = studio.requests().pop().unwrap().body;
        let line = format!("\r\nContent-Type: {sent}\r\n\r\nsnow\r\n");
        assert!(String::from_utf8_lossy(&body).contains(&line), "{given}");
    }
}

#[tokio::test]
async fn a_conflict_keeps_it_aside_and_fails_the_job() {
    let studio = Uploads::start(vec![Reply::Status(409, "not yours")]).await;
    let state = tempfile::tempdir().unwrap();
    let worker = Worker::start(state.path(), quick());
    let (link, mut outlet) = session(studio.address, "w-1", &[], 1);
    let delivered = worker.deliver(&link, "job-1", media()).await;
    let Delivered::KeptAside { reason } = delivered else {
        panic!("{delivered:?}")
    };
    assert!(reason.contains("409"), "{reason}");
    let sent = frames(&mut outlet);
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert_eq!(
        (&sent[0]["type"], &sent[0]["retryable"]),
        (&"fail".into(), &true.into())
    );
    let aside = worker.aside();
    assert_eq!((worker.waiting(), aside.len()), (0, 1));
    assert_eq!(
        (aside[0].job.as_str(), aside[0].reason.as_str()),
        ("job-1", reason.as_str())
    );
    assert_eq!(aside[0].prompt, prompt());
    assert!(
        matches!(aside[0].content, AsideContent::Media { bytes, .. } if bytes == PIXELS.len() as u64)
    );
    let copy = state.path().join("copy");
    worker
        .delivery
        .spool()
        .aside()
        .write_out(&aside[0], &copy)
        .unwrap();
    assert_eq!(std::fs::read(copy).unwrap(), PIXELS);
}

#[tokio::test]
async fn a_refusal_fails_the_job_once_and_keeps_its_media() {
    let long: &'static str = "x".repeat(1000).leak();
    for (status, body) in [
        (302, ""),
        (400, "bad"),
        (401, "who"),
        (403, "no"),
        (404, "gone\r\nfor good"),
        (413, long),
    ] {
        let studio = Uploads::start(vec![Reply::Status(status, body)]).await;
        let state = tempfile::tempdir().unwrap();
        let worker = Worker::start(state.path(), quick());
        let (link, mut outlet) = session(studio.address, "w-1", &[], 1);
        let delivered = worker.deliver(&link, "job-1", media()).await;
        let shown: String = body.replace("\r\n", "  ").chars().take(300).collect();
        let text = format!("complete failed: {status} — {shown}");
        assert_eq!(
            delivered,
            Delivered::KeptAside {
                reason: text.clone()
            }
        );
        let fail = json!({"type": "fail", "jobId": "job-1", "error": text, "retryable": true});
        assert_eq!(frames(&mut outlet), [fail]);
        assert_eq!(studio.requests().len(), 1, "{status} is final");
        assert_eq!((worker.waiting(), worker.aside().len()), (0, 1));
    }
}

#[tokio::test]
async fn what_passes_is_tried_again() {
    let replies = vec![
        Reply::Status(500, "oops"),
        Reply::Status(503, ""),
        Reply::Status(408, ""),
        Reply::Header(429, "retry-after: 86400"),
        Reply::Header(503, "retry-after: Wed, 21 Oct 2015 07:28:00 GMT"),
        Reply::Nothing,
    ];
    let studio = Uploads::start(replies).await;
    let state = tempfile::tempdir().unwrap();
    let mut worker = Worker::start(state.path(), quick());
    let (link, mut outlet) = session(studio.address, "w-1", &[], 1);
    let delivered = worker.deliver(&link, "job-1", media()).await;
    assert_eq!(delivered, Delivered::Uploaded { attempts: 7 });
    assert_eq!(studio.requests().len(), 7);
    let bodies: Vec<usize> = studio.requests().iter().map(|r| r.body.len()).collect();
    assert!(
        bodies.iter().all(|length| *length == bodies[0]),
        "each one whole: {bodies:?}"
    );
    assert!(frames(&mut outlet).is_empty());
    let asked = worker
        .event(|e| matches!(e, Event::Retrying { cause, .. } if cause.contains("429")))
        .await;
    assert!(
        matches!(asked, Event::Retrying { pause: Some(p), .. } if p == quick().longest_retry_after)
    );
    let dropped = worker
        .event(|e| matches!(e, Event::Retrying { cause, .. } if !cause.contains('—')))
        .await;
    assert!(!dropped.to_string().contains("127.0.0.1"), "{dropped}");
}

#[tokio::test]
async fn an_answer_that_never_comes_is_no_end() {
    let studio = Uploads::start(vec![Reply::Silence]).await;
    let state = tempfile::tempdir().unwrap();
    let timing = Timing {
        stall: Duration::from_millis(300),
        ..quick()
    };
    let worker = Worker::start(state.path(), timing);
    let (link, _outlet) = session(studio.address, "w-1", &[], 1);
    let delivered = worker.deliver(&link, "job-1", media()).await;
    assert_eq!(delivered, Delivered::Uploaded { attempts: 2 });
}

#[tokio::test]
async fn media_that_were_cut_short_meanwhile_are_not_sent() {
    let studio = Uploads::start(vec![Reply::Silence]).await;
    let state = tempfile::tempdir().unwrap();
    let timing = Timing {
        stall: Duration::from_millis(500),
        ..quick()
    };
    let worker = Worker::start(state.path(), timing);
    let (link, _outlet) = session(studio.address, "w-1", &[], 1);
    let cutting = async {
        while studio.requests().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let kept = std::fs::read_dir(state.path().join("spool")).unwrap();
        let mut kept = kept.flatten().map(|entry| entry.path());
        let kept = kept.find(|path| path.extension().is_some_and(|ext| ext == "media"));
        let kept = std::fs::File::options().write(true).open(kept.unwrap());
        kept.unwrap().set_len(1).unwrap();
    };
    // Given as a file, so that each attempt reads what the disk has.
    let file = state.path().join("product.webp");
    std::fs::write(&file, [7; 25]).unwrap();
    let media = Payload::Media {
        content: MediaContent::File(file),
        ext: "webp".into(),
        media_type: None,
    };
    let (delivered, ()) = tokio::join!(worker.deliver(&link, "job-1", media), cutting);
    assert!(
        matches!(&delivered, Delivered::KeptAside { reason } if reason.contains("it has 1 bytes instead of")),
        "{delivered:?}"
    );
    assert_eq!(studio.requests().len(), 1);
    assert_eq!(worker.aside().len(), 1);
}

#[tokio::test]
async fn a_slot_is_not_held_for_ever() {
    let studio = Uploads::start(vec![Reply::Status(503, "later"); 2]).await;
    let state = tempfile::tempdir().unwrap();
    let timing = Timing {
        first_pause: Duration::from_secs(3600),
        longest_pause: Duration::from_secs(3600),
        ..quick()
    };
    let worker = Worker::start(state.path(), timing);
    let (link, mut outlet) = session(studio.address, "w-1", &[], 1);
    let delivered = worker.deliver(&link, "job-1", media()).await;
    let text = "complete failed: 503 — later";
    assert_eq!(
        delivered,
        Delivered::KeptAside {
            reason: text.into()
        }
    );
    let fail = json!({"type": "fail", "jobId": "job-1", "error": text, "retryable": true});
    assert_eq!(frames(&mut outlet), [fail]);
    assert_eq!(worker.aside().len(), 1);
}

#[tokio::test]
async fn a_cancelled_upload_fails_the_job_and_keeps_its_media() {
    // Cancelled while an answer is waited for, and while the next attempt is.
    for reply in [Reply::Silence, Reply::Status(503, "")] {
        let studio = Uploads::start(vec![reply]).await;
        let state = tempfile::tempdir().unwrap();
        let timing = Timing {
            first_pause: Duration::from_secs(30),
            longest_pause: Duration::from_secs(30),
            ..quick()
        };
        let worker = Worker::start(state.path(), timing);
        let (link, mut outlet) = session(studio.address, "w-1", &[], 1);
        let kept = worker.keep(&link, "job-1", media()).await;
        let cancel = CancellationToken::new();
        let delivering = worker.delivery.deliver(kept, &link, &cancel);
        let (delivered, ()) = tokio::join!(delivering, async {
            studio.wait_for(1).await;
            cancel.cancel();
        });
        let reason = "cancelled before the studio had the result".to_owned();
        let fail = json!({"type": "fail", "jobId": "job-1", "error": reason, "retryable": true});
        assert_eq!(delivered, Delivered::KeptAside { reason });
        assert_eq!(frames(&mut outlet), [fail]);
        assert_eq!((worker.waiting(), worker.aside().len()), (0, 1));
    }
}

#[tokio::test]
async fn an_upload_that_is_answered_in_time_is_none_the_worse_for_cancelling() {
    let studio = Uploads::start(vec![]).await;
    let state = tempfile::tempdir().unwrap();
    let timing = Timing {
        last_words: Duration::from_secs(20),
        ..quick()
    };
    let worker = Worker::start(state.path(), timing);
    let (link, mut outlet) = session(studio.address, "w-1", &[], 1);
    let kept = worker.keep(&link, "job-1", media()).await;
    let cancel = CancellationToken::new();
    cancel.cancel();
    let delivered = worker.delivery.deliver(kept, &link, &cancel).await;
    assert_eq!(delivered, Delivered::Uploaded { attempts: 1 });
    assert!(frames(&mut outlet).is_empty());
}

/// The answer to an attempt that got through may be lost; the studio then says that it has a result already.
#[tokio::test]
async fn a_conflict_after_a_lost_answer_is_no_failure() {
    for lost in [Reply::Nothing, Reply::Status(502, "")] {
        let studio = Uploads::start(vec![lost, Reply::Status(409, "it is done")]).await;
        let state = tempfile::tempdir().unwrap();
        let worker = Worker::start(state.path(), quick());
        let (link, mut outlet) = session(studio.address, "w-1", &[], 1);
        let delivered = worker.deliver(&link, "job-1", media()).await;
        assert!(
            matches!(delivered, Delivered::KeptAside { .. }),
            "{delivered:?}"
        );
        assert!(frames(&mut outlet).is_empty());
        assert_eq!((worker.waiting(), worker.aside().len()), (0, 1));
    }
}

#[tokio::test]
async fn a_refusal_that_repeats_the_token_is_quoted_without_it() {
    let studio = Uploads::start(vec![Reply::Status(401, "token tok-1 is not accepted")]).await;
    let state = tempfile::tempdir().unwrap();
    let worker = Worker::start(state.path(), quick());
    let (link, mut outlet) = session(studio.address, "w-1", &[], 1);
    let delivered = worker.deliver(&link, "job-1", media()).await;
    let Delivered::KeptAside { reason } = delivered else {
        panic!("{delivered:?}")
    };
    assert!(
        reason.ends_with("token <secret> is not accepted"),
        "{reason}"
    );
    let sent = frames(&mut outlet);
    assert!(!format!("{sent:?}").contains("tok-1"), "{sent:?}");
    assert!(!worker.aside()[0].reason.contains("tok-1"));
}
