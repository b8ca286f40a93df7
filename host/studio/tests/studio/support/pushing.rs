//! Pushes of a component that is none, and what workers say of it.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{PATIENCE, Rig, Worker, but};

pub(crate) const COMPONENT: &[u8] = b"not really a component";

pub(crate) fn digest() -> String {
    digest_of(COMPONENT)
}

pub(crate) fn digest_of(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// A worker that takes updates and has the plugin in an older version.
pub(crate) fn able() -> Value {
    but(json!({
        "extensions": ["pluginUpdate", "pluginStatus"],
        "plugins": [{"name": "p", "version": "1.0.0", "digest": "old", "state": "active"}],
    }))
}

pub(crate) async fn send_component(rig: &Rig, bytes: &[u8]) {
    let sent = rig
        .api(Method::PUT, &format!("/components/{}", digest_of(bytes)))
        .body(bytes.to_vec())
        .send()
        .await
        .unwrap();
    assert_eq!(sent.status(), StatusCode::CREATED);
}

pub(crate) async fn push(rig: &Rig, rules: Value) -> String {
    push_of(rig, COMPONENT, rules).await
}

pub(crate) async fn push_of(rig: &Rig, bytes: &[u8], rules: Value) -> String {
    send_component(rig, bytes).await;
    let mut body =
        json!({"name": "p", "version": "2.0.0", "digest": digest_of(bytes), "signature": "sig"});
    for (key, value) in rules.as_object().unwrap() {
        body[key] = value.clone();
    }
    let answer = rig.post("/updates", &body).await;
    let status = answer.status();
    let told: Value = answer.json().await.unwrap();
    assert_eq!(status, StatusCode::CREATED, "{told}");
    told["updateId"].as_str().unwrap().to_owned()
}

pub(crate) async fn until(rig: &Rig, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let polling = async {
        let mut update = rig.get(&format!("/updates/{id}")).await;
        while !wanted(&update) {
            let change = &update["change"];
            update = rig
                .get(&format!("/updates/{id}?after={change}&waitMs=200"))
                .await;
        }
        update
    };
    tokio::time::timeout(PATIENCE, polling)
        .await
        .expect("the roll-out never got there")
}

pub(crate) fn of<'a>(update: &'a Value, worker: &Worker) -> &'a Value {
    let workers = update["workers"].as_array().unwrap();
    workers
        .iter()
        .find(|one| one["workerId"] == worker.id.as_str())
        .unwrap()
}

pub(crate) async fn told(worker: &mut Worker, update: &Value, state: &str, reason: &str) {
    told_by(worker, update, state, reason, None).await;
}

/// The same with the rule that was broken.
pub(crate) async fn told_by(
    worker: &mut Worker,
    update: &Value,
    state: &str,
    reason: &str,
    rule: Option<&str>,
) {
    let mut status = json!({
        "type": "pluginStatus", "updateId": update["updateId"], "name": update["name"],
        "version": update["version"], "digest": update["digest"], "state": state,
        "reason": reason, "at": "2026-01-01T00:00:00Z",
    });
    if let Some(rule) = rule {
        status["rule"] = rule.into();
    }
    worker.send(status).await;
}

pub(crate) async fn pushed(worker: &mut Worker) -> Value {
    let frame = worker.frame().await;
    assert_eq!(frame["type"], "pluginUpdate", "{frame}");
    frame
}
