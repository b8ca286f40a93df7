//! Files that come and go in bad moments, and files that no worker should have to look at.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Semaphore;
use worker_tests::disk::with_small_disk;
use worker_tests::wait::until;
use worker_tests::{Answer, Home, Host, PluginFolder, Worker, offers};

use crate::support::{Rig, a_while, another, component, digest, published, rename_in};

/// A job that is at work until its download is let through.
async fn held(rig: &Rig, job: &str, host: &Host) -> String {
    let task =
        json!({"kind": "scripted", "script": [{"fetch": [{"url": host.url(&format!("/{job}"))}]}]});
    let claim = offers::claim(job, "scripted", task, offers::source("scripted"));
    let id = rig.api.offer(&claim).await;
    until("the job at its download", || {
        (!host.asked(&format!("/{job}")).is_empty()).then_some(())
    })
    .await;
    id
}

#[tokio::test]
async fn a_job_ends_on_the_version_that_it_began_with() {
    let gate = Arc::new(Semaphore::new(0));
    let waits = gate.clone();
    let host = Host::start(move |_| Answer::parts(b"four", 1, &waits)).await;
    let first = component("scripted");
    let second = another(&first, "second");
    let rig = Rig::start(&[("scripted.wasm", &first)]).await;
    let before = rig.generation().await;

    let swapped = held(&rig, "swapped", &host).await;
    rig.put("scripted.wasm", &second);
    let status = rig.serves("scripted", &digest(&second)).await;
    let draining = &status["swap"]["draining"][0];
    assert_eq!(draining["generation"], before.as_str(), "{draining}");
    gate.add_permits(1);
    rig.api.result(&swapped).await;

    let deleted = held(&rig, "deleted", &host).await;
    fs::remove_file(rig.folder.path().join("scripted.wasm")).unwrap();
    rig.serves("scripted", "").await;
    gate.add_permits(1);
    rig.api.result(&deleted).await;
    rig.worker
        .status("no draining generation", |status| {
            status["swap"]["draining"] == json!([])
        })
        .await;
    let journals = rig.journals();
    for (job, version) in [("swapped", &first), ("deleted", &second)] {
        let own: Vec<&String> = journals
            .iter()
            .filter(|(id, ..)| id == job)
            .map(|(.., engine)| engine)
            .collect();
        assert_eq!(
            own,
            [&digest(version)],
            "{job}: one version, from its offer on"
        );
    }
}

#[tokio::test]
async fn what_must_not_serve_leaves_the_generation_alone() {
    let first = component("haiku");
    let rig = Rig::start(&[("haiku.wasm", &first)]).await;
    let before = rig.generation().await;
    let folder = rig.folder.path();
    let mut rows: Vec<(String, Vec<u8>)> = vec![
        ("two in one file".to_owned(), [&first[..], &first].concat()),
        (
            "an endless probe".to_owned(),
            component("hostile-describe-loop"),
        ),
    ];
    // Cut and flipped here and there; at every offset it is done beside the code.
    for part in 1..8 {
        let at = first.len() * part / 8;
        rows.push((format!("cut at {at}"), first[..at].to_vec()));
    }
    for (what, bytes) in rows {
        rig.put("haiku.wasm", &bytes);
        let wanted = digest(&bytes);
        let status = rig
            .worker
            .status(&what, |status| {
                let one = &status["swap"]["candidates"][0];
                one["state"] == "refused" && one["digest"] == wanted.as_str()
            })
            .await;
        assert_eq!(status["generation"], before.as_str(), "{what}");
        assert_eq!(rig.active("haiku").await, digest(&first), "{what}");
    }
    // Larger than a plugin may be, without a byte on the disk.
    let large = fs::File::create(folder.join("large.part")).unwrap();
    large.set_len((32 << 20) + 1).unwrap();
    fs::rename(folder.join("large.part"), folder.join("haiku.wasm")).unwrap();
    until("a word on its size", || {
        let log = rig.worker.lines();
        let said = log
            .iter()
            .any(|line| line.contains("larger than its limit"));
        said.then_some(())
    })
    .await;
    rig.put("haiku.wasm", &first);
    // One that differs by case alone: neither is read, and what serves goes on, also after a restart.
    symlink("/dev/zero", folder.join("device.wasm")).unwrap();
    rig.put("HAIKU.wasm", &another(&first, "capitals"));
    rig.worker
        .status("a word on both names", |status| {
            let refused = status["refused"].to_string();
            refused.contains("HAIKU.wasm") && refused.contains("haiku.wasm refused (")
        })
        .await;
    a_while().await;
    assert_eq!(rig.generation().await, before);
    rig.haiku().await;
    let Rig {
        home,
        folder,
        worker,
        ..
    } = rig;
    worker.stop().await;
    let rig = Rig::with(home, folder, &[]).await;
    assert_eq!(rig.generation().await, before);
    rig.haiku().await;
    let stored = fs::read_dir(rig.home.path("state/plugins/files")).unwrap();
    let serving = rig.api.get("/daemon/status").await["plugins"].clone();
    assert!(
        stored.count() <= serving.as_array().unwrap().len() + 2,
        "what was refused takes no room"
    );
}

#[tokio::test]
async fn a_full_disk_while_a_version_is_taken_in_changes_nothing() {
    let first = component("haiku");
    let second = another(&first, "second");
    let home = Home::new();
    let folder = PluginFolder::first_party().file("haiku.wasm", &first);
    let store = home.path("state/plugins");
    fs::create_dir_all(&store).unwrap();
    let mut command = home.command(&["run", "--plugins"]);
    command.arg(folder.path());
    let Some(command) = with_small_disk(&command, &store, 4096) else {
        return;
    };
    let worker = Worker::start(command, &home.path("local-api.json"));
    let api = worker.connected().await;
    let generation = |status: &Value| status["generation"].as_str().unwrap().to_owned();
    let at_first = api.get("/daemon/status").await;
    let before = generation(&at_first);
    // The worker's disk, as only it and its like see it.
    let inside = format!("/proc/{}/root{}/filler", worker.id(), store.display());
    let mut filler = fs::File::create(&inside).unwrap();
    while filler.write_all(&[7; 4096]).is_ok() {}
    drop(filler);
    rename_in(folder.path(), "haiku.wasm", &second);
    let status = worker
        .status("a refusal", |status| {
            status["swap"]["candidates"][0]["state"] == "refused"
        })
        .await;
    let reason = status["swap"]["candidates"][0]["reason"].to_string();
    assert!(reason.contains("free space"), "{reason}");
    assert_eq!(generation(&status), before);
    assert_eq!(published(&status), published(&at_first), "the same object");
    let id = api.submit(&json!({"kind": "haiku", "text": "snow"})).await;
    api.result(&id).await;
    fs::remove_file(&inside).unwrap();
    // It is looked at again by itself: nothing was wrong with the file.
    worker
        .status("the next version", |status| generation(status) != before)
        .await;
    let lines = worker.lines();
    let said = lines
        .iter()
        .filter(|line| line.contains("haiku.wasm refused") && line.contains("free space"));
    assert_eq!(said.count(), 1, "once, however often it was tried");
    worker.stop().await;
}
