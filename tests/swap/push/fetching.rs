//! What a worker makes of announcements: a scripted studio on the other side.

use std::sync::Arc;

use serde_json::{Value, json};
use worker_tests::{FileServer, Reply, offers};

use super::rig::{BOTH, Scripted, Signer, better, good, reason, told, update};
use crate::support::{digest, rename_in};

#[tokio::test]
async fn a_push_is_fetched_with_the_workers_token_and_serves() {
    let rig = Scripted::start().await;
    let mut peer = rig.studio.welcomed_with(BOTH).await;
    let new = better("one");
    rig.studio.on("plugin", Reply::Bytes(new.clone()));
    peer.send(update("u-1", &new, &rig.route())).await;
    let all = told(&mut peer, "u-1", "probation").await;
    let states: Vec<&str> = all
        .iter()
        .map(|status| status["state"].as_str().unwrap())
        .collect();
    assert_eq!(states[..2], ["queued", "fetching"], "{states:?}");
    assert!(states.contains(&"checking"), "{states:?}");
    assert_eq!(all.last().unwrap()["digest"], digest(&new).as_str());
    assert_eq!(rig.serves().await, digest(&new));
    let calls = rig.studio.calls("plugin");
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].header("authorization"), Some("Bearer tok"));
    // The next heartbeats say the same.
    let beat = loop {
        let beat = peer.next_but(&["pluginStatus", "logBatch"]).await;
        peer.send(json!({"type": "heartbeatAck"})).await;
        let plugins = beat["capabilities"]["plugins"].as_array().unwrap().clone();
        let found = plugins.into_iter().find(|one| one["name"] == "hostile");
        let found = found.unwrap();
        if found["digest"] == digest(&new).as_str() {
            break found;
        }
    };
    assert_eq!(beat["state"], "probation");
    assert_eq!(beat["jobsLeft"], 20);
    // Announced again, for a studio that lost it: told again, and nothing is done again.
    peer.send(update("u-1", &new, &rig.route())).await;
    told(&mut peer, "u-1", "probation").await;
    assert_eq!(rig.studio.calls("plugin").len(), 1);
}

#[tokio::test]
async fn a_studio_that_lists_no_extension_sees_no_frame_of_it() {
    let rig = Scripted::start().await;
    let mut peer = rig.studio.welcomed_with(&["progress"]).await;
    rename_in(rig.folder.path(), "hostile.wasm", &better("folder"));
    rig.worker
        .status("the new version", |status| {
            status["swap"]["states"]["hostile"]["digest"] == digest(&better("folder")).as_str()
        })
        .await;
    let claim = offers::chat("job-1", "hi");
    peer.accepted(&claim).await;
    // `expect` passes over no `pluginStatus`.
    peer.expect_result().await;
    peer.expect("heartbeat").await;
}

#[tokio::test]
async fn what_happens_otherwise_is_told_too_and_again_in_the_next_session() {
    let rig = Scripted::start().await;
    let mut peer = rig.studio.welcomed_with(BOTH).await;
    let new = better("folder");
    rename_in(rig.folder.path(), "hostile.wasm", &new);
    let seen = async |peer: &mut worker_tests::Peer| loop {
        let status = peer.expect("pluginStatus").await;
        if status["digest"] == digest(&new).as_str() && status["state"] == "probation" {
            return status;
        }
    };
    let status = seen(&mut peer).await;
    assert_eq!(status["name"], "hostile");
    assert!(status.get("updateId").is_none(), "{status}");
    drop(peer);
    let mut peer = rig.studio.welcomed_with(BOTH).await;
    seen(&mut peer).await;
}

#[tokio::test]
async fn what_does_not_fit_its_announcement_is_refused() {
    let rig = Scripted::start().await;
    let mut peer = rig.studio.welcomed_with(BOTH).await;
    let (new, route) = (better("one"), rig.route());
    let mut other = new.clone();
    *other.last_mut().unwrap() ^= 1;
    let mut longer = new.clone();
    longer.push(0);
    let refused = [
        ("wrong-digest", other, "SHA-256"),
        ("longer", longer, "larger than"),
        ("shorter", new[..new.len() - 1].to_vec(), "SHA-256"),
    ];
    for (id, bytes, needle) in refused {
        rig.studio.on("plugin", Reply::Bytes(bytes));
        peer.send(update(id, &new, &route)).await;
        let reason = reason(&mut peer, id, "refused").await;
        assert!(reason.contains(needle), "{id}: {reason}");
    }
    let mut large = update("large", &new, &route);
    large["size"] = json!(1u64 << 40);
    peer.send(large).await;
    let why = reason(&mut peer, "large", "refused").await;
    assert!(why.contains("may have"), "{why}");
    assert_eq!(
        rig.studio.calls("plugin").len(),
        3,
        "the last was not asked for"
    );
    // What is not there may be there another time.
    peer.send(update("gone", &new, &route)).await;
    let why = reason(&mut peer, "gone", "fetch-failed").await;
    assert!(why.contains("404"), "{why}");
    rig.studio.on("plugin", Reply::Bytes(new.clone()));
    peer.send(update("gone", &new, &route)).await;
    told(&mut peer, "gone", "probation").await;
}

#[tokio::test]
async fn a_redirect_carries_no_token() {
    let rig = Scripted::start().await;
    let mut peer = rig.studio.welcomed_with(BOTH).await;
    let new = better("elsewhere");
    // A second studio is a host elsewhere that writes down what it was sent.
    let elsewhere = worker_tests::ScriptedStudio::start().await;
    let url = format!("{}{}", elsewhere.base(), rig.route());
    rig.studio.on("plugin", Reply::Redirect(url.clone()));
    elsewhere.on("plugin", Reply::Bytes(new.clone()));
    peer.send(update("u-1", &new, &rig.route())).await;
    told(&mut peer, "u-1", "probation").await;
    let call = &elsewhere.calls("plugin")[0];
    assert_eq!(call.header("authorization"), None, "{call:?}");
    // Nor does an address elsewhere get it in the first place.
    let newer = better("elsewhere too");
    elsewhere.on("plugin", Reply::Bytes(newer.clone()));
    peer.send(update("u-2", &newer, &url)).await;
    told(&mut peer, "u-2", "probation").await;
    assert_eq!(elsewhere.calls("plugin")[1].header("authorization"), None);
    // One that leads back does not have the token used for it.
    let newest = better("there and back");
    let back = format!("{}{}", rig.studio.base(), rig.route());
    rig.studio.on("plugin", Reply::Redirect(url));
    elsewhere.on("plugin", Reply::Redirect(back));
    rig.studio.on("plugin", Reply::Bytes(newest.clone()));
    peer.send(update("u-3", &newest, &rig.route())).await;
    told(&mut peer, "u-3", "probation").await;
    let calls = rig.studio.calls("plugin");
    assert_eq!(calls.last().unwrap().header("authorization"), None);
}

#[tokio::test]
async fn hostile_announcements_are_refused_and_the_session_lives() {
    let rig = Scripted::start().await;
    let mut peer = rig.studio.welcomed_with(BOTH).await;
    let files = FileServer::start().await;
    let new = good();
    let url = files.put("x.wasm", new.clone());
    let wild: Vec<(&str, Value)> = vec![
        ("name", json!("../../etc/passwd")),
        ("name", json!({"a": []})),
        ("size", json!(-5)),
        ("size", json!("big")),
        ("digest", json!("no digest")),
        ("url", json!("file:///etc/passwd")),
        ("url", json!("data:application/wasm;base64,AGFzbQ==")),
        ("url", json!("//evil.example/x")),
        ("url", json!("http://169.254.169.254/latest")),
        ("url", json!("https://10.0.0.1/x")),
        ("version", json!("1\u{1b}[2J")),
        ("signature", json!("x".repeat(1 << 20))),
    ];
    for (number, (field, value)) in wild.into_iter().enumerate() {
        let id = format!("wild-{number}");
        let mut frame = update(&id, &new, &url);
        frame[field] = value;
        peer.send(frame).await;
        told(&mut peer, &id, "refused").await;
    }
    for text in [
        r#"{"type":"pluginUpdate"}"#,
        r#"{"type":"pluginUpdate","updateId":"../x"}"#,
        r#"{"type":"pluginUpdate","updateId":7,"name":[]}"#,
    ] {
        // More of them than senseless frames would be borne with.
        for _ in 0..100 {
            peer.text(text).await;
        }
    }
    // Thousands of updates for many plugins, none of which is there.
    for number in 0..3_000 {
        let mut frame = update("x", &new, &url);
        frame["updateId"] = json!(format!("flood-{number}"));
        frame["name"] = json!(format!("p-{}", number % 300));
        frame["url"] = json!("/nowhere");
        peer.send(frame).await;
    }
    peer.send(update(
        "last",
        &better("last"),
        &files.put("last.wasm", better("last")),
    ))
    .await;
    let claim = offers::chat("job-1", "still there?");
    peer.offer(&claim).await;
    let passed = ["pluginStatus", "heartbeat", "logBatch"];
    assert_eq!(peer.next_but(&passed).await["type"], "accept");
    let result = peer.next_but(&passed).await;
    assert_eq!(result["type"], "completeJson", "{result}");
    assert_eq!(rig.serves().await, digest(&good()));
    assert_eq!(
        rig.studio.calls("connect").len(),
        1,
        "one session all along"
    );
    assert_eq!(files.asked("x.wasm"), 0);
}

#[tokio::test]
async fn without_a_signature_or_with_a_strangers_it_is_refused_by_name() {
    let rig = Scripted::start().await;
    let mut peer = rig.studio.welcomed_with(BOTH).await;
    let files = FileServer::start().await;
    let new = better("unsigned");
    let url = files.put("x.wasm", new.clone());
    let strange = Signer::stranger().sign(&new);
    let other = Signer::trusted().sign(&good());
    for (id, signature, rule) in [
        ("none", Value::Null, "not-signed"),
        ("empty", json!(""), "not-signed"),
        ("stranger", json!(strange), "unknown-key"),
        ("of-other-bytes", json!(other), "signature"),
        (
            "nonsense",
            json!("untrusted comment: x\nnonsense\n"),
            "signature",
        ),
    ] {
        let mut frame = update(id, &new, &url);
        frame["signature"] = signature;
        peer.send(frame).await;
        let all = told(&mut peer, id, "refused").await;
        assert_eq!(all.last().unwrap()["rule"], rule, "{id}: {all:#?}");
    }
    assert_eq!(rig.serves().await, digest(&good()));
}

#[tokio::test]
async fn the_newest_update_of_a_plugin_wins() {
    let rig = Scripted::start().await;
    let mut peer = rig.studio.welcomed_with(BOTH).await;
    let permits = Arc::new(tokio::sync::Semaphore::new(0));
    let (one, two, three) = (better("one"), better("two"), better("three"));
    rig.studio
        .on("plugin", Reply::After(permits.clone(), one.clone()));
    peer.send(update("u-1", &one, &rig.route())).await;
    rig.studio.called("plugin", 1).await;
    // Its turn may come before the next one is read.
    let elsewhere = worker_tests::ScriptedStudio::start().await;
    elsewhere.on("plugin", Reply::After(permits.clone(), two.clone()));
    let url = format!("{}{}", elsewhere.base(), rig.route());
    rig.studio.on("plugin", Reply::Bytes(three.clone()));
    peer.send(update("u-2", &two, &url)).await;
    peer.send(update("u-3", &three, &rig.route())).await;
    told(&mut peer, "u-3", "probation").await;
    assert_eq!(rig.serves().await, digest(&three));
    // What became of the others is told too, also in the next session.
    drop(peer);
    let mut peer = rig.studio.welcomed_with(BOTH).await;
    told(&mut peer, "u-1", "superseded").await;
    told(&mut peer, "u-2", "superseded").await;
    permits.add_permits(1);
}

#[tokio::test]
async fn a_session_that_drops_in_the_middle_hears_the_end_in_the_next() {
    let rig = Scripted::start().await;
    let mut peer = rig.studio.welcomed_with(BOTH).await;
    let permits = Arc::new(tokio::sync::Semaphore::new(0));
    let new = better("slow");
    rig.studio
        .on("plugin", Reply::After(permits.clone(), new.clone()));
    peer.send(update("u-1", &new, &rig.route())).await;
    told(&mut peer, "u-1", "fetching").await;
    rig.studio.called("plugin", 1).await;
    drop(peer);
    permits.add_permits(1);
    rig.worker
        .status("the new version", |status| {
            status["swap"]["states"]["hostile"]["digest"] == digest(&new).as_str()
        })
        .await;
    let mut peer = rig.studio.welcomed_with(BOTH).await;
    told(&mut peer, "u-1", "probation").await;
}

#[tokio::test]
async fn a_worker_that_is_killed_in_the_middle_tells_that_it_was_interrupted() {
    let mut rig = Scripted::start().await;
    let mut peer = rig.studio.welcomed_with(BOTH).await;
    let permits = Arc::new(tokio::sync::Semaphore::new(0));
    let new = better("slow");
    rig.studio.on("plugin", Reply::After(permits, new.clone()));
    peer.send(update("u-1", &new, &rig.route())).await;
    told(&mut peer, "u-1", "fetching").await;
    rig.studio.called("plugin", 1).await;
    rig.worker.kill().await;
    drop(peer);
    rig.worker = rig.home.start_with(rig.folder.path(), &[]);
    let mut peer = rig.studio.welcomed_with(BOTH).await;
    told(&mut peer, "u-1", "interrupted").await;
    assert_eq!(rig.serves().await, digest(&good()));
    rig.studio.on("plugin", Reply::Bytes(new.clone()));
    peer.send(update("u-1", &new, &rig.route())).await;
    told(&mut peer, "u-1", "probation").await;
    // And what serves is known after the next start as well.
    rig.worker.terminate();
    assert!(rig.worker.ended().await.success());
    drop(peer);
    rig.worker = rig.home.start_with(rig.folder.path(), &[]);
    let mut peer = rig.studio.welcomed_with(BOTH).await;
    told(&mut peer, "u-1", "probation").await;
}
