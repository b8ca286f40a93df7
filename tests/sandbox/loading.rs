//! Misbehaving before any job: at instantiation, and in the exports that have no arguments.

use serde_json::{Value, json};
use worker_tests::folder::component_path;
use worker_tests::{Home, PluginFolder, offers};

use crate::{DEEDS, granted};

/// Variants that exist: instantiation returns nothing, so it cannot return too much.
fn variants() -> Vec<(String, &'static [&'static str])> {
    let mut variants = Vec::new();
    for place in ["start", "describe", "accepts"] {
        for (deed, limit) in DEEDS {
            if (place, deed) != ("start", "big") {
                variants.push((format!("hostile-{place}-{deed}"), limit));
            }
        }
    }
    variants
}

#[tokio::test]
async fn each_is_refused_and_the_others_serve() {
    let home = Home::new();
    let mut folder = PluginFolder::first_party();
    let variants = variants();
    assert_eq!(variants.len(), 14);
    for (name, _) in &variants {
        folder = folder.add(name).grant(&granted(name));
    }
    let worker = home.start_with(folder.path(), &[]);
    let api = worker.connected().await;
    let status = api.get("/daemon/status").await;
    let refused: Vec<&str> = status["refused"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line.as_str().unwrap())
        .collect();
    assert_eq!(refused.len(), variants.len(), "{refused:#?}");
    for (name, limit) in &variants {
        let line = refused
            .iter()
            .find(|line| line.contains(&format!("{name}.wasm")));
        let line = line.unwrap_or_else(|| panic!("{name}: {refused:#?}"));
        for word in *limit {
            // Without a grant of its own, a component has the default memory.
            let word = if *word == "256 MiB" { "MiB" } else { word };
            assert!(line.contains(word), "{name}: {line}");
        }
    }
    let id = api.offer(&offers::image("job-1", "x")).await;
    api.result(&id).await;
    let kinds: Vec<Value> = api.get("/api/workers").await[0]["capabilities"]["taskKinds"]
        .as_array()
        .unwrap()
        .clone();
    assert!(!kinds.contains(&json!("hostile")));
}

#[tokio::test]
async fn validate_says_the_same_as_loading() {
    let home = Home::new();
    for (name, _) in variants()
        .into_iter()
        .filter(|(name, _)| name.contains("describe"))
    {
        let path = component_path(&name);
        let ended = home
            .run(&["plugin", "validate", path.to_str().unwrap()])
            .await;
        assert_eq!(ended.code(), 1, "{ended:?}");
        assert!(
            ended.stdout.contains("refused") && ended.stdout.contains(&name),
            "{ended:?}"
        );
    }
}
