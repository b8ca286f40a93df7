//! `plugin add | remove | rollback | pin | unpin | history | list`, beside a worker and without one.

use std::fs;

use crate::support::{Rig, a_while, another, component, digest};

#[tokio::test]
async fn an_operator_adds_pins_and_rolls_back_beside_a_running_worker() {
    let first = component("haiku");
    let second = another(&first, "second");
    let third = another(&first, "third");
    let rig = Rig::start(&[("haiku.wasm", &first)]).await;
    let file = rig.home.path("haiku.wasm");
    fs::write(&file, &second).unwrap();
    let told = rig
        .home
        .run(&["plugin", "add", file.to_str().unwrap()])
        .await
        .ok();
    assert!(told.contains(&digest(&second)[..12]), "{told}");
    assert_eq!(rig.active("haiku").await, digest(&second));
    rig.home.run(&["plugin", "rollback", "haiku"]).await.ok();
    assert_eq!(rig.active("haiku").await, digest(&first));
    // And forth again.
    rig.home.run(&["plugin", "rollback", "haiku"]).await.ok();
    assert_eq!(rig.active("haiku").await, digest(&second));
    rig.home.run(&["plugin", "pin", "haiku"]).await.ok();
    rig.put("haiku.wasm", &third);
    rig.candidate("haiku", "pinned").await;
    let error = rig.home.run(&["plugin", "rollback", "haiku"]).await.error();
    assert!(error.contains("pinned"), "{error}");
    let listed = rig.home.run(&["plugin", "list"]).await.ok();
    assert!(
        listed.contains("(pinned)") && listed.contains("plugin unpin haiku"),
        "{listed}"
    );
    assert_eq!(rig.active("haiku").await, digest(&second));
    rig.home.run(&["plugin", "unpin", "haiku"]).await.ok();
    rig.serves("haiku", &digest(&third)).await;
    let listed = rig.home.run(&["plugin", "list"]).await.ok();
    assert!(listed.contains("jobs left"), "{listed}");
    let story = rig.home.run(&["plugin", "history", "haiku"]).await.ok();
    for state in [
        "probation",
        "rolled back by the operator",
        "pinned",
        "unpinned",
    ] {
        assert!(story.contains(state), "{state}: {story}");
    }
    rig.home.run(&["plugin", "remove", "haiku"]).await.ok();
    rig.serves("haiku", "").await;
    a_while().await;
    assert_eq!(rig.active("haiku").await, "", "its file has not changed");
    for action in ["remove", "pin", "rollback"] {
        let error = rig.home.run(&["plugin", action, "nobody"]).await.error();
        assert!(error.contains("nobody"), "{error}");
    }
}

#[tokio::test]
async fn the_same_on_the_store_of_a_worker_that_does_not_run() {
    let first = component("haiku");
    let second = another(&first, "second");
    let rig = Rig::start(&[("haiku.wasm", &first)]).await;
    let file = rig.home.path("haiku.wasm");
    fs::write(&file, &second).unwrap();
    let Rig {
        home,
        folder,
        worker,
        ..
    } = rig;
    worker.stop().await;
    let run = |line: &'static [&'static str]| home.run(line);
    home.run(&["plugin", "add", file.to_str().unwrap()])
        .await
        .ok();
    let listed = run(&["plugin", "list"]).await.ok();
    assert!(listed.contains(&digest(&second)[..12]), "{listed}");
    run(&["plugin", "rollback", "haiku"]).await.ok();
    run(&["plugin", "rollback", "haiku"]).await.ok();
    run(&["plugin", "pin", "haiku"]).await.ok();
    let story = run(&["plugin", "history"]).await.ok();
    assert!(story.contains("pinned"), "{story}");
    let rig = Rig::with(home, folder, &[]).await;
    assert_eq!(rig.active("haiku").await, digest(&second));
    rig.haiku().await;
}
