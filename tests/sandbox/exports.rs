//! Misbehaving when a job asks for it, in each export that has arguments.

use serde_json::{Value, json};
use worker_tests::{Home, PluginFolder, ScriptedStudio, offers};

use crate::{DEEDS, granted, names};

fn hostile(job: &str, prompt: &str) -> Value {
    offers::claim(
        job,
        "hostile",
        json!({"kind": "hostile", "prompt": prompt}),
        offers::source("hostile"),
    )
}

#[tokio::test]
async fn in_step_and_subject() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let folder = PluginFolder::first_party()
        .add("hostile")
        .grant(&granted("hostile"));
    let _worker = home.start_with(folder.path(), &[]);
    let mut peer = studio.welcomed().await;
    let mut done = 0;
    for export in ["step", "subject"] {
        for (deed, limit) in DEEDS {
            peer.accepted(&hostile(
                &format!("{export}-{deed}"),
                &format!("{export}:{deed}"),
            ))
            .await;
            let (error, retryable) = peer.expect_fail().await;
            names(&error, "hostile", limit);
            assert!(
                error.contains(&format!("`{export}`")),
                "it names the export: {error}"
            );
            assert!(!retryable, "it would do it again: {error}");

            peer.accepted(&hostile(&format!("{export}-{deed}-after"), "nothing"))
                .await;
            done += 1;
            let form = studio
                .called("complete", done)
                .await
                .remove(done - 1)
                .form();
            assert_eq!(form[2].text(), "harmless");
        }
    }
    // A panic says what the plugin said.
    peer.accepted(&hostile("panic", "step:panic")).await;
    let (error, _) = peer.expect_fail().await;
    assert!(
        error.contains("`hostile`") && error.contains("it was asked to"),
        "{error}"
    );
}

#[tokio::test]
async fn in_a_finisher() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let folder = PluginFolder::first_party()
        .add("hostile")
        .add("hostile-finisher");
    let toml = std::fs::read_to_string(folder.path().join("plugins.toml")).unwrap();
    let both = toml.replace(
        "finishers = [\"finisher\"]",
        "finishers = [\"finisher\", \"hostile-finisher\"]",
    );
    assert_ne!(toml, both, "the order of finishers is the operator's");
    let folder = folder
        .file("plugins.toml", both)
        .grant(&granted("hostile"))
        .grant(&granted("hostile-finisher"));
    let _worker = home.start_with(folder.path(), &[]);
    let mut peer = studio.welcomed().await;
    for (number, (deed, limit)) in DEEDS.into_iter().enumerate() {
        peer.accepted(&hostile(
            &format!("finish-{deed}"),
            &format!("finish:{deed}"),
        ))
        .await;
        let (error, _) = peer.expect_fail().await;
        names(&error, "hostile-finisher", limit);
        peer.accepted(&hostile(&format!("finish-{deed}-after"), "nothing"))
            .await;
        studio.called("complete", number + 1).await;
    }
}

#[tokio::test]
async fn in_a_router() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let folder = PluginFolder::first_party()
        .add("hostile")
        .add("hostile-router");
    let toml = std::fs::read_to_string(folder.path().join("plugins.toml")).unwrap();
    let other = toml.replace("router = \"router\"", "router = \"hostile-router\"");
    assert_ne!(toml, other, "the router is the operator's choice");
    let other = other.replace(
        "engines = [\"*\", \"synthetic\"]",
        "engines = [\"hostile\", \"*\"]",
    );
    let folder = folder
        .file("plugins.toml", other)
        .grant(&granted("hostile"))
        .grant(&granted("hostile-router"));
    let _worker = home.start_with(folder.path(), &[]);
    let mut peer = studio.welcomed().await;
    for (number, (deed, limit)) in DEEDS.into_iter().enumerate() {
        let (code, reason) = peer
            .rejected(&hostile(&format!("route-{deed}"), &format!("route:{deed}")))
            .await;
        assert_eq!(code, "plugin_fault", "{reason}");
        names(&reason, "hostile-router", limit);
        for passing in ["busy", "in-flight", "paused"] {
            assert!(!reason.contains(passing), "{reason}");
        }
        peer.accepted(&hostile(&format!("route-{deed}-after"), "nothing"))
            .await;
        studio.called("complete", number + 1).await;
    }
}

#[tokio::test]
async fn in_compose() {
    let home = Home::new();
    let folder = PluginFolder::first_party()
        .add("hostile")
        .grant(&granted("hostile"));
    let worker = home.start_with(folder.path(), &[]);
    worker.connected().await;
    for (deed, limit) in DEEDS {
        let error = home
            .run(&["submit", "hostile", &format!("compose:{deed}")])
            .await
            .error();
        names(&error, "hostile", limit);
        let out = home.path("out.txt");
        home.run(&["submit", "hostile", "nothing", "-o", out.to_str().unwrap()])
            .await
            .ok();
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "harmless");
    }
}

/// What a plugin logs is bounded, and what was left out is said.
#[tokio::test]
async fn a_chatty_plugin_is_cut_short_and_served() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let folder = PluginFolder::first_party()
        .add("hostile")
        .grant(&granted("hostile"));
    let worker = home.start_with(folder.path(), &[]);
    let mut peer = studio.welcomed().await;
    peer.accepted(&hostile("job-1", "step:chatter")).await;
    studio.called("complete", 1).await;
    worker.line("936").await;
    let said = worker
        .lines()
        .iter()
        .filter(|line| line.contains("a thousand lines"))
        .count();
    assert_eq!(said, 64, "then one line tells how many were dropped");
}
