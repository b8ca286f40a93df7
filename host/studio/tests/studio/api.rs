//! Queueing, watching and cancelling, and what is refused.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Rig, modern};

async fn refused(rig: &Rig, body: Value) -> (u16, Value) {
    let response = rig.post("/jobs", &body).await;
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn words_that_compose_to_nothing_say_what_would() {
    let rig = Rig::start().await;
    let cases = [
        (json!({"kind": "poem", "text": "x"}), "unknown_kind"),
        (
            json!({"kind": "note", "text": "x", "model": "gone"}),
            "unknown_model",
        ),
        (
            json!({"kind": "note", "text": "x", "model": "unwilling"}),
            "compose_failed",
        ),
        (
            json!({"kind": "note", "text": "x", "model": "broken"}),
            "compose_failed",
        ),
        (json!({"text": "x"}), "bad_request"),
        (json!({"kind": "note", "offer": {}}), "bad_request"),
        (json!({"kind": 7}), "bad_request"),
        (json!([]), "bad_request"),
        (json!({"offer": 7}), "bad_request"),
        (json!({"offer": {"jobId": "../x"}}), "bad_job_id"),
        (json!({"offer": {"jobId": ""}}), "bad_job_id"),
        (json!({"offer": {"jobId": null, "jobId2": 1}}), "bad_job_id"),
    ];
    for (body, code) in cases {
        let (status, answer) = refused(&rig, body.clone()).await;
        assert_eq!((status, &answer["error"]), (400, &json!(code)), "{body}");
        assert!(!answer["message"].as_str().unwrap().is_empty());
    }
    let (_, answer) = refused(&rig, json!({"kind": "poem", "text": "x"})).await;
    assert_eq!(answer["known"], json!(["note"]));
    assert_eq!(rig.get("/jobs").await, json!([]));
    rig.end().await;
}

#[tokio::test]
async fn an_offer_goes_out_byte_for_byte() {
    let rig = Rig::start().await;
    let mut worker = rig.worker("i-1").await;
    // Without task and source, so that any worker may say what it makes of it.
    let body =
        r#"{"offer": { "jobId":"My.Job:1", "x" : 1.50, "big":123456789012345678901234567890 } }"#;
    let response = rig
        .api(Method::POST, "/jobs")
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    let claim = worker.offer().await;
    assert_eq!(claim["jobId"], "My.Job:1");
    assert!(!claim.to_string().contains("task"));
    worker
        .reject("My.Job:1", "task is missing", Some("bad_offer"))
        .await;
    rig.follow("My.Job:1", |job| job["lastReject"]["code"] == "bad_offer")
        .await;
    let again = rig
        .api(Method::POST, "/jobs")
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(again.status(), StatusCode::CONFLICT);
    // An id is put in where there is none, and nothing else changes.
    let empty = rig
        .api(Method::POST, "/jobs")
        .body(r#"{"offer": {}}"#)
        .send()
        .await
        .unwrap();
    let id: Value = empty.json().await.unwrap();
    assert_eq!(worker.offer().await, json!({"jobId": id["jobId"]}));
    rig.end().await;
}

#[tokio::test]
async fn a_claim_that_no_worker_could_receive_is_refused() {
    let rig = Rig::with(|o| o.limits.claim_bytes = 2_000).await;
    let offer = json!({"offer": {"task": {"kind": "note", "text": "x".repeat(2_000)}}});
    let (status, answer) = refused(&rig, offer).await;
    assert_eq!((status, &answer["error"]), (413, &json!("too_large")));
    rig.end().await;
}

#[tokio::test]
async fn the_queue_is_bounded() {
    let rig = Rig::with(|o| o.limits.queue = 2).await;
    let first = rig.submit("1").await;
    rig.submit("2").await;
    let (status, answer) = refused(&rig, json!({"kind": "note", "text": "3"})).await;
    assert_eq!((status, &answer["error"]), (503, &json!("queue_full")));
    rig.post(&format!("/jobs/{first}/cancel"), &json!({})).await;
    rig.submit("3").await;
    rig.end().await;
}

#[tokio::test]
async fn a_long_poll_answers_with_the_change() {
    let rig = Rig::start().await;
    let job = rig.submit("x").await;
    let seen = rig.job(&job).await["version"].as_u64().unwrap();
    // Nothing changes: the same version after the wait.
    let same = rig
        .get(&format!("/jobs/{job}?after={seen}&waitMs=20"))
        .await;
    assert_eq!(same["version"], seen);
    // An older version answers at once; so does one of another run.
    for after in [seen - 1, seen + 1000] {
        let path = format!("/jobs/{job}?after={after}&waitMs=30000");
        let now = rig.get(&path);
        let now = tokio::time::timeout(Duration::from_secs(5), now)
            .await
            .unwrap();
        assert_eq!(now["version"], seen);
    }
    let path = format!("/jobs/{job}?after={seen}&waitMs=30000");
    let cancel = format!("/jobs/{job}/cancel");
    let (changed, _) = tokio::join!(rig.get(&path), rig.post(&cancel, &Value::Null));
    assert_eq!(changed["state"], "cancelled");
    let bad = rig
        .api(Method::GET, &format!("/jobs/{job}?after=x"))
        .send()
        .await
        .unwrap();
    assert_eq!(bad.status(), StatusCode::BAD_REQUEST);
    rig.end().await;
}

#[tokio::test]
async fn lists_are_filtered_and_bounded() {
    let rig = Rig::start().await;
    let ids = [
        rig.submit("1").await,
        rig.submit("2").await,
        rig.submit("3").await,
    ];
    rig.post(&format!("/jobs/{}/cancel", ids[1]), &Value::Null)
        .await;
    let names = |list: &Value| -> Vec<String> {
        let list = list.as_array().unwrap().iter();
        list.map(|job| job["jobId"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        names(&rig.get("/jobs?limit=2").await),
        [ids[2].clone(), ids[1].clone()]
    );
    assert_eq!(
        names(&rig.get("/jobs?state=queued").await),
        [ids[2].clone(), ids[0].clone()]
    );
    assert_eq!(
        names(&rig.get("/jobs?state=cancelled").await),
        [ids[1].clone()]
    );
    let bad = rig
        .api(Method::GET, "/jobs?state=asleep")
        .send()
        .await
        .unwrap();
    assert_eq!(bad.status(), StatusCode::BAD_REQUEST);
    rig.end().await;
}

#[tokio::test]
async fn unknown_and_hostile_ids_are_not_found() {
    let rig = Rig::start().await;
    for id in [
        "job-none",
        "..%2F..%2Fetc%2Fpasswd",
        "%00",
        ".hidden",
        &"x".repeat(200),
    ] {
        for path in [format!("/jobs/{id}"), format!("/jobs/{id}/result")] {
            let response = rig.api(Method::GET, &path).send().await.unwrap();
            assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
        }
        let response = rig.post(&format!("/jobs/{id}/cancel"), &Value::Null).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{id}");
    }
    rig.end().await;
}

#[tokio::test]
async fn a_running_job_is_cancelled_through_its_worker() {
    let rig = Rig::start().await;
    let mut worker = rig.worker_with("i-1", modern()).await;
    let job = rig.submit("x").await;
    worker.accept().await;
    worker.beat_with(Some(&job)).await;
    let path = format!("/jobs/{job}/cancel");
    let told = rig.post(&path, &Value::Null).await;
    assert_eq!(told.status(), StatusCode::ACCEPTED);
    assert_eq!(
        worker.frame().await,
        json!({"type": "jobCancel", "jobId": job})
    );
    assert_eq!(rig.job(&job).await["cancelling"], true);
    worker.fail(&job, "cancelled by the studio", true).await;
    assert_eq!(worker.frame().await["type"], "failAck");
    assert_eq!(rig.reach(&job, "cancelled").await["attempts"], 0);
    let again = rig.post(&path, &Value::Null).await;
    assert_eq!(again.status(), StatusCode::CONFLICT);
    let answer: Value = again.json().await.unwrap();
    assert_eq!(answer["error"], "already_finished");
    worker.expect_nothing(None).await;
    rig.end().await;
}

#[tokio::test]
async fn a_worker_that_cannot_be_told_goes_on() {
    let rig = Rig::start().await;
    let mut worker = rig.worker("i-1").await;
    let job = rig.submit("x").await;
    worker.accept().await;
    worker.beat_with(Some(&job)).await;
    let response = rig.post(&format!("/jobs/{job}/cancel"), &Value::Null).await;
    assert_eq!(response.status(), StatusCode::CONFLICT);
    let answer: Value = response.json().await.unwrap();
    assert_eq!(answer["error"], "cannot_cancel");
    worker.complete(&job, json!(1)).await;
    rig.reach(&job, "done").await;
    rig.end().await;
}

#[tokio::test]
async fn a_worker_that_ignores_the_cancel_does_not_hold_the_job_for_ever() {
    let rig = Rig::with(|o| {
        o.timing.alarm = Duration::from_millis(20);
        o.timing.cancel = Duration::from_millis(50);
    })
    .await;
    let mut worker = rig.worker_with("i-1", modern()).await;
    let job = rig.submit("x").await;
    worker.accept().await;
    worker.beat_with(Some(&job)).await;
    rig.post(&format!("/jobs/{job}/cancel"), &Value::Null).await;
    rig.reach(&job, "cancelled").await;
    assert_eq!(worker.frame().await["type"], "jobCancel");
    // Its result comes too late, which is no violation.
    worker.complete(&job, json!(1)).await;
    assert_eq!(worker.frame().await["type"], "completeAck");
    assert_eq!(rig.job(&job).await["state"], "cancelled");
    rig.end().await;
}

#[tokio::test]
async fn an_offered_job_is_cancelled_at_once() {
    let rig = Rig::start().await;
    let mut worker = rig.worker_with("i-1", modern()).await;
    let job = rig.submit("x").await;
    worker.offer().await;
    let response = rig.post(&format!("/jobs/{job}/cancel"), &Value::Null).await;
    assert_eq!(response.status(), StatusCode::OK);
    // The answer was on its way.
    worker.send(json!({"type": "accept", "jobId": job})).await;
    assert_eq!(
        worker.frame().await,
        json!({"type": "jobCancel", "jobId": job})
    );
    worker.fail(&job, "cancelled", false).await;
    assert_eq!(worker.frame().await["type"], "failAck");
    let next = rig.submit("next").await;
    assert_eq!(worker.accept().await, next);
    rig.end().await;
}

#[tokio::test]
async fn one_cancelled_while_its_worker_was_away_is_told_on_return() {
    let rig = Rig::start().await;
    let mut worker = rig.worker_with("i-1", modern()).await;
    let job = rig.submit("x").await;
    worker.accept().await;
    worker.beat_with(Some(&job)).await;
    let (id, token) = worker.vanish();
    while rig.get("/workers").await[0]["connected"] == true {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let response = rig.post(&format!("/jobs/{job}/cancel"), &Value::Null).await;
    assert_eq!(response.status(), StatusCode::OK);
    let mut worker = rig.greet(&id, &token, modern()).await;
    worker.send_beat(Some(&job)).await;
    assert_eq!(worker.frame().await["type"], "heartbeatAck");
    assert_eq!(
        worker.frame().await,
        json!({"type": "jobCancel", "jobId": job})
    );
    rig.end().await;
}
