//! New versions beside old ones, on the journals of jobs that were done.

use std::fs;

use serde_json::Value;

use crate::support::{Rig, another, component, digest, nameless};

#[tokio::test]
async fn a_version_that_breaks_on_a_job_of_before_never_serves() {
    let good = nameless(&component("hostile"));
    let bad = nameless(&component("hostile-spoiled"));
    let rig = Rig::start(&[("hostile.wasm", &good)]).await;
    for (job, words) in [("calm", "fine"), ("wild", "spoil:panic")] {
        rig.hostile(job, words).await;
        rig.api.result(job).await;
    }
    let before = rig.generation().await;
    rig.put("hostile.wasm", &bad);
    let reason = rig.candidate("hostile", "refused").await;
    assert!(
        reason.contains("shadow") && reason.contains("wild"),
        "{reason}"
    );
    assert_eq!(rig.generation().await, before);
}

#[tokio::test]
async fn a_new_failure_refuses_and_an_old_one_does_not() {
    let good = nameless(&component("hostile"));
    let bad = nameless(&component("hostile-spoiled"));
    let rig = Rig::start(&[("hostile.wasm", &bad)]).await;
    rig.hostile("failed", "spoil:fail").await;
    rig.api.failure("failed").await;
    // It failed with the version before as well.
    rig.put("hostile.wasm", &another(&bad, "other"));
    rig.serves("hostile", &digest(&another(&bad, "other")))
        .await;
    rig.put("hostile.wasm", &good);
    rig.serves("hostile", &digest(&good)).await;
    // And now it would be new.
    rig.put("hostile.wasm", &another(&bad, "third"));
    let reason = rig.candidate("hostile", "refused").await;
    assert!(reason.contains("failed"), "{reason}");
}

#[tokio::test]
async fn diff_and_replay_work_offline_and_say_the_same_fuel_each_time() {
    let good = nameless(&component("hostile"));
    let bad = nameless(&component("hostile-spoiled"));
    let rig = Rig::start(&[("hostile.wasm", &good)]).await;
    rig.hostile("calm", "fine").await;
    rig.api.result("calm").await;
    rig.hostile("wild", "spoil:fail").await;
    rig.api.result("wild").await;
    let Rig {
        home,
        folder: _folder,
        worker,
        ..
    } = rig;
    worker.stop().await;
    let mut files = Vec::new();
    for (name, bytes) in [("old", &good), ("new", &bad)] {
        let file = home.path(name).join("hostile.wasm");
        fs::create_dir(home.path(name)).unwrap();
        fs::write(&file, bytes).unwrap();
        files.push(file.to_str().unwrap().to_owned());
    }
    let diff = [
        "plugin",
        "diff",
        files[0].as_str(),
        files[1].as_str(),
        "--json",
    ];
    let told = home.run(&diff).await.json();
    let verdict = |job: &str| {
        let jobs = told["jobs"].as_array().unwrap();
        jobs.iter().find(|one| one["job"] == job).unwrap().clone()
    };
    assert_eq!(verdict("calm")["verdict"], "same", "{told:#}");
    assert_eq!(verdict("wild")["verdict"], "worse");
    assert!(verdict("calm")["oldFuel"].as_u64().unwrap() > 0);
    assert_eq!(home.run(&diff).await.json(), told);

    let served = home
        .run(&["plugin", "replay", "wild", "--json"])
        .await
        .json();
    assert_eq!(served["end"], "finishes", "{served:#}");
    let with = [
        "plugin",
        "replay",
        "wild",
        "--with",
        files[1].as_str(),
        "--json",
    ];
    let other: Value = home.run(&with).await.json();
    assert_eq!(other["end"], "fails: spoiled");
    assert_eq!(other["fuel"], home.run(&with).await.json()["fuel"]);
    let error = home.run(&["plugin", "replay", "nobody"]).await.error();
    assert!(error.contains("nobody"), "{error}");
}
