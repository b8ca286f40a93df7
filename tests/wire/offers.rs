//! Offers that are turned away, in the words that studios match.

use serde_json::{Value, json};
use worker_tests::{FileServer, Home, Peer, ScriptedStudio, SdCli, Worker, built, offers};

/// The worker with a stand-in that runs until it is stopped, so that the slot stays taken.
async fn busy(studio: &ScriptedStudio, home: &Home, sd: &SdCli) -> (Worker, Peer, FileServer) {
    sd.mode("hang");
    let path = sd.path();
    let worker = home.start_with(&built::root().join("plugins"), &sd.env(&path));
    let mut peer = studio.welcomed().await;
    let files = FileServer::start().await;
    let model = files.put("m.gguf", "GGUF....");
    let job = offers::sd_image(
        "job-1",
        vec![offers::model_file("diffusion-model", &model, "m.gguf")],
        &json!({}),
    );
    peer.accepted(&job).await;
    (worker, peer, files)
}

#[tokio::test]
async fn a_second_job_is_refused_in_the_historic_words() {
    let (studio, sd) = (ScriptedStudio::start().await, SdCli::install());
    let home = Home::approved(&studio.base());
    let (_worker, mut peer, _files) = busy(&studio, &home, &sd).await;
    let (code, reason) = peer.rejected(&offers::image("job-2", "x")).await;
    assert_eq!(code, "busy");
    assert_eq!(reason.as_bytes(), b"worker already has an in-flight job");
    let beat = loop {
        let beat = peer.expect("heartbeat").await;
        if beat.get("currentJobId").is_some() {
            break beat;
        }
    };
    assert_eq!(beat["currentJobId"], "job-1");
}

#[tokio::test]
async fn a_paused_worker_refuses_in_the_historic_words() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let worker = home.start();
    let mut peer = studio.welcomed().await;
    worker.connected().await;
    home.run(&["pause"]).await.ok();
    let (code, reason) = peer.rejected(&offers::image("job-1", "x")).await;
    assert_eq!(code, "paused");
    assert_eq!(reason.as_bytes(), b"worker paused by operator");
    enabled(&mut peer, false).await;

    home.run(&["resume"]).await.ok();
    enabled(&mut peer, true).await;
    peer.accepted(&offers::chat("job-2", "hi")).await;
}

async fn enabled(peer: &mut Peer, wanted: bool) {
    while peer.expect("heartbeat").await["capabilities"]["autoEnabled"] != wanted {
        peer.send(json!({"type": "heartbeatAck"})).await;
    }
}

#[tokio::test]
async fn a_pause_is_forgotten_by_a_restart() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let worker = home.start();
    let peer = studio.welcomed().await;
    worker.connected().await;
    home.run(&["pause"]).await.ok();
    drop(peer);
    worker.stop().await;
    let _worker = home.start();
    let mut peer = studio.welcomed().await;
    enabled(&mut peer, true).await;
}

#[tokio::test]
async fn too_large_a_job_is_refused_before_it_costs_an_attempt() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let _worker = home.start();
    let mut peer = studio.welcomed().await;
    let mut claim = offers::image("job-1", "x");
    claim["vramGbEstimate"] = json!(12.5);
    let (code, reason) = peer.rejected(&claim).await;
    assert_eq!(code, "insufficient_memory");
    assert!(
        reason.contains("12.50 GiB") && reason.contains("12.00 GiB"),
        "{reason}"
    );
}

/// What nobody here can serve goes elsewhere: the words must not be those of a passing refusal.
#[tokio::test]
async fn offers_that_cannot_be_served_are_refused_by_id() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let _worker = home.start();
    let mut peer = studio.welcomed().await;
    let with = |change: &dyn Fn(&mut Value)| {
        let mut claim = offers::image("job-1", "x");
        change(&mut claim);
        claim
    };
    let without = |field: &'static str| {
        move |claim: &mut Value| {
            claim.as_object_mut().unwrap().remove(field);
        }
    };
    let rows: Vec<(Value, &str, &str)> = vec![
        (with(&without("task")), "bad_offer", "task"),
        (with(&without("modelSource")), "bad_offer", "modelSource"),
        (with(&|c| c["task"] = Value::Null), "bad_offer", "task"),
        (
            with(&|c| c["modelSource"] = json!("x")),
            "bad_offer",
            "modelSource",
        ),
        (
            with(&|c| c["task"]["kind"] = Value::Null),
            "bad_offer",
            "kind",
        ),
        (with(&|c| c["task"]["kind"] = json!(7)), "bad_offer", "kind"),
        (with(&without("model")), "bad_offer", "model"),
        (
            with(&|c| c["vramGbEstimate"] = Value::Null),
            "bad_offer",
            "vramGbEstimate",
        ),
        (
            with(&|c| c["vramGbEstimate"] = json!("6")),
            "bad_offer",
            "vramGbEstimate",
        ),
        (
            with(&|c| c["modelSource"]["engine"] = Value::Null),
            "bad_offer",
            "engine",
        ),
        (
            with(&|c| c["modelSource"]["engine"] = json!("torch")),
            "unsupported_engine",
            "torch",
        ),
        (
            with(&|c| c["modelSource"]["engine"] = json!("sd-cpp")),
            "unsupported_engine",
            "sd-cpp",
        ),
        (
            with(&|c| c["task"]["kind"] = json!("mesh")),
            "unsupported_kind",
            "mesh",
        ),
        (
            with(&|c| c["modelSource"]["engine"] = json!("busy paused in-flight")),
            "unsupported_engine",
            "",
        ),
    ];
    for (claim, expected, named) in rows {
        let (code, reason) = peer.rejected(&claim).await;
        assert_eq!(code, expected, "{reason}: {claim}");
        assert!(reason.contains(named), "{named}: {reason}");
        for passing in ["busy", "in-flight", "paused"] {
            assert!(
                !reason.contains(passing),
                "an older studio would call this passing: {reason}"
            );
        }
    }
    let (code, reason) = peer.rejected(&with(&|c| c["jobId"] = json!("../x"))).await;
    assert!(code == "bad_offer" && reason.contains("jobId"), "{reason}");
    // Without an id the offer can only be logged; the session goes on.
    peer.offer(&with(&without("jobId"))).await;
    peer.accepted(&offers::chat("job-2", "hi")).await;
    peer.expect_result().await;
    assert_eq!(studio.calls("connect").len(), 1);
}

#[tokio::test]
async fn offers_with_fields_of_another_time_are_served() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let _worker = home.start();
    let mut peer = studio.welcomed().await;
    let mut claim = offers::chat("job-1", "hi");
    claim["deadline"] = json!("2030-01-01");
    claim["task"]["mood"] = json!({"deep": [1, 2]});
    claim["modelSource"]["files"] =
        json!([{"role": "holo-lens", "url": "https://h.example/x", "filename": "x", "odd": 1}]);
    claim["modelSource"]["cliDefaults"]["warp"] = json!(9);
    peer.accepted(&claim).await;
    peer.expect_result().await;
}
