//! Roll-outs of pushed plugins, as scripted workers see them.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::pushing::{
    COMPONENT, able, digest, of, push, pushed, send_component, told, until,
};
use crate::support::{Rig, modern};

#[tokio::test]
async fn one_canary_first_then_all_then_those_that_come_later() {
    let rig = Rig::start().await;
    let mut one = rig.worker_with("i-1", able()).await;
    let mut two = rig.worker_with("i-2", able()).await;
    let mut deaf = rig.worker("i-3").await;
    let id = push(&rig, json!({})).await;
    let update = pushed(&mut one).await;
    assert_eq!(
        update,
        json!({
            "type": "pluginUpdate", "updateId": id, "name": "p", "version": "2.0.0",
            "digest": digest(), "size": COMPONENT.len(), "signature": "sig",
            "url": format!("/graphics/api/workers/{}/plugins/{}", one.id, digest()),
        })
    );
    told(&mut one, &update, "fetching", "").await;
    told(&mut one, &update, "probation", "compared on no journal").await;
    let view = until(&rig, &id, |view| of(view, &one)["state"] == "probation").await;
    assert_eq!(view["state"], "canary");
    assert_eq!(view["canary"], one.id.as_str());
    let waiting = view["waiting"].as_str().unwrap();
    assert!(waiting.contains("probation"), "{waiting}");
    let story: Vec<&str> = of(&view, &one)["story"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["state"].as_str().unwrap())
        .collect();
    assert_eq!(story, ["sent", "fetching", "probation"]);
    two.expect_nothing(None).await;
    // How much of the probation is left comes with heartbeats.
    one.capabilities["plugins"] = json!([{"name": "p", "version": "2.0.0", "digest": digest(), "state": "probation", "jobsLeft": 7}]);
    one.beat().await;
    let view = rig.get(&format!("/updates/{id}")).await;
    assert!(view["waiting"].as_str().unwrap().contains("7 more jobs"));

    told(&mut one, &update, "active", "its probation is over").await;
    let second = pushed(&mut two).await;
    assert_eq!(second["updateId"], id.as_str());
    told(&mut two, &second, "probation", "").await;
    let view = until(&rig, &id, |view| view["state"] == "done").await;
    assert_eq!(of(&view, &deaf)["state"], "no-extension");

    let mut late = rig.worker_with("i-4", able()).await;
    assert_eq!(pushed(&mut late).await["updateId"], id.as_str());
    // One that runs it already is sent nothing.
    let mut has = able();
    has["plugins"] = one.capabilities["plugins"].clone();
    let mut same = rig.worker_with("i-5", has).await;
    same.expect_nothing(None).await;
    let view = rig.get(&format!("/updates/{id}")).await;
    assert_eq!(of(&view, &same)["state"], "probation");
    // What it was never told about, it is never told about.
    deaf.expect_nothing(None).await;
    rig.end().await;
}

#[tokio::test]
async fn a_canary_that_ends_badly_stops_the_rollout() {
    for state in ["refused", "rolled-back", "quarantined"] {
        let rig = Rig::start().await;
        let mut one = rig.worker_with("i-1", able()).await;
        let mut two = rig.worker_with("i-2", able()).await;
        let id = push(&rig, json!({"canary": two.id})).await;
        let update = pushed(&mut two).await;
        told(&mut two, &update, state, "because").await;
        let view = until(&rig, &id, |view| view["state"] == "stopped").await;
        let reason = view["reason"].as_str().unwrap();
        assert!(
            reason.contains(&two.id) && reason.contains(state) && reason.contains("because"),
            "{reason}"
        );
        one.expect_nothing(None).await;
        let mut late = rig.worker_with("i-3", able()).await;
        late.expect_nothing(None).await;
        rig.end().await;
    }
}

#[tokio::test]
async fn a_later_worker_stops_it_too_and_few_are_under_way_at_a_time() {
    let rig = Rig::start().await;
    let mut workers = Vec::new();
    for number in 0..4 {
        workers.push(rig.worker_with(&format!("i-{number}"), able()).await);
    }
    let id = push(&rig, json!({"canaryJobs": 0, "atOnce": 1})).await;
    let update = pushed(&mut workers[0]).await;
    told(&mut workers[0], &update, "probation", "").await;
    let update = pushed(&mut workers[1]).await;
    workers[2].expect_nothing(None).await;
    told(&mut workers[1], &update, "probation", "").await;
    let update = pushed(&mut workers[2]).await;
    told(&mut workers[2], &update, "rolled-back", "it traps").await;
    until(&rig, &id, |view| view["state"] == "stopped").await;
    workers[3].expect_nothing(None).await;
    // It was beyond its canary, so that those that come later get no earlier one either.
    workers.push(rig.worker_with("i-9", able()).await);
    workers[4].expect_nothing(None).await;
    rig.end().await;
}

#[tokio::test]
async fn an_idle_canary_passes_by_soaking() {
    let rig = Rig::with(|options| options.timing.alarm = Duration::from_millis(50)).await;
    let mut one = rig.worker_with("i-1", able()).await;
    let mut two = rig.worker_with("i-2", able()).await;
    let id = push(&rig, json!({"soakSeconds": 1})).await;
    let update = pushed(&mut one).await;
    told(&mut one, &update, "probation", "").await;
    let view = until(&rig, &id, |view| of(view, &one)["state"] == "probation").await;
    assert!(view["waiting"].as_str().unwrap().contains("soaking"));
    pushed(&mut two).await;
    rig.end().await;
}

#[tokio::test]
async fn a_rollout_outlives_a_restart_and_a_dropped_session() {
    let rig = Rig::with(|options| options.timing.retry = Duration::ZERO).await;
    let mut one = rig.worker_with("i-1", able()).await;
    let id = push(&rig, json!({})).await;
    pushed(&mut one).await;
    let (worker, token) = one.vanish();
    let rig = rig.restart().await;
    let view = rig.get(&format!("/updates/{id}")).await;
    assert_eq!(view["state"], "canary");
    assert!(view["waiting"].as_str().unwrap().contains("not connected"));
    // Nobody knows whether it arrived, so it is sent again, under the same id.
    let mut one = rig.greet(&worker, &token, able()).await;
    one.send_beat(None).await;
    // It goes out with the welcome, so that the heartbeat's acknowledgement comes before or after it.
    let frames = [one.frame().await, one.frame().await];
    let update = frames
        .into_iter()
        .find(|frame| frame["type"] == "pluginUpdate")
        .expect("the update is sent again");
    assert_eq!(update["updateId"], id.as_str());
    told(&mut one, &update, "interrupted", "the worker ended").await;
    let update = pushed(&mut one).await;
    // What the route gives is the component, for this worker only.
    let url = format!("{}{}", rig.base, update["url"].as_str().unwrap());
    let get = |token: &str| rig.http.get(&url).bearer_auth(token).send();
    assert_eq!(
        get("wrong").await.unwrap().status(),
        StatusCode::UNAUTHORIZED
    );
    let bytes = get(&token).await.unwrap().bytes().await.unwrap();
    assert_eq!(&bytes[..], COMPONENT);
    for _ in 0..2 {
        told(&mut one, &update, "fetch-failed", "no route").await;
        pushed(&mut one).await;
    }
    told(&mut one, &update, "fetch-failed", "no route at all").await;
    until(&rig, &id, |view| view["state"] == "stopped").await;
    rig.end().await;
}

#[tokio::test]
async fn what_cannot_be_pushed_is_refused_and_begins_nothing() {
    let rig = Rig::start().await;
    let worker = rig.worker_with("i-1", modern()).await;
    let wrong = rig
        .api(Method::PUT, &format!("/components/{}", "ab".repeat(32)))
        .body(COMPONENT)
        .send()
        .await
        .unwrap();
    assert_eq!(wrong.status(), StatusCode::BAD_REQUEST);
    let good = json!({"name": "p", "version": "2", "digest": digest(), "signature": "sig"});
    let rig_ref = &rig;
    let refused = |body: Value| async move {
        let answer = rig_ref.post("/updates", &body).await;
        let status = answer.status().as_u16();
        let told: Value = answer.json().await.unwrap();
        (status, told["error"].as_str().unwrap().to_owned())
    };
    assert_eq!(
        refused(good.clone()).await,
        (409, "no_component".to_owned())
    );
    send_component(&rig, COMPONENT).await;
    for (field, value, status, code) in [
        ("name", json!("../x"), 400, "bad_request"),
        ("name", json!(7), 400, "bad_request"),
        ("digest", json!("x"), 400, "bad_request"),
        ("version", json!("1\n"), 400, "bad_request"),
        ("signature", json!(" "), 400, "unsigned"),
        ("canary", json!("w-nobody"), 404, "unknown_worker"),
        ("soakSeconds", json!(u64::MAX), 400, "bad_request"),
    ] {
        let mut body = good.clone();
        body[field] = value;
        assert_eq!(refused(body).await, (status, code.to_owned()), "{field}");
    }
    assert_eq!(rig.get("/updates").await, json!([]));
    let id = push(&rig, json!({})).await;
    assert_eq!(refused(good).await, (409, "under_way".to_owned()));
    let cancelled = rig.post(&format!("/updates/{id}/cancel"), &json!({})).await;
    assert_eq!(cancelled.status(), StatusCode::OK);
    assert_eq!(rig.get("/updates").await[0]["state"], "cancelled");
    let again = rig.post(&format!("/updates/{id}/cancel"), &json!({})).await;
    assert_eq!(again.status(), StatusCode::CONFLICT);
    drop(worker);
    rig.end().await;
}

#[tokio::test]
async fn a_hostile_workers_words_are_bounded_and_move_nothing() {
    let rig = Rig::start().await;
    let mut one = rig.worker_with("i-1", able()).await;
    let mut two = rig.worker_with("i-2", able()).await;
    let id = push(&rig, json!({})).await;
    let update = pushed(&mut one).await;
    // Never sent to it, so it has no say.
    told(&mut two, &update, "quarantined", "out of spite").await;
    for number in 0..2_000 {
        two.send(json!({
            "type": "pluginStatus", "name": format!("p-{number}"), "state": "x".repeat(500),
            "reason": "y".repeat(5_000),
        }))
        .await;
    }
    two.send(json!({"type": "pluginStatus", "name": "../x"}))
        .await;
    two.beat().await;
    told(
        &mut one,
        &update,
        &"tea-break".repeat(20),
        &"z".repeat(9_000),
    )
    .await;
    let view = until(&rig, &id, |view| {
        of(view, &one)["state"]
            .as_str()
            .unwrap()
            .starts_with("tea-break")
    })
    .await;
    assert_eq!(
        view["state"], "canary",
        "a word that is not known moves nothing"
    );
    assert!(of(&view, &one)["reason"].as_str().unwrap().len() <= 2_000);
    assert_eq!(of(&view, &two)["state"], "not-sent");
    assert!(view["waiting"].as_str().unwrap().contains("tea-break"));
    assert!(rig.get("/workers").await.to_string().len() < 1 << 20);
    rig.end().await;
}
