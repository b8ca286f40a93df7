//! What is watched after it was taken in.

use serde_json::json;

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
