//! Versions of plugins, and a worker to swap them under.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use worker_tests::component::{number, section, with_section, without_section};
use worker_tests::{Api, Home, PluginFolder, Worker, offers};

pub(crate) use worker_tests::versions::{another, component, digest, rename_in, saying};

/// The same plugin without the section that says its name, so that its file may have any.
pub(crate) fn nameless(bytes: &[u8]) -> Vec<u8> {
    without_section(bytes, "component-name")
}

/// A component with one more core module, whose functions take long to compile and are never called.
pub(crate) fn bomb(bytes: &[u8]) -> Vec<u8> {
    const FUNCTIONS: usize = 12;
    // (param i32) (result i32): a long chain of arithmetic in blocks.
    let mut body = vec![0];
    for _ in 0..120_000 {
        body.extend([0x20, 0, 0x41, 1, 0x6a, 0x20, 0, 0x6c, 0x21, 0]);
        body.extend([0x02, 0x40, 0x20, 0, 0x0d, 0, 0x0b]);
    }
    body.extend([0x20, 0, 0x0b]);
    let mut code = number(FUNCTIONS);
    for _ in 0..FUNCTIONS {
        code.extend(number(body.len()));
        code.extend(&body);
    }
    let mut functions = number(FUNCTIONS);
    functions.extend(vec![0; FUNCTIONS]);
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    module.extend(section(1, vec![1, 0x60, 1, 0x7f, 1, 0x7f]));
    module.extend(section(3, functions));
    module.extend(section(10, code));
    let mut all = bytes.to_vec();
    all.extend(section(1, module));
    all
}

/// The same plugin with another version.
pub(crate) fn at_version(bytes: &[u8], version: &str) -> Vec<u8> {
    let bare = without_section(bytes, "version");
    with_section(&bare, "version", version.as_bytes())
}

/// A worker with a folder that a test changes.
pub(crate) struct Rig {
    pub(crate) home: Home,
    pub(crate) folder: PluginFolder,
    pub(crate) worker: Worker,
    pub(crate) api: Api,
}

impl Rig {
    /// With these files beside the first-party plugins.
    pub(crate) async fn start(files: &[(&str, &[u8])]) -> Self {
        let mut folder = PluginFolder::first_party().grant(
            "[plugins.hostile]\nmemory-mib = 256\nreturned-mib = 16\n[plugins.scripted]\nprograms = [\"stand-in\"]\nenvironment = [\"STAND_IN_MODE\"]",
        );
        for (name, bytes) in files {
            folder = folder.file(name, bytes);
        }
        Self::with(Home::new(), folder, &[]).await
    }

    /// In an installation that is there.
    pub(crate) async fn with(home: Home, folder: PluginFolder, env: &[(&str, &Path)]) -> Self {
        let worker = home.start_with(folder.path(), env);
        let api = worker.connected().await;
        Self {
            home,
            folder,
            worker,
            api,
        }
    }

    /// Puts a file into the folder by renaming.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        rename_in(self.folder.path(), name, bytes);
    }

    /// Waits until this digest serves under a name.
    pub(crate) async fn serves(&self, name: &str, wanted: &str) -> Value {
        self.worker
            .status(&format!("{name} at {wanted}"), |status| {
                active(status, name) == wanted
            })
            .await
    }

    /// Waits until a candidate of this name is in a state; gives the reason.
    pub(crate) async fn candidate(&self, name: &str, state: &str) -> String {
        let status = self
            .worker
            .status(&format!("{name} {state}"), |status| {
                candidate(status, name)["state"] == state
            })
            .await;
        candidate(&status, name)["reason"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// The digest that serves now.
    pub(crate) async fn active(&self, name: &str) -> String {
        active(&self.api.get("/daemon/status").await, name)
    }

    /// The generation that serves now.
    pub(crate) async fn generation(&self) -> String {
        let status = self.api.get("/daemon/status").await;
        status["generation"].as_str().unwrap().to_owned()
    }

    /// How many generations were published: while it stays, what serves is the very same object.
    pub(crate) async fn published(&self) -> u64 {
        published(&self.api.get("/daemon/status").await)
    }

    /// Queues a job of the hostile engine.
    pub(crate) async fn hostile(&self, job: &str, words: &str) -> String {
        let task = json!({"kind": "hostile", "prompt": words});
        let claim = offers::claim(job, "hostile", task, offers::source("hostile"));
        self.api.offer(&claim).await
    }

    /// Queues a poem and waits for it.
    pub(crate) async fn haiku(&self) {
        let id = self
            .api
            .submit(&json!({"kind": "haiku", "text": "snow"}))
            .await;
        self.api.result(&id).await;
    }

    /// What happened to a plugin, as `state` words.
    pub(crate) async fn story(&self, name: &str) -> Vec<String> {
        let told = self.api.get("/daemon/plugins/history").await;
        let events = told["history"].as_array().unwrap().clone();
        events
            .iter()
            .filter(|event| event["plugin"] == name)
            .map(|event| event["state"].as_str().unwrap().to_owned())
            .collect()
    }

    /// The journals of all jobs: job, generation, and the engine's digest, for each time that a job began.
    pub(crate) fn journals(&self) -> Vec<(String, String, String)> {
        journals(&self.home.path("state/journal"))
    }
}

/// What journals say of generations.
pub(crate) fn journals(dir: &Path) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    let files: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    for file in files {
        // One may be pruned, and a line be in the making, while jobs run.
        for line in fs::read_to_string(file).unwrap_or_default().lines() {
            let Ok(event) = serde_json::from_str::<Value>(line) else {
                continue;
            };
            if event["event"] == "offered" || event["event"] == "again" {
                let body = &event["body"];
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                found.push((
                    text(&body["job"]),
                    text(&body["generation"]),
                    text(&body["plugins"][0]["sha256"]),
                ));
            }
        }
    }
    found
}

/// The digest that a status says to serve.
pub(crate) fn active(status: &Value, name: &str) -> String {
    let plugins = status["plugins"].as_array().unwrap();
    let found = plugins.iter().find(|plugin| plugin["name"] == name);
    found.map_or_else(String::new, |plugin| {
        plugin["digest"].as_str().unwrap().to_owned()
    })
}

/// How many generations a status says to have been published.
pub(crate) fn published(status: &Value) -> u64 {
    status["swap"]["published"].as_u64().unwrap()
}

fn candidate(status: &Value, name: &str) -> Value {
    let all = status["swap"]["candidates"].as_array().unwrap();
    let found = all.iter().find(|one| one["name"] == name);
    found.cloned().unwrap_or(Value::Null)
}

/// A moment in which something that must not happen would happen: several looks at the folder.
pub(crate) async fn a_while() {
    tokio::time::sleep(Duration::from_secs(3)).await;
}
