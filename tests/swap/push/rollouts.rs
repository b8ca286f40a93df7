//! Roll-outs from a studio of its own to real workers, all on loopback.

use std::fs;

use serde_json::{Value, json};
use worker_tests::wait::until_ok;
use worker_tests::{Api, Home, PluginFolder, Worker, built, offers};

use super::rig::{Signer, better, folder, good, greedy, posing, versioned};
use crate::support::{another, digest};

struct Studio {
    home: Home,
    _studio: Worker,
    api: Api,
}

impl Studio {
    async fn start() -> Self {
        let home = Home::new();
        let mut command = home.command(&[
            "studio",
            "--listen",
            "127.0.0.1:0",
            "--approve",
            "auto",
            "--plugins",
        ]);
        command.arg(built::root().join("plugins"));
        let studio = Worker::start(command, &home.path("local-api.json"));
        let api = studio.api().await;
        Self {
            home,
            _studio: studio,
            api,
        }
    }

    /// A worker of it.
    async fn worker(&self) -> Member {
        let (home, folder) = (Home::unregistered(&self.api.url), folder());
        let known = self.ids().await;
        let worker = home.start_with(folder.path(), &[]);
        worker.connected().await;
        let id = until_ok("a new worker", || async {
            let ids = self.ids().await;
            ids.into_iter().find(|id| !known.contains(id))
        });
        Member {
            id: id.await,
            worker,
            home,
            _folder: folder,
        }
    }

    async fn ids(&self) -> Vec<String> {
        let workers = self.api.get("/api/workers").await;
        let text = |one: &Value| one["workerId"].as_str().unwrap().to_owned();
        workers.as_array().unwrap().iter().map(text).collect()
    }

    /// Writes a plugin and its signature; gives the file.
    fn file(&self, bytes: &[u8], signature: &str) -> String {
        let dir = self.home.path(&format!("push-{}", &digest(bytes)[..8]));
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("hostile.wasm");
        fs::write(&file, bytes).unwrap();
        fs::write(dir.join("hostile.wasm.minisig"), signature).unwrap();
        file.to_str().unwrap().to_owned()
    }

    /// Pushes a plugin; gives the roll-out's id.
    async fn push(&self, bytes: &[u8], signer: &Signer, more: &[&str]) -> String {
        let file = self.file(bytes, &signer.sign(bytes));
        let mut line = vec!["studio", "push", &file, "--no-wait"];
        line.extend(more);
        self.home.run(&line).await.ok().trim().to_owned()
    }

    async fn until(&self, update: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        until_ok(what, || async {
            let (_, found) = self.api.try_get(&format!("/api/updates/{update}")).await?;
            wanted(&found).then_some(found)
        })
        .await
    }

    async fn ends(&self, update: &str, state: &str) -> Value {
        let over = |found: &Value| {
            !["canary", "rolling"]
                .iter()
                .any(|run| found["state"] == *run)
        };
        let found = self.until(update, "the end of the roll-out", over).await;
        assert_eq!(found["state"], state, "{found:#}");
        found
    }

    /// A job of the hostile engine, done.
    async fn job(&self, id: &str, words: &str) {
        let task = json!({"kind": "hostile", "prompt": words});
        let claim = offers::claim(id, "hostile", task, offers::source("hostile"));
        self.api.offer(&claim).await;
        self.api.result(id).await;
    }
}

struct Member {
    id: String,
    worker: Worker,
    home: Home,
    _folder: PluginFolder,
}

impl Member {
    /// Gives the worker an order, as its operator does.
    async fn order(&self, word: &str) {
        self.home.run(&[word]).await.ok();
    }

    async fn serves(&self) -> String {
        let status = self.worker.api().await.get("/daemon/status").await;
        let plugins = status["plugins"].as_array().unwrap();
        let found = plugins.iter().find(|one| one["name"] == "hostile");
        found.unwrap()["digest"].as_str().unwrap().to_owned()
    }
}

fn of<'a>(update: &'a Value, member: &Member) -> &'a Value {
    let workers = update["workers"].as_array().unwrap();
    workers
        .iter()
        .find(|one| one["workerId"] == member.id.as_str())
        .unwrap()
}

fn story(update: &Value, member: &Member) -> Vec<String> {
    let story = of(update, member)["story"].as_array().unwrap();
    let state = |told: &Value| told["state"].as_str().unwrap().to_owned();
    story.iter().map(state).collect()
}

#[tokio::test]
async fn a_push_ends_in_active_on_the_worker_and_at_the_studio() {
    let studio = Studio::start().await;
    let member = studio.worker().await;
    let new = better("pushed");
    let update = studio.push(&new, Signer::trusted(), &[]).await;
    let view = studio
        .until(&update, "jobs to do", |view| {
            of(view, &member)["jobsLeft"].is_number()
        })
        .await;
    assert_eq!(view["state"], "canary");
    assert!(view["waiting"].as_str().unwrap().contains("20 more jobs"));
    for job in 0..20 {
        studio.job(&format!("job-{job}"), "fine").await;
    }
    let view = studio.ends(&update, "done").await;
    assert_eq!(of(&view, &member)["state"], "active");
    let told = story(&view, &member);
    assert_eq!(told.first().map(String::as_str), Some("sent"));
    assert!(
        told.ends_with(&["probation".to_owned(), "active".to_owned()]),
        "{told:?}"
    );
    assert_eq!(member.serves().await, digest(&new));
    let status = member.worker.api().await.get("/daemon/status").await;
    assert_eq!(status["swap"]["states"]["hostile"]["state"], "active");

    // As people see it.
    let list = studio.home.run(&["studio", "updates"]).await.ok();
    assert!(list.contains(&update) && list.contains("done"), "{list}");
    let one = studio.home.run(&["studio", "updates", &update]).await.ok();
    assert!(one.contains("active") && one.contains(&member.id), "{one}");
    studio.home.run(&["studio", "watch", &update]).await.ok();
    // A worker that comes later gets it.
    let late = studio.worker().await;
    late.worker
        .status("the pushed version", |status| {
            status["swap"]["states"]["hostile"]["digest"] == digest(&new).as_str()
        })
        .await;
}

#[tokio::test]
async fn each_bad_push_ends_in_its_own_state_and_jobs_go_on() {
    let studio = Studio::start().await;
    let member = studio.worker().await;
    let trusted = Signer::trusted();
    studio.job("wild", "spoil:panic").await;
    let mut jobs = 0;
    let bad: [(&str, Vec<u8>, &Signer, &str, &str); 5] = [
        ("older", versioned("0.0.9"), trusted, "refused", "older"),
        (
            "stranger",
            better("x"),
            &Signer::stranger(),
            "refused",
            "unknown-key",
        ),
        ("wants more", greedy(), trusted, "waiting", ""),
        (
            "traps in the probe",
            posing("hostile-describe-recurse"),
            trusted,
            "refused",
            "probe",
        ),
        (
            "differs in shadowing",
            posing("hostile-spoiled"),
            trusted,
            "refused",
            "shadow",
        ),
    ];
    for (what, bytes, signer, state, rule) in bad {
        let update = studio.push(&bytes, signer, &[]).await;
        let view = studio.ends(&update, "stopped").await;
        let share = of(&view, &member);
        assert_eq!(share["state"], state, "{what}: {view:#}");
        assert_eq!(share["rule"].as_str().unwrap_or_default(), rule, "{what}");
        assert!(!share["reason"].as_str().unwrap().is_empty(), "{what}");
        assert_eq!(member.serves().await, digest(&good()), "{what}");
        jobs += 1;
        studio.job(&format!("after-{jobs}"), "fine").await;
    }
    // Without a signature nothing leaves this machine.
    let file = studio.file(&better("unsigned"), "");
    fs::remove_file(format!("{file}.minisig")).unwrap();
    let ended = studio.home.run(&["studio", "push", &file]).await.error();
    assert!(ended.contains("no signature"), "{ended}");
    let updates = studio.api.get("/api/updates").await;
    assert_eq!(updates.as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn one_that_traps_on_its_third_job_is_rolled_back_and_the_job_succeeds() {
    let studio = Studio::start().await;
    let member = studio.worker().await;
    let bad = posing("hostile-spoiled");
    let update = studio.push(&bad, Signer::trusted(), &[]).await;
    studio
        .until(&update, "probation", |view| {
            of(view, &member)["state"] == "probation"
        })
        .await;
    studio.job("one", "fine").await;
    studio.job("two", "fine").await;
    studio.job("three", "spoil:panic").await;
    let view = studio.ends(&update, "stopped").await;
    let told = story(&view, &member);
    assert!(told.contains(&"rolled-back".to_owned()), "{told:?}");
    assert_eq!(member.serves().await, digest(&good()));
    // The same again is known by its digest.
    let again = studio.push(&bad, Signer::trusted(), &[]).await;
    let view = studio.ends(&again, "stopped").await;
    assert!(
        of(&view, &member)["reason"]
            .as_str()
            .unwrap()
            .contains("quarantined"),
        "{view:#}"
    );
}

#[tokio::test]
async fn a_canary_that_rolls_back_stops_the_rollout_with_the_others_untouched() {
    let studio = Studio::start().await;
    let members = [
        studio.worker().await,
        studio.worker().await,
        studio.worker().await,
    ];
    let [first, canary, last] = &members;
    let others = [first, last];
    let bad = posing("hostile-spoiled");
    let update = studio
        .push(&bad, Signer::trusted(), &["--canary", &canary.id])
        .await;
    studio
        .until(&update, "probation", |view| {
            of(view, canary)["state"] == "probation"
        })
        .await;
    assert_eq!(canary.serves().await, digest(&bad));
    // It takes every job while the others rest.
    for other in others {
        other.order("pause").await;
    }
    studio.job("fine", "fine").await;
    let view = studio.api.get(&format!("/api/updates/{update}")).await;
    assert_eq!(view["state"], "canary", "{view:#}");
    studio.job("wild", "spoil:panic").await;
    let view = studio.ends(&update, "stopped").await;
    assert_eq!(view["canary"], canary.id.as_str());
    let reason = view["reason"].as_str().unwrap();
    assert!(reason.contains(&canary.id), "{reason}");
    let told = story(&view, canary);
    assert!(told.contains(&"probation".to_owned()), "{told:?}");
    assert!(told.contains(&"rolled-back".to_owned()), "{told:?}");
    assert_eq!(of(&view, canary)["meaning"], "failed");
    assert_eq!(canary.serves().await, digest(&good()));
    for other in others {
        other.order("resume").await;
        assert_eq!(of(&view, other)["state"], "not-sent");
        assert_eq!(other.serves().await, digest(&good()));
        let lines = other.worker.lines().join("\n");
        assert!(!lines.contains("the studio pushes"), "{lines}");
    }
    // As a person sees it, then and afterwards.
    let shown = studio.home.run(&["studio", "updates", &update]).await.ok();
    for words in ["stopped", "rolled-back", "not-sent", canary.id.as_str()] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    studio.job("after", "fine").await;
    // One that comes later is sent nothing of it.
    let late = studio.worker().await;
    let view = studio.api.get(&format!("/api/updates/{update}")).await;
    assert_eq!(of(&view, &late)["state"], "not-sent");
    assert_eq!(late.serves().await, digest(&good()));
}

#[tokio::test]
async fn a_worker_whose_operator_keeps_the_plugin_stops_nobody_else() {
    let studio = Studio::start().await;
    let (keeps, takes) = (studio.worker().await, studio.worker().await);
    keeps.home.run(&["plugin", "pin", "hostile"]).await.ok();
    let new = better("wanted");
    let rules = ["--canary", &keeps.id, "--canary-jobs", "0"];
    let update = studio.push(&new, Signer::trusted(), &rules).await;
    let view = studio.ends(&update, "done").await;
    assert_eq!(view["canary"], takes.id.as_str());
    assert_eq!(of(&view, &keeps)["state"], "pinned");
    assert_eq!(of(&view, &keeps)["meaning"], "declined");
    assert_eq!(keeps.serves().await, digest(&good()));
    assert_eq!(takes.serves().await, digest(&new));
    let shown = studio.home.run(&["studio", "updates", &update]).await.ok();
    assert!(shown.contains("(declined)"), "{shown}");
}

#[tokio::test]
async fn the_rollout_stops_at_a_failing_canary_with_the_others_untouched() {
    let studio = Studio::start().await;
    let members = [
        studio.worker().await,
        studio.worker().await,
        studio.worker().await,
    ];
    let bad = another(&posing("hostile-describe-recurse"), "canary");
    let canary = &members[1];
    let update = studio
        .push(&bad, Signer::trusted(), &["--canary", &canary.id])
        .await;
    let view = studio.ends(&update, "stopped").await;
    assert_eq!(view["canary"], canary.id.as_str());
    assert_eq!(of(&view, canary)["state"], "refused");
    for member in [&members[0], &members[2]] {
        assert_eq!(of(&view, member)["state"], "not-sent");
        assert_eq!(member.serves().await, digest(&good()));
        let lines = member.worker.lines().join("\n");
        assert!(!lines.contains("the studio pushes"), "{lines}");
    }
    assert!(
        canary
            .worker
            .lines()
            .iter()
            .any(|line| line.contains("the studio pushes"))
    );
    // A good one goes to all, the canary first.
    let new = better("good");
    let update = studio
        .push(&new, Signer::trusted(), &["--canary-jobs", "0"])
        .await;
    studio.ends(&update, "done").await;
    for member in &members {
        assert_eq!(member.serves().await, digest(&new));
    }
    // And of a watch that ends badly the exit says so.
    let file = studio.file(&bad, &Signer::trusted().sign(&bad));
    let error = studio.home.run(&["studio", "push", &file]).await.error();
    assert!(error.contains("stopped"), "{error}");
}
