//! A plugin and its program in one update.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use worker_tests::archive;
use worker_tests::{FileServer, Home, Peer, PluginFolder, Reply, ScriptedStudio, built, offers};

use super::rig::{BOTH, Scripted, Signer, called, told, trusting};
use crate::support::{another, component, digest};

/// Answers to whom the program of the later version is asked for.
struct Rig {
    scripted: Scripted,
    peer: Peer,
    /// Where the archive is: a second studio, because it can be held up.
    shelf: ScriptedStudio,
    files: FileServer,
}

/// The later version, which says that it is `scripted`.
fn next(mark: &str) -> Vec<u8> {
    another(&called(&component("scripted-next"), "scripted"), mark)
}

fn program() -> Vec<u8> {
    let bytes = fs::read(built::stand_in_server()).unwrap();
    archive::zip(&[archive::file("bin/stand-in", bytes)])
}

impl Rig {
    async fn start() -> Self {
        let (studio, shelf) = (ScriptedStudio::start().await, ScriptedStudio::start().await);
        let (home, files) = (Home::approved(&studio.base()), FileServer::start().await);
        let folder = PluginFolder::first_party().add("scripted").grant(
            "[plugins.scripted]\nprograms = [\"stand-in\"]\nenvironment = [\"STAND_IN_MODE\"]",
        );
        let folder = trusting(folder);
        let url = format!(
            "{}/graphics/api/workers/w-1/plugins/program.zip",
            shelf.base()
        );
        let worker = home.start_with(
            folder.path(),
            &[("STUDIO_WORKER_STAND_IN_URL", Path::new(&url))],
        );
        let peer = studio.welcomed_with(BOTH).await;
        let scripted = Scripted {
            studio,
            home,
            folder,
            worker,
        };
        Self {
            scripted,
            peer,
            shelf,
            files,
        }
    }

    async fn push(&mut self, id: &str, bytes: &[u8]) {
        let url = self.files.put(&format!("{id}.wasm"), bytes.to_vec());
        self.peer
            .send(json!({
                "type": "pluginUpdate", "updateId": id, "name": "scripted", "version": "",
                "digest": digest(bytes), "size": bytes.len(), "url": url,
                "signature": Signer::trusted().sign(bytes),
            }))
            .await;
    }

    async fn plugin(&self) -> Value {
        let status = self.scripted.worker.api().await.get("/daemon/status").await;
        let plugins = status["plugins"].as_array().unwrap().clone();
        let found = plugins.into_iter().find(|one| one["name"] == "scripted");
        found.unwrap()
    }

    async fn job(&mut self, job: &str) {
        let task = json!({"kind": "scripted", "script": [{"wait": 1}], "finish": {"json": 1}});
        let claim = offers::claim(job, "scripted", task, offers::source("scripted"));
        self.peer.offer(&claim).await;
        let passed = ["pluginStatus", "heartbeat", "logBatch", "progress"];
        assert_eq!(self.peer.next_but(&passed).await["type"], "accept");
        let done = self.peer.next_but(&passed).await;
        assert_eq!(done["type"], "completeJson", "{done}");
        self.peer
            .send(json!({"type": "completeAck", "jobId": job}))
            .await;
    }
}

#[tokio::test]
async fn a_program_comes_before_its_plugin_serves_and_both_go_back_together() {
    let mut rig = Rig::start().await;
    let before = rig.plugin().await;
    let permits = Arc::new(tokio::sync::Semaphore::new(0));
    rig.shelf
        .on("plugin", Reply::After(permits.clone(), program()));
    let new = next("one");
    rig.push("u-1", &new).await;
    rig.shelf.called("plugin", 1).await;
    // While it comes, what serves is what served, and jobs go on.
    assert_eq!(rig.plugin().await["digest"], before["digest"]);
    rig.job("meanwhile").await;
    permits.add_permits(1);
    told(&mut rig.peer, "u-1", "probation").await;
    let after = rig.plugin().await;
    assert_eq!(after["digest"], digest(&new).as_str());
    assert_eq!(after["serves"], true, "{after}");
    assert_eq!(after["toDownload"], json!([]), "{after}");
    rig.job("after").await;
    assert_eq!(
        rig.shelf.calls("plugin").len(),
        1,
        "not once more for the job"
    );
    let rolled = ["plugin", "rollback", "scripted"];
    rig.scripted.home.run(&rolled).await.ok();
    let back = rig.plugin().await;
    assert_eq!(back["digest"], before["digest"]);
    assert_eq!(back["missing"], before["missing"], "its own programs again");
    rig.job("back").await;
}

#[tokio::test]
async fn a_program_that_cannot_be_had_refuses_the_plugin_and_what_serves_is_unchanged() {
    let mut rig = Rig::start().await;
    let before = rig.plugin().await;
    rig.shelf.on("plugin", Reply::Bytes(b"no archive".to_vec()));
    let new = next("one");
    rig.push("u-1", &new).await;
    let all = told(&mut rig.peer, "u-1", "refused").await;
    let last = all.last().unwrap();
    assert_eq!(last["rule"], "programs", "{last}");
    assert!(
        last["reason"].as_str().unwrap().contains("archive"),
        "{last}"
    );
    assert_eq!(rig.plugin().await["digest"], before["digest"]);
    rig.job("after").await;
}

#[tokio::test]
async fn a_newer_update_gives_up_the_download_of_the_one_before() {
    let mut rig = Rig::start().await;
    let permits = Arc::new(tokio::sync::Semaphore::new(0));
    rig.shelf
        .on("plugin", Reply::After(permits.clone(), program()));
    rig.push("u-1", &next("one")).await;
    rig.shelf.called("plugin", 1).await;
    rig.shelf.on("plugin", Reply::Bytes(program()));
    let newer = next("two");
    rig.push("u-2", &newer).await;
    let all = told(&mut rig.peer, "u-1", "refused").await;
    let why = all.last().unwrap()["reason"].as_str().unwrap().to_owned();
    assert!(why.contains("given up"), "{why}");
    told(&mut rig.peer, "u-2", "probation").await;
    assert_eq!(rig.plugin().await["digest"], digest(&newer).as_str());
    permits.add_permits(1);
}
