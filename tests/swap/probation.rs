//! What is watched after it was taken in.

use std::fs;

use serde_json::json;
use worker_tests::{Answer, Host, offers};

use crate::support::{Rig, another, component, digest, nameless};

async fn spoiled() -> (Rig, Vec<u8>, Vec<u8>) {
    let good = nameless(&component("hostile"));
    let bad = nameless(&component("hostile-spoiled"));
    let rig = Rig::start(&[("hostile.wasm", &good)]).await;
    rig.put("hostile.wasm", &bad);
    rig.serves("hostile", &digest(&bad)).await;
    (rig, good, bad)
}

#[tokio::test]
async fn a_version_that_traps_on_its_third_job_is_rolled_back_and_the_job_succeeds() {
    let (rig, good, bad) = spoiled().await;
    for job in ["one", "two"] {
        rig.hostile(job, "fine").await;
        rig.api.result(job).await;
    }
    assert_eq!(rig.active("hostile").await, digest(&bad));
    rig.hostile("three", "spoil:panic").await;
    // Nothing was started, so it ran once more on the version before.
    rig.api.result("three").await;
    rig.serves("hostile", &digest(&good)).await;
    let reason = rig.candidate("hostile", "rolled-back").await;
    assert!(reason.contains("`hostile`"), "{reason}");
    assert_eq!(
        rig.story("hostile").await,
        ["active", "probation", "rolled-back", "quarantined"]
    );
    let third: Vec<String> = rig
        .journals()
        .into_iter()
        .filter(|(job, ..)| job == "three")
        .map(|(_, _, engine)| engine)
        .collect();
    assert_eq!(third, [digest(&bad), digest(&good)]);

    // The same defect in other bytes does not get past the journal of that job.
    rig.put("hostile.wasm", &another(&bad, "other"));
    let reason = rig.candidate("hostile", "refused").await;
    assert!(reason.contains("shadow"), "{reason}");
}

#[tokio::test]
async fn an_endless_step_is_rolled_back_too() {
    let (rig, good, _) = spoiled().await;
    rig.hostile("endless", "spoil:loop").await;
    rig.api.result("endless").await;
    rig.serves("hostile", &digest(&good)).await;
}

#[tokio::test]
async fn failing_where_it_did_not_before_is_rolled_back() {
    let (rig, good, bad) = spoiled().await;
    rig.hostile("first", "spoil:fail").await;
    rig.api.failure("first").await;
    assert_eq!(
        rig.active("hostile").await,
        digest(&bad),
        "one failure says nothing"
    );
    rig.hostile("second", "spoil:fail").await;
    rig.api.over("second").await;
    rig.serves("hostile", &digest(&good)).await;
    rig.hostile("third", "spoil:fail").await;
    rig.api.result("third").await;
    // What its jobs failed by may have been theirs.
    let status = rig.api.get("/daemon/status").await;
    assert_eq!(status["swap"]["quarantined"], json!([]));
}

/// Two jobs that the spoiled version fails.
async fn fails(rig: &Rig, round: &str) {
    for number in 1..=2 {
        let job = format!("{round}-{number}");
        rig.hostile(&job, "spoil:fail").await;
        rig.api.over(&job).await;
    }
    // Without them nothing speaks against it beforehand.
    for entry in fs::read_dir(rig.home.path("state/journal")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::remove_file(path).unwrap();
        }
    }
}

#[tokio::test]
async fn failing_a_second_time_quarantines_and_the_operator_may_forgive() {
    let (rig, good, bad) = spoiled().await;
    let file = rig.home.path("hostile.wasm");
    fs::write(&file, &bad).unwrap();
    let add = ["plugin", "add", file.to_str().unwrap()];
    fails(&rig, "first").await;
    rig.serves("hostile", &digest(&good)).await;
    rig.home.run(&add).await.ok();
    fails(&rig, "second").await;
    rig.serves("hostile", &digest(&good)).await;
    let error = rig.home.run(&add).await.error();
    assert!(error.contains("quarantined"), "{error}");
    let unknown = ["plugin", "forgive", "000000000000"];
    let error = rig.home.run(&unknown).await.error();
    assert!(error.contains("no quarantined version"), "{error}");
    assert_ne!(rig.home.run(&["plugin", "forgive", "00"]).await.code(), 0);
    let listed = rig.home.run(&["plugin", "list"]).await.ok();
    assert!(listed.contains(&digest(&bad)[..12]), "{listed}");
    let forgive = ["plugin", "forgive", &digest(&bad)[..12]];
    let told = rig.home.run(&forgive).await.ok();
    assert!(told.contains("no longer quarantined"), "{told}");
    rig.home.run(&add).await.ok();
    assert_eq!(rig.active("hostile").await, digest(&bad));
    let story = rig.story("hostile").await;
    let states: Vec<&str> = story.iter().map(String::as_str).collect();
    let twice = ["probation", "rolled-back"];
    let end = ["quarantined", "refused", "forgiven", "probation"];
    assert_eq!(states, [&["active"][..], &twice, &twice, &end].concat());
}

/// A dead URL, a host with a problem of its own: jobs fail by them, and no version is to blame.
#[tokio::test]
async fn what_a_host_does_not_give_is_held_against_no_version() {
    let host = Host::start(|target| match target.contains("gone") {
        true => Answer::new("404 Not Found", &[], ""),
        false => Answer::new("503 Service Unavailable", &[], ""),
    })
    .await;
    let first = component("scripted");
    let second = another(&first, "second");
    let rig = Rig::start(&[("scripted.wasm", &first)]).await;
    rig.put("scripted.wasm", &second);
    rig.serves("scripted", &digest(&second)).await;
    let fails = async |job: &str, script: serde_json::Value| {
        let finish = json!({"failure": "it cannot be done"});
        let task = json!({"kind": "scripted", "script": script, "finish": finish});
        let claim = offers::claim(job, "scripted", task, offers::source("scripted"));
        rig.api.offer(&claim).await;
        rig.api.over(job).await;
    };
    for (number, path) in ["/gone", "/busy", "/gone", "/busy"].iter().enumerate() {
        let script = json!([{"fetch": [{"url": host.url(path)}]}]);
        fails(&format!("host-{number}"), script).await;
    }
    let status = rig.api.get("/daemon/status").await;
    let state = &status["swap"]["states"]["scripted"];
    assert_eq!(state["digest"], digest(&second).as_str());
    assert_eq!(state["jobsLeft"], 20, "they say nothing for it either");
    // Its own word that it cannot is another matter.
    for job in ["own-1", "own-2"] {
        fails(job, json!([{"wait": 1}])).await;
    }
    rig.serves("scripted", &digest(&first)).await;
}

#[tokio::test]
async fn a_version_that_does_its_jobs_well_is_trusted_and_then_its_faults_are_its_jobs() {
    let (rig, _, bad) = spoiled().await;
    for job in 0..20 {
        let id = rig.hostile(&format!("job-{job}"), "fine").await;
        rig.api.result(&id).await;
    }
    rig.worker
        .status("the end of probation", |status| {
            status["swap"]["states"]["hostile"]["state"] == "active"
        })
        .await;
    rig.hostile("late", "spoil:panic").await;
    rig.api.failure("late").await;
    assert_eq!(rig.active("hostile").await, digest(&bad));
    let status = rig.api.get("/daemon/status").await;
    assert_eq!(status["swap"]["quarantined"], json!([]));
}

#[tokio::test]
async fn a_quarantine_outlives_a_restart() {
    let (rig, good, bad) = spoiled().await;
    rig.hostile("job", "spoil:panic").await;
    rig.api.result("job").await;
    rig.serves("hostile", &digest(&good)).await;
    let Rig {
        home,
        folder,
        worker,
        ..
    } = rig;
    worker.stop().await;
    let rig = Rig::with(home, folder, &[]).await;
    assert_eq!(rig.active("hostile").await, digest(&good));
    let status = rig.api.get("/daemon/status").await;
    assert_eq!(
        status["swap"]["quarantined"][0]["digest"],
        digest(&bad),
        "{status:#}"
    );
}
