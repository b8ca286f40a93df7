//! Who gets which job, and what becomes of it.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use worker_wire::reject;

use crate::support::{Rig, but, capabilities, modern};

#[tokio::test]
async fn a_json_job_from_queue_to_acknowledgement() {
    let rig = Rig::start().await;
    let mut worker = rig.worker("i-1").await;
    let text = "ein sehr langer Wunsch 🐟 ".repeat(40);
    let job = rig.submit(&text).await;
    let claim = worker.offer().await;
    assert_eq!(claim["jobId"], job.as_str());
    assert_eq!(claim["model"], "m");
    assert_eq!(claim["vramGbEstimate"], 1.5);
    assert_eq!(claim["task"]["text"], text.as_str());
    assert_eq!(claim["modelSource"]["engine"], "scribe");
    assert!(claim["gameId"].is_string() && claim["assetName"].is_string());
    assert_eq!(rig.job(&job).await["state"], "offered");

    worker.send(json!({"type": "accept", "jobId": job})).await;
    worker.beat_with(Some(&job)).await;
    let running = rig.job(&job).await;
    assert_eq!(running["state"], "running");
    assert_eq!(running["worker"], worker.id.as_str());

    worker.text(format!(
        r#"{{"type":"completeJson","jobId":"{job}","result":{{"b":1.0,"a":18446744073709551616}},"prompt":"full"}}"#
    )).await;
    let ack = worker.frame().await;
    assert_eq!(ack, json!({"type": "completeAck", "jobId": job}));
    let done = rig.reach(&job, "done").await;
    assert_eq!(done["prompt"], "full");
    assert_eq!(done["mediaType"], "application/json");
    assert_eq!(done["attempts"], 0);
    let result = rig
        .api(reqwest::Method::GET, &format!("/jobs/{job}/result"))
        .send()
        .await
        .unwrap();
    assert_eq!(result.headers()["content-type"], "application/json");
    // Byte for byte, numbers that no integer type holds included.
    assert_eq!(
        result.text().await.unwrap(),
        r#"{"b":1.0,"a":18446744073709551616}"#
    );

    // Twice in one session is what the protocol forbids.
    worker.complete(&job, json!({})).await;
    assert_eq!(
        worker.ended().await,
        (Some("protocol_violation".to_owned()), 4002)
    );
    rig.end().await;
}

#[tokio::test]
async fn one_offer_at_a_time_and_the_next_follows_the_acknowledgement() {
    let rig = Rig::start().await;
    let mut worker = rig.worker("i-1").await;
    let first = rig.submit("1").await;
    let second = rig.submit("2").await;
    let third = rig.submit("3").await;
    assert_eq!(worker.offer().await["jobId"], first.as_str());
    worker.expect_nothing(None).await;
    worker.send(json!({"type": "accept", "jobId": first})).await;
    worker.expect_nothing(Some(&first)).await;
    worker.complete(&first, json!(1)).await;
    assert_eq!(worker.frame().await["type"], "completeAck");
    assert_eq!(worker.accept().await, second);
    worker.fail(&second, "bad input", false).await;
    assert_eq!(
        worker.frame().await,
        json!({"type": "failAck", "jobId": second})
    );
    assert_eq!(worker.accept().await, third);
    let failed = rig.job(&second).await;
    assert_eq!(failed["state"], "failed");
    assert_eq!(failed["error"], "bad input");
    assert_eq!(failed["retryable"], false);
    rig.end().await;
}

#[tokio::test]
async fn the_earliest_connected_worker_that_can_gets_it() {
    let rig = Rig::start().await;
    let unfit = [
        json!({"autoEnabled": false}),
        json!({"taskKinds": ["other"]}),
        json!({"modelEngines": ["other"]}),
        json!({"vramThresholdGb": 1.0}),
        json!({"onlyWhenIdle": true}),
        json!({"onlyWhenIdle": true, "userPresence": "active"}),
    ];
    let mut others = Vec::new();
    for (n, change) in unfit.into_iter().enumerate() {
        others.push(rig.worker_with(&format!("i-{n}"), but(change)).await);
    }
    // One that has not sent a heartbeat, and one that is busy with something else.
    let (id, token) = rig.register("i-new").await;
    let mut unheard = rig.greet(&id, &token, capabilities()).await;
    let mut busy = rig.worker("i-busy").await;
    busy.beat_with(Some("job-of-another-studio")).await;

    let mut first = rig
        .worker_with(
            "i-first",
            but(json!({"onlyWhenIdle": true, "userPresence": "idle"})),
        )
        .await;
    let mut second = rig
        .worker_with("i-second", but(json!({"modelEngines": []})))
        .await;
    let one = rig.submit("1").await;
    assert_eq!(first.offer().await["jobId"], one.as_str());
    let two = rig.submit("2").await;
    assert_eq!(second.offer().await["jobId"], two.as_str());
    for other in &mut others {
        other.expect_nothing(None).await;
    }
    busy.expect_nothing(Some("job-of-another-studio")).await;

    // The heartbeat of an idle worker brings the next one.
    let three = rig.submit("3").await;
    unheard.beat().await;
    assert_eq!(unheard.offer().await["jobId"], three.as_str());
    rig.end().await;
}

#[tokio::test]
async fn a_passing_reject_counts_no_attempt_and_waits_for_a_heartbeat() {
    let rig = Rig::start().await;
    for (n, (reason, code)) in [
        (reject::BUSY_TEXT, None),
        (reject::PAUSED_TEXT, None),
        ("some other words", Some(reject::BUSY)),
        ("some other words", Some(reject::PAUSED)),
        ("worker paused by operator", Some("a_code_of_next_year")),
    ]
    .into_iter()
    .enumerate()
    {
        let mut worker = rig.worker(&format!("i-{n}")).await;
        let job = rig.submit("x").await;
        worker.offer().await;
        worker.reject(&job, reason, code).await;
        let queued = rig.follow(&job, |job| job["state"] == "queued").await;
        assert_eq!(queued["attempts"], 0);
        assert_eq!(
            queued["lastReject"],
            json!({"code": code, "reason": reason})
        );
        // Not at once, but with the next heartbeat.
        worker.beat().await;
        assert_eq!(worker.accept().await, job);
        worker.complete(&job, json!(1)).await;
        assert_eq!(worker.frame().await["type"], "completeAck");
        worker.vanish();
    }
    rig.end().await;
}

#[tokio::test]
async fn too_little_memory_refuses_one_job_only() {
    let rig = Rig::start().await;
    let mut worker = rig.worker("i-1").await;
    let large = rig.submit("large").await;
    let small = rig.submit("small").await;
    worker.offer().await;
    worker
        .reject(
            &large,
            "insufficient device memory: …",
            Some(reject::INSUFFICIENT_MEMORY),
        )
        .await;
    assert_eq!(worker.accept().await, small);
    worker.complete(&small, json!(1)).await;
    assert_eq!(worker.frame().await["type"], "completeAck");
    worker.beat().await;
    assert_eq!(worker.accept().await, large);
    rig.end().await;
}

#[tokio::test]
async fn a_final_reject_goes_to_somebody_else() {
    let rig = Rig::start().await;
    let mut first = rig.worker("i-1").await;
    let mut second = rig.worker("i-2").await;
    let job = rig.submit("x").await;
    first.offer().await;
    first
        .reject(&job, "no such model", Some(reject::UNSUPPORTED_ENGINE))
        .await;
    second.offer().await;
    second.reject(&job, "nor here", None).await;
    let queued = rig
        .follow(&job, |job| job["lastReject"]["reason"] == "nor here")
        .await;
    assert_eq!(queued["state"], "queued");
    assert_eq!(queued["attempts"], 0);
    let waiting = queued["waiting"].as_str().unwrap();
    assert!(
        waiting.contains("every connected worker") && waiting.contains("nor here"),
        "{waiting}"
    );
    first.expect_nothing(None).await;
    // Other plugins, another answer.
    second.capabilities["plugins"] =
        json!([{"name": "p", "version": "2", "digest": "d", "state": "active"}]);
    second.beat().await;
    assert_eq!(second.accept().await, job);
    rig.end().await;
}

#[tokio::test]
async fn losing_the_race_after_an_upload_does_not_cost_a_heartbeat() {
    let rig = Rig::start().await;
    let mut worker = rig.worker("i-1").await;
    let first = rig.submit("1").await;
    let second = rig.submit("2").await;
    worker.accept().await;
    worker.complete(&first, json!(1)).await;
    assert_eq!(worker.frame().await["type"], "completeAck");
    // The slot is not free yet.
    for _ in 0..2 {
        worker.offer().await;
        worker
            .reject(&second, reject::BUSY_TEXT, Some(reject::BUSY))
            .await;
    }
    assert_eq!(worker.accept().await, second);
    rig.end().await;
}

#[tokio::test]
async fn three_attempts_and_no_more() {
    let rig = Rig::start().await;
    let mut worker = rig.worker("i-1").await;
    let job = rig.submit("x").await;
    for attempt in 1..=3 {
        assert_eq!(worker.accept().await, job);
        worker
            .fail(&job, &format!("out of memory {attempt}"), true)
            .await;
        assert_eq!(worker.frame().await["type"], "failAck");
    }
    let failed = rig.reach(&job, "failed").await;
    assert_eq!(failed["attempts"], 3);
    assert_eq!(failed["error"], "out of memory 3");
    worker.expect_nothing(None).await;
    let result = rig
        .api(reqwest::Method::GET, &format!("/jobs/{job}/result"))
        .send()
        .await
        .unwrap();
    assert_eq!(result.status(), StatusCode::CONFLICT);
    rig.end().await;
}

#[tokio::test]
async fn a_dropped_socket_releases_offer_and_claim() {
    let rig = Rig::start().await;
    let mut worker = rig.worker("i-1").await;
    let job = rig.submit("x").await;
    worker.offer().await;
    worker.vanish();
    let queued = rig.reach(&job, "queued").await;
    assert_eq!(queued["attempts"], 0);
    let mut worker = rig.worker("i-2").await;
    worker.accept().await;
    rig.reach(&job, "running").await;
    worker.vanish();
    let queued = rig.reach(&job, "queued").await;
    assert_eq!(queued["attempts"], 1);
    assert!(
        queued["error"]
            .as_str()
            .unwrap()
            .contains("connection ended")
    );
    rig.end().await;
}

#[tokio::test]
async fn an_unanswered_offer_is_withdrawn() {
    let rig = Rig::with(|o| {
        o.timing.alarm = Duration::from_millis(20);
        o.timing.answer = Duration::from_millis(500);
    })
    .await;
    let mut slow = rig.worker_with("i-1", modern()).await;
    let mut quick = rig.worker("i-2").await;
    let job = rig.submit("x").await;
    slow.offer().await;
    // The slow one may be offered it again, being first; it never answers, so keep it out.
    slow.capabilities["autoEnabled"] = false.into();
    slow.send_beat(None).await;
    assert_eq!(quick.accept().await, job);
    // Its late answer is told that it is late.
    slow.send(json!({"type": "accept", "jobId": job})).await;
    let told = loop {
        let frame = slow.frame().await;
        if frame["type"] == "jobCancel" {
            break frame;
        }
    };
    assert_eq!(told["jobId"], job.as_str());
    quick.complete(&job, json!(1)).await;
    rig.reach(&job, "done").await;
    rig.end().await;
}

#[tokio::test]
async fn what_nobody_serves_waits_and_says_so() {
    let rig = Rig::start().await;
    let offer = |task: Value, source: Value, vram: f32| json!({"offer": {"model": "m", "vramGbEstimate": vram, "task": task, "modelSource": source}});
    let queued = async |body: Value| -> String {
        let answer: Value = rig.post("/jobs", &body).await.json().await.unwrap();
        answer["jobId"].as_str().unwrap().to_owned()
    };
    let job = queued(offer(
        json!({"kind": "mesh"}),
        json!({"engine": "torch"}),
        1.0,
    ))
    .await;
    assert_eq!(rig.job(&job).await["waiting"], "no worker is connected");
    let mut worker = rig.worker("i-1").await;
    assert_eq!(
        rig.job(&job).await["waiting"],
        "no connected worker serves kind mesh with engine torch"
    );
    let job = queued(offer(
        json!({"kind": "note"}),
        json!({"engine": "scribe"}),
        99.0,
    ))
    .await;
    let waiting = rig.job(&job).await["waiting"].as_str().unwrap().to_owned();
    assert!(waiting.contains("99 GiB"), "{waiting}");
    worker.capabilities["autoEnabled"] = false.into();
    worker.beat().await;
    let job = queued(offer(
        json!({"kind": "note"}),
        json!({"engine": "scribe"}),
        1.0,
    ))
    .await;
    assert_eq!(
        rig.job(&job).await["waiting"],
        "every worker that serves it is paused"
    );
    worker.expect_nothing(None).await;
    rig.end().await;
}

#[tokio::test]
async fn progress_is_shown_to_whoever_waits() {
    let rig = Rig::start().await;
    let mut worker = rig.worker_with("i-1", modern()).await;
    let job = rig.submit("x").await;
    worker.accept().await;
    worker
        .send(json!({"type": "progress", "jobId": job, "done": 3, "total": 8, "note": "n".repeat(500)}))
        .await;
    let seen = rig.follow(&job, |job| job["progress"].is_object()).await;
    assert_eq!(seen["progress"]["done"], 3);
    assert_eq!(seen["progress"]["total"], 8);
    assert_eq!(seen["progress"]["note"].as_str().unwrap().len(), 200);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_workers_and_many_jobs_meet_once_each() {
    const JOBS: usize = 60;
    let rig = Rig::start().await;
    let done = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut working = Vec::new();
    for n in 0..4 {
        let mut worker = rig.worker_with(&format!("i-{n}"), modern()).await;
        let done = std::sync::Arc::clone(&done);
        working.push(tokio::spawn(async move {
            loop {
                let frame = worker.frame().await;
                if frame["type"] != "offer" {
                    continue;
                }
                let job = frame["claim"]["jobId"].as_str().unwrap().to_owned();
                worker.send(json!({"type": "accept", "jobId": job})).await;
                worker.complete(&job, json!(n)).await;
                done.lock().unwrap().push(job);
            }
        }));
    }
    let submitting = (0..JOBS).map(|n| rig.submit(if n % 2 == 0 { "even" } else { "odd" }));
    let jobs = futures_util::future::join_all(submitting).await;
    for job in &jobs {
        assert_eq!(rig.reach(job, "done").await["attempts"], 0);
    }
    let mut done = std::mem::take(&mut *done.lock().unwrap());
    done.sort();
    let mut expected = jobs;
    expected.sort();
    assert_eq!(done, expected);
    for task in working {
        task.abort();
    }
    rig.end().await;
}
