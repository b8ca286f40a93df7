//! `kill -9` at every point of a swap, then a start: a whole generation serves, and nothing is left lying about.

use std::fs;

use serde_json::Value;
use worker_tests::wait::rows;
use worker_tests::{Home, PluginFolder, Worker};

use crate::support::{Rig, another, component, digest, rename_in};

/// Every point on a file's way that the code names, in order, and whether the new version was recorded by then. Those of a push are in
/// `push/crashes.rs`.
const POINTS: [(&str, bool); 13] = [
    ("read", false),
    ("storing", false),
    ("stored", false),
    ("verified", false),
    ("examined", false),
    ("sealing", false),
    ("compiled", false),
    ("linked", false),
    ("probed", false),
    ("shadowed", false),
    ("recording", false),
    ("recorded", true),
    ("published", true),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_point_leaves_a_whole_generation() {
    rows(POINTS.map(|(point, recorded)| (point, kill_at(point, recorded)))).await;
}

async fn kill_at(point: &'static str, recorded: bool) {
    let first = component("haiku");
    let second = another(&first, "second");
    let home = Home::new();
    let folder = PluginFolder::first_party().file("haiku.wasm", &first);
    // A clean start and end, so that only the swap is interrupted.
    let rig = Rig::with(home, folder, &[]).await;
    let Rig {
        home,
        folder,
        worker,
        ..
    } = rig;
    worker.stop().await;
    let mut command = home.command(&["run", "--plugins"]);
    command.arg(folder.path());
    command.env("STUDIO_WORKER_FAILPOINT", point);
    let mut worker = Worker::start(command, &home.path("local-api.json"));
    worker.connected().await;
    rename_in(folder.path(), "haiku.wasm", &second);
    let status = worker.ended().await;
    assert!(!status.success(), "{point}: it was killed: {status}");

    let rig = Rig::with(home, folder, &[]).await;
    rig.haiku().await;
    if recorded {
        // It crashed during its probation: the version before serves, and this one is not tried by itself again.
        assert_eq!(rig.active("haiku").await, digest(&first), "{point}");
        assert_eq!(state(&rig).await, ("active".to_owned(), digest(&first)));
        assert!(
            rig.story("haiku").await.contains(&"rolled-back".to_owned()),
            "{point}"
        );
    } else {
        // Nothing was decided yet, so it is decided now.
        rig.serves("haiku", &digest(&second)).await;
        assert_eq!(
            state(&rig).await,
            ("probation".to_owned(), digest(&second)),
            "{point}"
        );
        let story = rig.story("haiku").await;
        assert_eq!(story.last().map(String::as_str), Some("probation"));
    }
    is_clean(&rig.home, point);
}

/// What is told of the plugin.
async fn state(rig: &Rig) -> (String, String) {
    let status = rig.api.get("/daemon/status").await;
    let told = &status["swap"]["states"]["haiku"];
    let text = |name: &str| told[name].as_str().unwrap().to_owned();
    (text("state"), text("digest"))
}

/// Nothing is left of what was being written, and everything is what its name says.
pub(crate) fn is_clean(home: &Home, point: &str) {
    let names = |folder: &str| -> Vec<String> {
        let entries = fs::read_dir(home.path(folder)).unwrap().flatten();
        entries
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect()
    };
    for name in names("state/plugins") {
        let known = ["files", "plugins.json", "updates.json", "incoming"];
        assert!(known.contains(&name.as_str()), "{point}: {name} was left");
    }
    for name in names("state/compiled") {
        let known = name == "seal.key" || name.ends_with(".compiled");
        assert!(known, "{point}: {name} was left");
    }
    assert_eq!(names("state/plugins/incoming"), [""; 0], "{point}");
    for name in names("state/plugins/files") {
        let bytes = fs::read(home.path("state/plugins/files").join(&name)).unwrap();
        assert_eq!(name, format!("{}.wasm", digest(&bytes)), "{point}");
    }
    let book = fs::read(home.path("state/plugins/plugins.json")).unwrap();
    serde_json::from_slice::<Value>(&book).unwrap();
}

#[tokio::test]
async fn a_second_crash_during_probation_quarantines() {
    let first = component("haiku");
    let second = another(&first, "second");
    let rig = Rig::start(&[("haiku.wasm", &first)]).await;
    let (mut rig, mut rounds) = (rig, 0);
    loop {
        let file = rig.home.path("haiku.wasm");
        fs::write(&file, &second).unwrap();
        let added = rig
            .home
            .run(&["plugin", "add", file.to_str().unwrap()])
            .await;
        if rounds == 2 {
            assert!(added.error().contains("quarantined"));
            break;
        }
        added.ok();
        rig.serves("haiku", &digest(&second)).await;
        rig.worker.kill().await;
        let Rig { home, folder, .. } = rig;
        rig = Rig::with(home, folder, &[]).await;
        assert_eq!(rig.active("haiku").await, digest(&first));
        rounds += 1;
    }
}

#[tokio::test]
async fn a_damaged_store_falls_back_to_what_was_before_and_then_to_the_built_in() {
    let first = component("haiku");
    let second = another(&first, "second");
    let rig = Rig::start(&[("haiku.wasm", &first)]).await;
    rig.put("haiku.wasm", &second);
    rig.serves("haiku", &digest(&second)).await;
    let files = rig.home.path("state/plugins/files");
    let Rig {
        home,
        folder,
        worker,
        ..
    } = rig;
    worker.stop().await;
    fs::write(
        files.join(format!("{}.wasm", digest(&second))),
        b"something else",
    )
    .unwrap();
    let router = fs::read(folder.path().join("router.wasm")).unwrap();
    fs::write(
        files.join(format!("{}.wasm", digest(&router))),
        b"something else",
    )
    .unwrap();
    let rig = Rig::with(home, folder, &[]).await;
    assert_eq!(rig.active("haiku").await, digest(&first));
    rig.haiku().await;
}
