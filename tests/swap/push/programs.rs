//! A plugin and its program in one update.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use worker_tests::archive;
use worker_tests::{FileServer, Home, Peer, PluginFolder, Reply, ScriptedStudio, built, offers};

use super::rig::{BOTH, Scripted, Signer, called, told, trusting};
use crate::support::{a_while, active, another, at_version, component, digest, rename_in};

/// Answers to whom the program of the later version is asked for.
pub(crate) struct Rig {
    pub(crate) scripted: Scripted,
    pub(crate) peer: Peer,
    /// Where the archive is: a second studio, because it can be held up.
    pub(crate) shelf: ScriptedStudio,
    files: FileServer,
}

/// Where the later version's program is to be had.
const PLACE: &str = "STUDIO_WORKER_STAND_IN_URL";

/// The later version, which says that it is `scripted`.
pub(crate) fn next(mark: &str) -> Vec<u8> {
    another(&called(&component("scripted-next"), "scripted"), mark)
}

pub(crate) fn program() -> Vec<u8> {
    let bytes = fs::read(built::stand_in_server()).unwrap();
    archive::zip(&[archive::file("bin/stand-in", bytes)])
}

impl Rig {
    pub(crate) async fn start() -> Self {
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
        let worker = home.start_with(folder.path(), &[(PLACE, Path::new(&url))]);
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

    /// The worker, which has ended, starts again, to die at a point of the code where one is named.
    pub(crate) async fn again(mut self, point: Option<&str>) -> Self {
        let Scripted {
            studio,
            home,
            folder,
            worker,
        } = self.scripted;
        drop(worker);
        let url = format!(
            "{}/graphics/api/workers/w-1/plugins/program.zip",
            self.shelf.base()
        );
        let mut env = vec![(PLACE, Path::new(&url))];
        env.extend(point.map(|point| ("STUDIO_WORKER_FAILPOINT", Path::new(point))));
        let worker = home.start_with(folder.path(), &env);
        self.peer = studio.welcomed_with(BOTH).await;
        self.scripted = Scripted {
            studio,
            home,
            folder,
            worker,
        };
        self
    }

    pub(crate) async fn push(&mut self, id: &str, bytes: &[u8]) {
        self.push_as("scripted", id, bytes).await;
    }

    async fn push_as(&mut self, name: &str, id: &str, bytes: &[u8]) {
        let url = self.files.put(&format!("{id}.wasm"), bytes.to_vec());
        self.peer
            .send(json!({
                "type": "pluginUpdate", "updateId": id, "name": name, "version": "",
                "digest": digest(bytes), "size": bytes.len(), "url": url,
                "signature": Signer::trusted().sign(bytes),
            }))
            .await;
    }

    pub(crate) async fn plugin(&self) -> Value {
        let status = self.scripted.worker.api().await.get("/daemon/status").await;
        let plugins = status["plugins"].as_array().unwrap().clone();
        let found = plugins.into_iter().find(|one| one["name"] == "scripted");
        found.unwrap()
    }

    pub(crate) async fn job(&mut self, job: &str) {
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

impl Rig {
    /// Waits until this digest serves under a name; none for nothing.
    async fn serves(&self, name: &str, wanted: Option<&str>) {
        let worker = &self.scripted.worker;
        let what = format!("{name} at {wanted:?}");
        worker
            .status(&what, |status| {
                let serves = active(status, name);
                serves == wanted.unwrap_or_default()
            })
            .await;
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        rename_in(self.scripted.folder.path(), name, bytes);
    }
}

/// A program that does not come keeps its plugin waiting, and neither the folder, nor other pushes, nor the operator's word.
#[tokio::test]
async fn a_download_for_one_version_holds_up_nothing_else() {
    let mut rig = Rig::start().await;
    let before = rig.plugin().await;
    let permits = Arc::new(tokio::sync::Semaphore::new(0));
    let haiku = component("haiku");
    rig.shelf
        .on("plugin", Reply::After(permits.clone(), program()));
    let first = next("one");
    rig.put("scripted.wasm", &first);
    rig.shelf.called("plugin", 1).await;
    // Another file comes and goes.
    rig.put("haiku.wasm", &haiku);
    rig.serves("haiku", Some(&digest(&haiku))).await;
    fs::remove_file(rig.scripted.folder.path().join("haiku.wasm")).unwrap();
    rig.serves("haiku", None).await;
    // Another plugin is pushed.
    let pushed = at_version(&haiku, "7.0.0");
    rig.push_as("haiku", "u-1", &pushed).await;
    told(&mut rig.peer, "u-1", "probation").await;
    // The key that brought it is revoked. The file is judged anew by that, and its program asked for anew.
    rig.shelf
        .on("plugin", Reply::After(permits.clone(), program()));
    let policy = rig.scripted.folder.path().join("plugins.toml");
    let whole = fs::read_to_string(&policy).unwrap();
    let line = format!("\"{}\"", Signer::trusted().line());
    assert!(whole.contains(&line), "{whole}");
    fs::write(&policy, whole.replace(&line, "")).unwrap();
    rig.serves("haiku", None).await;
    rig.shelf.called("plugin", 2).await;
    assert_eq!(rig.plugin().await["digest"], before["digest"]);
    // A newer version of the same plugin gives the download up.
    rig.shelf.on("plugin", Reply::Bytes(program()));
    let second = next("two");
    rig.put("scripted.wasm", &second);
    rig.serves("scripted", Some(&digest(&second))).await;
    let api = rig.scripted.worker.api().await;
    let history = api.get("/daemon/plugins/history").await;
    let events = history["history"].as_array().unwrap();
    let of_first = events.iter().filter(|one| one["digest"] == digest(&first));
    let reasons: Vec<&str> = of_first
        .map(|one| one["reason"].as_str().unwrap())
        .collect();
    assert!(!reasons.is_empty() && reasons.iter().all(|why| why.contains("overtaken")));
    permits.add_permits(2);
    a_while().await;
    assert_eq!(rig.plugin().await["digest"], digest(&second).as_str());
    rig.job("after").await;
}

#[tokio::test]
async fn a_file_that_is_taken_away_takes_its_download_with_it() {
    let rig = Rig::start().await;
    let before = rig.plugin().await;
    let permits = Arc::new(tokio::sync::Semaphore::new(0));
    rig.shelf
        .on("plugin", Reply::After(permits.clone(), program()));
    let own = fs::read(rig.scripted.folder.path().join("scripted.wasm")).unwrap();
    rig.put("scripted.wasm", &next("one"));
    rig.shelf.called("plugin", 1).await;
    rig.put("scripted.wasm", &own);
    rig.scripted
        .worker
        .status("no candidate", |status| {
            status["swap"]["candidates"] == json!([])
        })
        .await;
    permits.add_permits(1);
    a_while().await;
    assert_eq!(rig.plugin().await["digest"], before["digest"]);
}

#[tokio::test]
async fn a_slow_release_holds_up_no_other_push() {
    let mut rig = Rig::start().await;
    let permits = Arc::new(tokio::sync::Semaphore::new(0));
    rig.shelf
        .on("plugin", Reply::After(permits.clone(), program()));
    let slow = next("one");
    rig.push("u-1", &slow).await;
    rig.shelf.called("plugin", 1).await;
    let urgent = component("haiku");
    rig.push_as("haiku", "u-2", &urgent).await;
    told(&mut rig.peer, "u-2", "probation").await;
    permits.add_permits(1);
    told(&mut rig.peer, "u-1", "probation").await;
    assert_eq!(rig.plugin().await["digest"], digest(&slow).as_str());
}
