//! `plugin add | remove | rollback | pin | unpin | history | list`, beside a worker and without one.

use std::fs;

use crate::support::{Rig, a_while, another, component, digest};

#[tokio::test]
async fn an_operator_adds_pins_and_rolls_back_beside_a_running_worker() {
    let first = component("haiku");
    let second = another(&first, "second");
    let third = another(&first, "third");
    let rig = Rig::start(&[("haiku.wasm", &first)]).await;
    let file = rig.home.path("haiku.wasm");
    fs::write(&file, &second).unwrap();
    let told = rig
        .home
        .run(&["plugin", "add", file.to_str().unwrap()])
        .await
        .ok();
    assert!(told.contains(&digest(&second)[..12]), "{told}");
    assert_eq!(rig.active("haiku").await, digest(&second));
    rig.home.run(&["plugin", "rollback", "haiku"]).await.ok();
    assert_eq!(rig.active("haiku").await, digest(&first));
    // And forth again.
    rig.home.run(&["plugin", "rollback", "haiku"]).await.ok();
    assert_eq!(rig.active("haiku").await, digest(&second));
    rig.home.run(&["plugin", "pin", "haiku"]).await.ok();
    rig.put("haiku.wasm", &third);
    rig.candidate("haiku", "pinned").await;
    let error = rig.home.run(&["plugin", "rollback", "haiku"]).await.error();
    assert!(error.contains("pinned"), "{error}");
    let listed = rig.home.run(&["plugin", "list"]).await.ok();
    assert!(
        listed.contains("(pinned)") && listed.contains("plugin unpin haiku"),
        "{listed}"
    );
    assert_eq!(rig.active("haiku").await, digest(&second));
    rig.home.run(&["plugin", "unpin", "haiku"]).await.ok();
    rig.serves("haiku", &digest(&third)).await;
    let listed = rig.home.run(&["plugin", "list"]).await.ok();
    assert!(listed.contains("jobs left"), "{listed}");
    let story = rig.home.run(&["plugin", "history", "haiku"]).await.ok();
    for state in [
        "probation",
        "rolled back by the operator",
        "pinned",
        "unpinned",
    ] {
        assert!(story.contains(state), "{state}: {story}");
    }
    rig.home.run(&["plugin", "remove", "haiku"]).await.ok();
    rig.serves("haiku", "").await;
    a_while().await;
    assert_eq!(rig.active("haiku").await, "", "its file has not changed");
    for action in ["remove", "pin", "rollback"] {
        let error = rig.home.run(&["plugin", action, "nobody"]).await.error();
        assert!(error.contains("nobody"), "{error}");
    }
}

#[tokio::test]
async fn the_same_on_the_store_of_a_worker_that_does_not_run() {
    let first = component("haiku");
    let second = another(&first, "second");
    let rig = Rig::start(&[("haiku.wasm", &first)]).await;
    let file = rig.home.path("haiku.wasm");
    fs::write(&file, &second).unwrap();
    let Rig {
        home,
        folder,
        worker,
        ..
    } = rig;
    worker.stop().await;
    let run = |line: &'static [&'static str]| home.run(line);
    home.run(&["plugin", "add", file.to_str().unwrap()])
        .await
        .ok();
    let listed = run(&["plugin", "list"]).await.ok();
    assert!(listed.contains(&digest(&second)[..12]), "{listed}");
    run(&["plugin", "rollback", "haiku"]).await.ok();
    run(&["plugin", "rollback", "haiku"]).await.ok();
    run(&["plugin", "pin", "haiku"]).await.ok();
    let story = run(&["plugin", "history"]).await.ok();
    assert!(story.contains("pinned"), "{story}");
    let rig = Rig::with(home, folder, &[]).await;
    assert_eq!(rig.active("haiku").await, digest(&second));
    rig.haiku().await;
}

/// Commands that load plugins themselves go by the same order as a worker: what serves, although the folder's file is broken.
#[tokio::test]
async fn plan_and_studio_see_what_a_worker_would_serve_and_change_nothing() {
    let rig = Rig::start(&[("haiku.wasm", &component("haiku"))]).await;
    rig.put("haiku.wasm", b"broken");
    rig.candidate("haiku", "refused").await;
    let book = || fs::read(rig.home.path("state/plugins/plugins.json")).unwrap();
    let before = book();
    let task = serde_json::json!({"kind": "haiku", "prompt": "snow"});
    let claim = worker_tests::offers::claim(
        "job-1",
        "haiku",
        task,
        worker_tests::offers::source("haiku"),
    );
    fs::write(rig.home.path("offer.json"), claim.to_string()).unwrap();
    let folder = rig.folder.path().to_str().unwrap().to_owned();
    let line = ["plan", "offer.json", "--plugins", &folder];
    let planned = rig.home.run(&line).await.ok();
    assert!(
        planned.contains("plugin haiku takes the offer"),
        "{planned}"
    );
    assert!(book() == before, "the running worker's book was changed");
    rig.haiku().await;

    rig.worker.stop().await;
    let planned = rig.home.run(&line).await.ok();
    assert!(
        planned.contains("plugin haiku takes the offer"),
        "{planned}"
    );
    let mut command = rig.home.command(&["studio", "--plugins"]);
    command.arg(&folder);
    let studio = worker_tests::Worker::start(command, &rig.home.path("local-api.json"));
    let api = studio.api().await;
    // It composes with that version; without an engine of this kind the text would be refused.
    api.submit(&serde_json::json!({"kind": "haiku", "text": "snow"}))
        .await;
    studio.stop().await;
}

#[tokio::test]
async fn a_cold_start_says_that_it_compiles_and_a_warm_one_does_not() {
    let home = worker_tests::Home::new();
    fs::remove_dir_all(home.path("state/compiled")).unwrap();
    let compiles = |worker: &worker_tests::Worker| {
        let lines = worker.lines();
        ["compiling plugins", "plugins compiled in"]
            .map(|words| lines.iter().filter(|line| line.contains(words)).count())
    };
    let cold = home.start();
    cold.connected().await;
    assert_eq!(compiles(&cold), [1, 1]);
    cold.stop().await;
    let warm = home.start();
    warm.connected().await;
    assert_eq!(compiles(&warm), [0, 0]);
    warm.stop().await;
}

/// Generation and digests are on every record of a job: the journal, the worker's status, the studio's job, the product.
#[tokio::test]
async fn a_jobs_records_say_which_plugins_served_it() {
    let rig = Rig::start(&[("scripted.wasm", &component("scripted"))]).await;
    let task = serde_json::json!({"kind": "scripted", "script": [{"wait": 3000}]});
    let claim = worker_tests::offers::claim(
        "job-1",
        "scripted",
        task,
        worker_tests::offers::source("scripted"),
    );
    let id = rig.api.offer(&claim).await;
    let status = rig
        .worker
        .status("the job in hand", |status| {
            status["currentJob"]["plugins"][0]["name"] == "scripted"
        })
        .await;
    let current = &status["currentJob"];
    assert_eq!(current["generation"], status["generation"]);
    assert_eq!(
        current["plugins"][0]["digest"],
        digest(&component("scripted"))
    );
    rig.api.result(&id).await;
    let record = rig.api.get(&format!("/api/jobs/{id}")).await;
    assert_eq!(record["servedBy"]["generation"], status["generation"]);
    assert_eq!(record["servedBy"]["plugins"], current["plugins"]);
    let names: Vec<&str> = record["servedBy"]["plugins"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["scripted", "finisher", "router"]);
    let (job, generation, engine) = rig.journals().remove(0);
    assert_eq!(
        (job.as_str(), generation.as_str(), engine.as_str()),
        (
            "job-1",
            status["generation"].as_str().unwrap(),
            digest(&component("scripted")).as_str()
        )
    );
    let picture = rig
        .api
        .submit(&serde_json::json!({"kind": "image", "model": "synthetic", "text": "snow"}))
        .await;
    let bytes = rig.api.result(&picture).await;
    let written = String::from_utf8_lossy(&bytes);
    let record = rig.api.get(&format!("/api/jobs/{picture}")).await;
    let mut facts = vec![record["servedBy"]["generation"].as_str().unwrap()];
    let plugins = record["servedBy"]["plugins"].as_array().unwrap();
    facts.extend(plugins.iter().map(|one| one["digest"].as_str().unwrap()));
    assert_eq!(facts.len(), 4);
    for fact in facts {
        assert!(written.contains(fact), "{fact} is not in the picture");
    }
}

/// A folder's own files are one thing, what was decided while a worker ran on it another.
#[tokio::test]
async fn a_folders_list_says_what_serves_instead_of_its_files() {
    let first = component("haiku");
    let second = another(&first, "second");
    let rig = Rig::start(&[("haiku.wasm", &first)]).await;
    let folder = rig.folder.path().to_str().unwrap().to_owned();
    let list = ["plugin", "list", "--plugins", &folder];
    let listed = rig.home.run(&list).await.ok();
    assert!(!listed.contains("decided"), "{listed}");
    let file = rig.home.path("haiku.wasm");
    fs::write(&file, &second).unwrap();
    let add = ["plugin", "add", file.to_str().unwrap()];
    rig.home.run(&add).await.ok();
    let short = &digest(&second)[..12];
    let listed = rig.home.run(&list).await.ok();
    let says = format!("{short} serves instead of its file");
    assert!(listed.contains(&says), "{listed}");
    let doctor = ["doctor", "--plugins", &folder];
    let told = rig.home.run(&doctor).await.stdout;
    assert!(told.contains(&says), "{told}");
    rig.home.run(&["plugin", "remove", "haiku"]).await.ok();
    rig.worker.stop().await;
    let listed = rig
        .home
        .run(&[&list[..], &["--json"]].concat())
        .await
        .json();
    let decided = listed["decided"].as_array().unwrap();
    assert_eq!(decided.len(), 1, "{listed:#}");
    assert_eq!(decided[0]["name"], "haiku");
    assert_eq!(decided[0]["file"], digest(&first).as_str());
    assert!(decided[0]["digest"].is_null());
}
