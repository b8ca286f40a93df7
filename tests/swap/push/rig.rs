//! Signed plugins, and workers that trust one key.

use std::fs;
use std::sync::OnceLock;

use serde_json::{Value, json};
use worker_tests::component::{asking, number, with_section, without_section};
use worker_tests::{Home, Peer, PluginFolder, ScriptedStudio, Worker};
use worker_trust::{KeyPair, SecretKey};

use crate::support::{another, at_version, component, digest};

/// Signs, and is trusted.
pub(crate) struct Signer(KeyPair);

impl Signer {
    /// The key that the workers of these tests trust.
    pub(crate) fn trusted() -> &'static Self {
        static KEY: OnceLock<Signer> = OnceLock::new();
        KEY.get_or_init(Self::stranger)
    }

    /// A key that nobody trusts.
    pub(crate) fn stranger() -> Self {
        Self(KeyPair::generate(None).unwrap())
    }

    /// The text of a signature.
    pub(crate) fn sign(&self, bytes: &[u8]) -> String {
        self.sign_with(bytes, "a test")
    }

    /// The same with a comment, which is signed too.
    pub(crate) fn sign_with(&self, bytes: &[u8], comment: &str) -> String {
        let key = SecretKey::open(&self.0.secret, None).unwrap();
        key.sign(bytes, comment).unwrap()
    }

    /// The line that `plugins.toml` names it by.
    pub(crate) fn line(&self) -> String {
        self.0.public.lines().last().unwrap().to_owned()
    }
}

/// The good engine.
pub(crate) fn good() -> Vec<u8> {
    component("hostile")
}

/// Another component that says that it is the engine.
pub(crate) fn posing(name: &str) -> Vec<u8> {
    called(&component(name), "hostile")
}

/// A component under another name: what comes from afar must state its own.
pub(crate) fn called(bytes: &[u8], name: &str) -> Vec<u8> {
    let mut content = vec![0];
    content.extend(number(number(name.len()).len() + name.len()));
    content.extend(number(name.len()));
    content.extend(name.as_bytes());
    let bare = without_section(bytes, "component-name");
    with_section(&bare, "component-name", &content)
}

/// The good engine under another version.
pub(crate) fn versioned(version: &str) -> Vec<u8> {
    at_version(&good(), version)
}

/// The good engine that asks for a program besides.
pub(crate) fn greedy() -> Vec<u8> {
    let limits = json!({"memory-mib": 256, "returned-mib": 16});
    let asked = json!({"limits": limits, "programs": ["stand-in"]});
    asking(&good(), &asked)
}

/// The good engine in other bytes.
pub(crate) fn better(mark: &str) -> Vec<u8> {
    another(&good(), mark)
}

/// A folder with the good engine and one trusted key.
pub(crate) fn folder() -> PluginFolder {
    trusting(
        PluginFolder::first_party()
            .file("hostile.wasm", good())
            .grant("[plugins.hostile]\nmemory-mib = 256\nreturned-mib = 16"),
    )
}

/// The same with the key that is trusted in these tests.
pub(crate) fn trusting(folder: PluginFolder) -> PluginFolder {
    let path = folder.path().join("plugins.toml");
    let grants = fs::read_to_string(path).unwrap();
    let keys = format!("keys = [\"{}\"]\n", Signer::trusted().line());
    folder.file("plugins.toml", keys + &grants)
}

/// An update as a studio announces it.
pub(crate) fn update(id: &str, bytes: &[u8], url: &str) -> Value {
    json!({
        "type": "pluginUpdate", "updateId": id, "name": "hostile", "version": "",
        "digest": digest(bytes), "size": bytes.len(), "url": url,
        "signature": Signer::trusted().sign(bytes),
    })
}

/// A worker of a scripted studio.
pub(crate) struct Scripted {
    pub(crate) studio: ScriptedStudio,
    pub(crate) home: Home,
    pub(crate) folder: PluginFolder,
    pub(crate) worker: Worker,
}

/// Both words.
pub(crate) const BOTH: &[&str] = &["pluginUpdate", "pluginStatus"];

impl Scripted {
    pub(crate) async fn start() -> Self {
        let studio = ScriptedStudio::start().await;
        let (home, folder) = (Home::approved(&studio.base()), folder());
        let worker = home.start_with(folder.path(), &[]);
        Self {
            studio,
            home,
            folder,
            worker,
        }
    }

    /// Where this studio has a component.
    pub(crate) fn route(&self) -> String {
        "/graphics/api/workers/w-1/plugins/component".to_owned()
    }

    /// The digest that serves.
    pub(crate) async fn serves(&self) -> String {
        let status = self.worker.api().await.get("/daemon/status").await;
        let plugins = status["plugins"].as_array().unwrap();
        let found = plugins.iter().find(|plugin| plugin["name"] == "hostile");
        found.unwrap()["digest"].as_str().unwrap().to_owned()
    }
}

/// Reads statuses of an update until it has come to a state; gives all of them.
pub(crate) async fn told(peer: &mut Peer, id: &str, state: &str) -> Vec<Value> {
    let mut all = Vec::new();
    loop {
        let status = peer.expect("pluginStatus").await;
        if status["updateId"] != id {
            continue;
        }
        all.push(status.clone());
        if status["state"] == state {
            return all;
        }
        let ended = ["refused", "superseded", "fetch-failed", "quarantined"];
        assert!(
            !ended.iter().any(|end| status["state"] == *end),
            "{state} was expected: {all:#?}"
        );
    }
}

/// The last of those, its reason.
pub(crate) async fn reason(peer: &mut Peer, id: &str, state: &str) -> String {
    let all = told(peer, id, state).await;
    all.last().unwrap()["reason"].as_str().unwrap().to_owned()
}
