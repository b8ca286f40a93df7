//! Kinds, engines and roles that no worker was built for.

use serde_json::{Value, json};
use worker_tests::{FileServer, Home, PluginFolder, ScriptedStudio, SdCli, media, offers};

#[tokio::test]
async fn a_component_dropped_into_the_folder_brings_its_kind() {
    let home = Home::new();
    let folder = PluginFolder::first_party().add("haiku");
    let worker = home.start_with(folder.path(), &[]);
    worker.connected().await;
    let out = home.path("snow.haiku");
    let told = home
        .run(&[
            "submit",
            "haiku",
            "snow",
            "-o",
            out.to_str().unwrap(),
            "--json",
        ])
        .await
        .json();
    assert_eq!(told["job"]["state"], "done");
    assert_eq!(told["job"]["ext"], "haiku");
    assert_eq!(
        std::fs::read_to_string(out).unwrap(),
        "snow\na frog leaps in\nthe sound of water\n"
    );
    let workers = worker.api().await.get("/api/workers").await;
    let kinds = workers.to_string();
    assert!(kinds.contains("\"haiku\""), "{kinds}");
}

#[tokio::test]
async fn its_media_type_reaches_the_studio() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let folder = PluginFolder::first_party().add("haiku");
    let _worker = home.start_with(folder.path(), &[]);
    let mut peer = studio.peer().await;
    let hello = peer.expect("hello").await;
    assert!(
        hello["capabilities"]["taskKinds"]
            .as_array()
            .unwrap()
            .contains(&json!("haiku"))
    );
    assert!(
        hello["capabilities"]["modelEngines"]
            .as_array()
            .unwrap()
            .contains(&json!("haiku"))
    );
    peer.welcome(&[]).await;
    let claim = offers::claim(
        "job-1",
        "haiku",
        json!({"kind": "haiku", "prompt": "snow"}),
        offers::source("haiku"),
    );
    peer.accepted(&claim).await;
    let form = studio.called("complete", 1).await.remove(0).form();
    assert_eq!(form[1].text(), "haiku");
    assert_eq!(form[2].content_type.as_deref(), Some("text/x-haiku"));
    assert_eq!(form[2].filename.as_deref(), Some("job-1.haiku"));
}

/// The words of `tests/guests/renamed.toml`, laid over an offer.
fn renamed(claim: &Value) -> Value {
    let words =
        std::fs::read_to_string(worker_tests::built::root().join("tests/guests/renamed.toml"))
            .unwrap();
    let mut text = claim.to_string();
    for line in words.lines() {
        let Some((from, to)) = line.split_once(" = ") else {
            continue;
        };
        let (from, to) = (from.trim().trim_matches('"'), to.trim().trim_matches('"'));
        text = text.replace(&format!("\"{from}\""), &format!("\"{to}\""));
    }
    serde_json::from_str(&text).unwrap()
}

/// The same host serves a world in which every kind, engine and role has another name.
#[tokio::test]
async fn a_renamed_world_is_served_by_the_unchanged_host() {
    let (home, sd, files) = (Home::new(), SdCli::install(), FileServer::start().await);
    let mut folder = PluginFolder::empty();
    for entry in
        std::fs::read_dir(worker_tests::folder::component_path("renamed").with_extension(""))
            .unwrap()
            .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        folder = folder.file(&name, std::fs::read(entry.path()).unwrap());
    }
    let path = sd.path();
    let worker = home.start_with(folder.path(), &sd.env(&path));
    let api = worker.connected().await;

    let id = api.offer(&renamed(&offers::image("job-1", "a fox"))).await;
    media::still(&api.result(&id).await);
    let id = api.offer(&renamed(&offers::chat("job-2", "hi"))).await;
    let answer: Value = serde_json::from_slice(&api.result(&id).await).unwrap();
    assert_eq!(answer["object"], "chat.completion");
    let model = offers::model_file("diffusion-model", &files.put("m.gguf", "GGUF"), "m.gguf");
    let id = api
        .offer(&renamed(&offers::sd_image(
            "job-3",
            vec![model],
            &json!({}),
        )))
        .await;
    media::still(&api.result(&id).await);

    // And the names that the host might have known mean nothing to it.
    let id = api.offer(&offers::chat("job-4", "hi")).await;
    api.job_until(&id, "a job that nobody serves", |job| {
        job["waiting"].is_string()
    })
    .await;
}
