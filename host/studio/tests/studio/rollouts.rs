//! What ends a roll-out, what only leaves a worker out, and what is waited for, and for how long.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::pushing::{able, digest, of, push, push_of, pushed, told, told_by, until};
use crate::support::{Rig, Worker};

/// Long enough for what a test does meanwhile, short enough to be waited for.
const SOON: Duration = Duration::from_millis(400);

async fn restless() -> Rig {
    Rig::with(|options| options.timing.alarm = Duration::from_millis(50)).await
}

/// A studio that soon gives up waiting for a worker.
async fn impatient() -> Rig {
    Rig::with(|options| {
        options.timing.alarm = Duration::from_millis(50);
        options.timing.gone = SOON;
    })
    .await
}

async fn three(rig: &Rig) -> [Worker; 3] {
    [
        rig.worker_with("i-1", able()).await,
        rig.worker_with("i-2", able()).await,
        rig.worker_with("i-3", able()).await,
    ]
}

/// A worker in whose capabilities the pushed version serves.
fn serving() -> Value {
    let mut has = able();
    has["plugins"] =
        json!([{"name": "p", "version": "2.0.0", "digest": digest(), "state": "probation"}]);
    has
}

fn waits(view: &Value, words: &str) -> bool {
    let waiting = view["waiting"].as_str();
    waiting.is_some_and(|waiting| waiting.contains(words))
}

#[tokio::test]
async fn each_session_of_a_canary_soaks_anew_and_none_soaks_while_it_is_away() {
    let rig = restless().await;
    let mut one = rig.worker_with("i-1", able()).await;
    let mut two = rig.worker_with("i-2", able()).await;
    let id = push(&rig, json!({"soakSeconds": 2})).await;
    let update = pushed(&mut one).await;
    told(&mut one, &update, "probation", "").await;
    until(&rig, &id, |view| waits(view, "soaking")).await;
    let (worker, token) = one.vanish();
    until(&rig, &id, |view| waits(view, "is not connected")).await;
    // Its time passes without it.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    two.expect_nothing(None).await;
    assert_eq!(rig.get(&format!("/updates/{id}")).await["state"], "canary");
    // It is there again; that the version serves there it has yet to say.
    let mut one = rig.connect(&worker, &token, able()).await;
    until(&rig, &id, |view| waits(view, "has to say that it serves")).await;
    two.expect_nothing(None).await;
    told(&mut one, &update, "probation", "").await;
    until(&rig, &id, |view| waits(view, "soaking")).await;
    pushed(&mut two).await;
    rig.end().await;
}

#[tokio::test]
async fn a_canarys_jobs_count_from_when_it_began_to_serve() {
    let rig = Rig::start().await;
    let mut has = able();
    has["extensions"] = json!(["pluginUpdate", "pluginStatus", "servedBy"]);
    let mut one = rig.worker_with("i-1", has).await;
    let id = push(&rig, json!({"canaryJobs": 2})).await;
    let update = pushed(&mut one).await;
    told(&mut one, &update, "probation", "").await;
    // No heartbeat says what is left; the studio knows what it did, and on which version.
    let old = json!([{"name": "p", "version": "1.0.0", "digest": "old"}]);
    let new = json!([{"name": "p", "version": "2.0.0", "digest": digest()}]);
    for (plugins, left) in [(&old, "2 more jobs"), (&new, "1 more job"), (&new, "")] {
        let job = rig.submit("x").await;
        one.accept().await;
        let by = json!({"type": "servedBy", "jobId": job, "generation": "g", "plugins": plugins});
        one.send(by).await;
        one.complete(&job, json!(1)).await;
        assert_eq!(one.frame().await["type"], "completeAck");
        let view = rig.get(&format!("/updates/{id}")).await;
        match left {
            "" => assert_eq!(view["state"], "done"),
            left => assert!(waits(&view, left), "{view}"),
        }
    }
    rig.end().await;
}

#[tokio::test]
async fn workers_that_vanish_with_it_are_waited_for() {
    let rig = restless().await;
    let [mut one, mut two, mut three] = three(&rig).await;
    let id = push(&rig, json!({"canaryJobs": 0, "atOnce": 2})).await;
    let update = pushed(&mut one).await;
    told(&mut one, &update, "probation", "").await;
    pushed(&mut two).await;
    pushed(&mut three).await;
    told(&mut two, &update, "probation", "").await;
    until(&rig, &id, |view| of(view, &two)["state"] == "probation").await;
    let name = two.id.clone();
    let (worker, token) = two.vanish();
    until(&rig, &id, |view| waits(view, &name)).await;
    told(&mut three, &update, "probation", "").await;
    let view = until(&rig, &id, |view| of(view, &three)["state"] == "probation").await;
    assert_eq!(view["state"], "rolling", "{view}");
    let mut two = rig.connect(&worker, &token, serving()).await;
    until(&rig, &id, |view| view["state"] == "done").await;
    two.expect_nothing(None).await;
    rig.end().await;
}

#[tokio::test]
async fn one_that_stays_away_with_it_is_gone_and_stops_the_rollout() {
    for canary in [true, false] {
        let rig = impatient().await;
        let [mut one, mut two, mut three] = three(&rig).await;
        let rules = match canary {
            true => json!({"soakSeconds": 3600}),
            false => json!({"canaryJobs": 0, "atOnce": 1}),
        };
        let id = push(&rig, rules).await;
        let update = pushed(&mut one).await;
        told(&mut one, &update, "probation", "").await;
        let lost = match canary {
            true => one,
            false => {
                pushed(&mut two).await;
                told(&mut two, &update, "probation", "").await;
                two
            }
        };
        until(&rig, &id, |view| of(view, &lost)["state"] == "probation").await;
        let name = lost.id.clone();
        lost.vanish();
        let view = until(&rig, &id, |view| view["state"] == "stopped").await;
        let reason = view["reason"].as_str().unwrap();
        assert!(
            reason.contains(&name) && reason.contains("gone"),
            "{reason}"
        );
        if canary {
            three.expect_nothing(None).await;
        }
        rig.end().await;
    }
}

#[tokio::test]
async fn what_an_operator_decided_leaves_a_worker_out_and_another_is_the_canary() {
    let decided = [
        ("waiting", None),
        ("pinned", None),
        ("removed", None),
        ("refused", Some("locked")),
        ("refused", Some("unknown-key")),
        ("refused", Some("older")),
    ];
    for (state, rule) in decided {
        let rig = Rig::start().await;
        let [mut one, mut two, mut three] = three(&rig).await;
        let id = push(&rig, json!({"canary": one.id, "canaryJobs": 0})).await;
        let update = pushed(&mut one).await;
        told_by(&mut one, &update, state, "the operator's word", rule).await;
        pushed(&mut two).await;
        let view = until(&rig, &id, |view| view["canary"] == two.id.as_str()).await;
        assert_eq!(view["state"], "canary", "{state}");
        assert_eq!(of(&view, &one)["state"], state);
        assert_eq!(of(&view, &one)["meaning"], "declined");
        three.expect_nothing(None).await;
        told(&mut two, &update, "probation", "").await;
        pushed(&mut three).await;
        told_by(&mut three, &update, state, "the operator's word", rule).await;
        let view = until(&rig, &id, |view| view["state"] == "done").await;
        assert_eq!(of(&view, &two)["meaning"], "serves");
        assert_eq!(of(&view, &three)["meaning"], "declined");
        // It is not asked again.
        one.expect_nothing(None).await;
        rig.end().await;
    }
}

#[tokio::test]
async fn where_no_worker_takes_it_the_rollout_ends() {
    let rig = Rig::start().await;
    let mut one = rig.worker_with("i-1", able()).await;
    let away = rig.worker_with("i-2", able()).await;
    let (worker, token) = away.vanish();
    let id = push(&rig, json!({"canary": one.id, "canaryJobs": 0})).await;
    let update = pushed(&mut one).await;
    told(&mut one, &update, "pinned", "kept").await;
    // Another one may come yet.
    let view = until(&rig, &id, |view| waits(view, "and takes it")).await;
    assert_eq!(view["state"], "canary");
    let mut two = rig.greet(&worker, &token, able()).await;
    let update = {
        two.send_beat(None).await;
        let frames = [two.frame().await, two.frame().await];
        { frames }
            .into_iter()
            .find(|frame| frame["type"] == "pluginUpdate")
            .expect("the other one is the canary")
    };
    told_by(
        &mut two,
        &update,
        "refused",
        "kept as it is",
        Some("locked"),
    )
    .await;
    let view = until(&rig, &id, |view| view["state"] == "stopped").await;
    let reason = view["reason"].as_str().unwrap();
    assert!(reason.contains("no worker takes it"), "{reason}");
    // What an operator takes in later is known all the same.
    told(&mut one, &update, "probation", "").await;
    until(&rig, &id, |view| of(view, &one)["meaning"] == "serves").await;
    rig.end().await;
}

#[tokio::test]
async fn a_named_canary_that_never_comes_is_told_and_ends_the_rollout() {
    let rig = impatient().await;
    let mut one = rig.worker_with("i-1", able()).await;
    let (named, _) = rig.worker_with("i-2", able()).await.vanish();
    let id = push(&rig, json!({"canary": named, "canaryJobs": 0})).await;
    until(&rig, &id, |view| waits(view, "is not connected")).await;
    let view = until(&rig, &id, |view| view["state"] == "stopped").await;
    let reason = view["reason"].as_str().unwrap();
    assert!(
        reason.contains(&named) && reason.contains("did not come"),
        "{reason}"
    );
    one.expect_nothing(None).await;
    // Nothing stands in the way of the next push.
    push(&rig, json!({"canaryJobs": 0})).await;
    pushed(&mut one).await;
    rig.end().await;
}

#[tokio::test]
async fn a_canary_that_vanishes_before_it_has_it_gives_way_to_another() {
    let rig = impatient().await;
    let mut one = rig.worker_with("i-1", able()).await;
    let mut two = rig.worker_with("i-2", able()).await;
    let id = push(&rig, json!({"canaryJobs": 0})).await;
    let update = pushed(&mut one).await;
    told(&mut one, &update, "fetching", "").await;
    until(&rig, &id, |view| of(view, &one)["state"] == "fetching").await;
    let name = one.id.clone();
    let (worker, token) = one.vanish();
    pushed(&mut two).await;
    let view = rig.get(&format!("/updates/{id}")).await;
    assert_eq!(view["canary"], two.id.as_str());
    let share = |view: &Value| {
        let workers = view["workers"].as_array().unwrap();
        let found = workers.iter().find(|one| one["workerId"] == name.as_str());
        found.unwrap()["meaning"].as_str().unwrap().to_owned()
    };
    assert_eq!(share(&view), "gone");
    told(&mut two, &update, "probation", "").await;
    until(&rig, &id, |view| view["state"] == "done").await;
    // It gets it when it is there again.
    let mut one = rig.greet(&worker, &token, able()).await;
    one.send_beat(None).await;
    let frames = [one.frame().await, one.frame().await];
    assert!(frames.iter().any(|frame| frame["type"] == "pluginUpdate"));
    rig.end().await;
}

#[tokio::test]
async fn a_late_refusal_makes_no_earlier_rollout_the_one_that_counts() {
    let rig = Rig::start().await;
    let mut one = rig.worker_with("i-1", able()).await;
    for bytes in [b"earlier".as_slice(), b"later".as_slice()] {
        let id = push_of(&rig, bytes, json!({"canaryJobs": 0})).await;
        let update = pushed(&mut one).await;
        told(&mut one, &update, "probation", "").await;
        until(&rig, &id, |view| view["state"] == "done").await;
    }
    let newest = rig.get("/updates").await[0].clone();
    let mut late = rig.worker_with("i-2", able()).await;
    let update = pushed(&mut late).await;
    assert_eq!(update["updateId"], newest["updateId"]);
    told(&mut late, &update, "rolled-back", "it traps").await;
    let id = newest["updateId"].as_str().unwrap();
    let view = until(&rig, id, |view| of(view, &late)["meaning"] == "failed").await;
    assert_eq!(view["state"], "done");
    let mut later = rig.worker_with("i-3", able()).await;
    assert_eq!(pushed(&mut later).await["updateId"], newest["updateId"]);
    late.expect_nothing(None).await;
    rig.end().await;
}

#[tokio::test]
async fn a_component_may_have_what_a_plugin_may_have() {
    let rig = Rig::start().await;
    // More than any other body.
    let bytes = vec![0; worker_studio::guard::MAX_BODY_BYTES + 1];
    push_of(&rig, &bytes, json!({})).await;
    rig.end().await;
}

#[tokio::test]
async fn one_that_stopped_beyond_its_canary_is_the_last_word_and_one_that_stopped_with_it_is_none()
{
    for beyond in [true, false] {
        let rig = Rig::start().await;
        let mut one = rig.worker_with("i-1", able()).await;
        let mut two = rig.worker_with("i-2", able()).await;
        let earlier = push_of(&rig, b"earlier", json!({"canaryJobs": 0})).await;
        for worker in [&mut one, &mut two] {
            let update = pushed(worker).await;
            told(worker, &update, "probation", "").await;
        }
        until(&rig, &earlier, |view| view["state"] == "done").await;
        let later = push_of(&rig, b"later", json!({"canaryJobs": 0})).await;
        let update = pushed(&mut one).await;
        let breaks = match beyond {
            true => {
                told(&mut one, &update, "probation", "").await;
                pushed(&mut two).await;
                &mut two
            }
            false => &mut one,
        };
        told(breaks, &update, "rolled-back", "it traps").await;
        until(&rig, &later, |view| view["state"] == "stopped").await;
        let mut late = rig.worker_with("i-3", able()).await;
        match beyond {
            true => late.expect_nothing(None).await,
            false => assert_eq!(pushed(&mut late).await["updateId"], earlier.as_str()),
        }
        rig.end().await;
    }
}
