//! `models`: fetching, listing, checking, keeping and removing, beside a running worker and without one.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use worker_tests::disk::with_small_disk;
use worker_tests::home::finish;
use worker_tests::wait::until;
use worker_tests::{Answer, Ended, Home, Host, PluginFolder, Worker, files_with, offers};

/// An installation whose scripted engine downloads what its offer lists.
struct Rig {
    home: Home,
    folder: PluginFolder,
}

impl Rig {
    fn new() -> Self {
        let grant =
            "[plugins.scripted]\nprograms = [\"stand-in\"]\nenvironment = [\"STAND_IN_MODE\"]";
        Self {
            home: Home::new(),
            folder: PluginFolder::first_party().add("scripted").grant(grant),
        }
    }

    fn claim(job: &str, script: Value) -> Value {
        let task = json!({"kind": "scripted", "script": script});
        offers::claim(job, "a model/1", task, offers::source("scripted"))
    }

    /// `models pull` of an offer that wants these files.
    fn pull(&self, files: &[Value], more: &[&str]) -> Command {
        let claim = Self::claim("pulled", json!([{ "fetch": files }]));
        let offer = self.home.path("offer.json");
        fs::write(&offer, claim.to_string()).unwrap();
        let mut command = self.home.command(&["models", "pull"]);
        command
            .arg(offer)
            .arg("--plugins")
            .arg(self.folder.path())
            .args(more);
        command
    }

    async fn pulled(&self, files: &[Value]) -> Ended {
        finish(self.pull(files, &[])).await
    }

    async fn models(&self, words: &[&str]) -> Ended {
        self.home.run(&[&["models"], words].concat()).await
    }

    /// The models that are there, by name.
    async fn list(&self) -> Vec<Value> {
        let told = self.models(&["list", "--json"]).await.json();
        told["models"].as_array().unwrap().clone()
    }

    fn kept(&self, folder: &str) -> Vec<PathBuf> {
        let folder = self.home.path("models/.studio-worker").join(folder);
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }
}

fn file(url: &str, name: &str) -> Value {
    json!({"url": url, "cache_as": name})
}

fn with_digest(url: &str, name: &str, content: &[u8]) -> Value {
    json!({"url": url, "cache_as": name, "sha256": hex::encode(Sha256::digest(content))})
}

fn names(models: &[Value]) -> Vec<&str> {
    models
        .iter()
        .map(|model| model["name"].as_str().unwrap())
        .collect()
}

/// The percentages that progress told, in order.
fn percentages(told: &str) -> Vec<u32> {
    told.split(" %")
        .filter_map(|before| before.rsplit([' ', ']']).next()?.parse().ok())
        .collect()
}

#[tokio::test]
async fn what_was_pulled_is_listed_and_what_was_damaged_is_found_and_fetched_again() {
    let host = Host::start(|_| Answer::ok("GGUF weights")).await;
    let rig = Rig::new();
    let wanted = [
        with_digest(&host.url("/a?t=planted"), "a.gguf", b"GGUF weights"),
        file(&host.url("/b?t=planted"), "b.gguf"),
    ];
    for _ in 0..2 {
        let told = rig.pulled(&wanted).await.ok();
        assert!(told.contains("a.gguf") && told.contains("b.gguf"), "{told}");
    }
    assert_eq!(host.requests().len(), 2, "each once");
    let models = rig.list().await;
    assert_eq!(names(&models), ["a.gguf", "b.gguf"]);
    for (model, kind, verified) in [(&models[0], "sha256-", true), (&models[1], "url-", false)] {
        assert!(model["id"].as_str().unwrap().starts_with(kind), "{model}");
        assert_eq!(model["verified"], verified, "{model}");
        assert_eq!(
            (&model["bytes"], &model["inUse"]),
            (&json!(12), &json!(false))
        );
    }
    let listed = rig.models(&[]).await.ok();
    assert!(
        listed.contains("a.gguf") && listed.contains("unverified") && listed.contains("24 B held"),
        "{listed}"
    );
    assert!(!listed.contains("planted"));
    assert_eq!(
        files_with(&rig.home.path("models"), "planted"),
        [] as [PathBuf; 0]
    );
    assert!(
        rig.models(&["verify"])
            .await
            .ok()
            .contains("ok        a.gguf")
    );

    // Other bytes of the same length under the same date: only reading tells.
    let path = PathBuf::from(models[0]["path"].as_str().unwrap());
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let mut open = fs::File::options().write(true).open(&path).unwrap();
    open.write_all(b"GGUF wrights").unwrap();
    open.set_modified(before).unwrap();
    let ended = rig.models(&["verify", "--json"]).await;
    assert_eq!(ended.code(), 1);
    let told: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(told[0]["verdict"], "damaged", "{told}");
    assert_eq!(told[1]["verdict"], "ok", "{told}");
    assert!(ended.error().contains("1 models were damaged"));
    assert_eq!(names(&rig.list().await), ["b.gguf"]);
    assert_eq!(
        rig.kept("quarantine").len(),
        1,
        "for the operator to look at"
    );
    rig.pulled(&wanted).await.ok();
    assert_eq!(host.requests().len(), 3);
    assert_eq!(fs::read(&path).unwrap(), b"GGUF weights");
}

/// What came by URL alone never passes for the file that a digest vouches for, nor the other way round.
#[tokio::test]
async fn a_trusted_model_cannot_be_slipped_in_under_its_name_or_url() {
    let host = Host::start(|target| match target {
        "/m" => Answer::ok("not the model"),
        _ => Answer::ok("the true model"),
    })
    .await;
    let rig = Rig::new();
    // Somebody's offer brings other bytes from the same URL, under the same name.
    rig.pulled(&[file(&host.url("/m"), "m.gguf")]).await.ok();
    let trusted = with_digest(&host.url("/m"), "m.gguf", b"the true model");
    let error = rig.pulled(std::slice::from_ref(&trusted)).await.error();
    assert!(error.contains("SHA-256"), "{error}");
    assert_eq!(
        rig.list().await.len(),
        1,
        "nothing was kept under its digest"
    );
    assert!(rig.kept("partial").is_empty(), "and nothing is left");
    let mirror = with_digest(&host.url("/mirror"), "m.gguf", b"the true model");
    rig.pulled(&[mirror]).await.ok();
    rig.pulled(&[trusted]).await.ok();
    let models = rig.list().await;
    let content = |model: &Value| fs::read_to_string(model["path"].as_str().unwrap()).unwrap();
    assert_eq!(models.len(), 2, "two models of one name");
    for model in &models {
        let wanted = if model["verified"] == true {
            "the true model"
        } else {
            "not the model"
        };
        assert_eq!(content(model), wanted);
    }
    // A name cannot lead out of the cache.
    for name in ["../m.gguf", "a/b", "/etc/m", "..", "a\\b", "\u{1b}[2J"] {
        let error = rig.pulled(&[file(&host.url("/x"), name)]).await.error();
        assert!(error.contains("bare file name"), "{name}: {error}");
    }
    assert!(host.asked("/x").is_empty());
}

#[tokio::test]
async fn what_is_in_use_or_pinned_stays() {
    let host = Host::start(|_| Answer::ok("GGUF")).await;
    let rig = Rig::new();
    let wanted =
        ["a.gguf", "b.gguf", "c.gguf"].map(|name| file(&host.url(&format!("/{name}")), name));
    rig.pulled(&wanted).await.ok();
    let worker = rig.home.start_with(rig.folder.path(), &[]);
    let api = worker.connected().await;
    let script = json!([{"fetch": [&wanted[0]]}, {"wait": 600_000}]);
    let job = api.offer(&Rig::claim("holds", script)).await;
    until("a model in use", || {
        let busy = worker.lines().iter().any(|line| line.contains("holds"));
        busy.then_some(())
    })
    .await;
    worker
        .status("the job at its wait", |status| {
            status["currentJob"]["stage"] == "performing"
        })
        .await;
    let error = rig.models(&["remove", "a.gguf"]).await.error();
    assert!(error.contains("in use"), "{error}");
    rig.models(&["pin", "b.gguf"]).await.ok();
    let error = rig.models(&["remove", "b.gguf"]).await.error();
    assert!(error.contains("pinned"), "{error}");
    let told = rig.models(&["gc", "--max", "0", "--json"]).await.json();
    assert_eq!(told["removed"], json!(["c.gguf"]), "{told}");
    assert_eq!((&told["bytes"], &told["left"]), (&json!(4), &json!(8)));
    let models = rig.list().await;
    assert_eq!(names(&models), ["a.gguf", "b.gguf"]);
    assert_eq!(models[0]["inUse"], true, "{models:?}");
    assert_eq!(models[1]["pinned"], true, "{models:?}");

    assert_eq!(
        api.post(&format!("/api/jobs/{job}/cancel"), &json!({}))
            .await
            .0,
        202
    );
    api.over(&job).await;
    until("the end of its use", || {
        rig.home.scratch_folders().is_empty().then_some(())
    })
    .await;
    let told = rig.models(&["remove", "a.gguf"]).await.ok();
    assert!(told.contains("removed a.gguf (4 B)"), "{told}");
    rig.models(&["unpin", "b.gguf"]).await.ok();
    let told = rig.models(&["gc", "--max", "0"]).await.ok();
    assert!(
        told.contains("removed b.gguf") && told.contains("4 B freed"),
        "{told}"
    );
    assert!(rig.list().await.is_empty());
    assert!(rig.kept("urls").is_empty() && rig.kept("index").is_empty());
    let error = rig.models(&["remove", "a.gguf"]).await.error();
    assert!(error.contains("no model is called"), "{error}");
}

#[tokio::test]
async fn progress_is_lines_in_a_pipe_and_a_bar_on_a_terminal_and_never_falls() {
    let gate = Arc::new(Semaphore::new(1000));
    let body = vec![7; 3 << 20];
    let host = Host::start(move |_| Answer::parts(&body, 64, &gate)).await;
    let rig = Rig::new();
    let ended = rig.pulled(&[file(&host.url("/m"), "m.gguf")]).await;
    let told = ended.stderr.clone();
    ended.ok();
    assert!(!told.contains(['\r', '\u{1b}']), "plain lines: {told:?}");
    let seen = percentages(&told);
    assert!(seen.is_sorted() && seen.last() == Some(&100), "{told}");
    assert!(told.contains("m.gguf: 100 % of 3.0 MiB"), "{told}");

    let command = rig.pull(&[file(&host.url("/n"), "n.gguf")], &[]);
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line: Vec<&str> = words.map(|word| word.to_str().unwrap()).collect();
    assert!(
        line.iter().all(|word| !word.contains([' ', '\''])),
        "{line:?}"
    );
    let mut on_terminal = Command::new("script");
    on_terminal
        .args(["-qfec", &line.join(" "), "/dev/null"])
        .env_clear();
    on_terminal.envs(
        command
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    on_terminal.stdin(std::process::Stdio::null());
    let told = finish(on_terminal).await.ok();
    let seen = percentages(&told);
    assert!(seen.is_sorted() && seen.last() == Some(&100), "{told:?}");
    assert!(
        told.contains("\r\u{1b}[K") && told.contains("[########################] 100 %"),
        "{told:?}"
    );

    // A script wants one document and no progress.
    let ended = finish(rig.pull(&[file(&host.url("/o"), "o.gguf")], &["--json"])).await;
    assert!(!ended.stderr.contains('%'), "{}", ended.stderr);
    assert_eq!(ended.json()[0]["name"], "o.gguf");
}

/// Progress of a job's download, wherever somebody looks: `status`, `submit`, the log.
#[tokio::test]
async fn a_jobs_download_is_seen_by_whoever_looks() {
    let gate = Arc::new(Semaphore::new(0));
    let (body, held) = (vec![7; 8 << 20], gate.clone());
    let host = Host::start(move |_| Answer::parts(&body, 8, &held)).await;
    let rig = Rig::new();
    let worker = rig.home.start_with(rig.folder.path(), &[]);
    worker.connected().await;
    let script = json!([{"fetch": [file(&host.url("/m?t=planted"), "m.gguf")]}]);
    let claim = rig.home.path("claim.json");
    fs::write(&claim, Rig::claim("fetches", script).to_string()).unwrap();
    let submitted = rig
        .home
        .command(&["submit", "--offer", claim.to_str().unwrap()]);
    let submitted = tokio::spawn(finish(submitted));
    let mut seen = Vec::new();
    for part in 1..8_u64 {
        gate.add_permits(1);
        // As a line does that is slower than the worker tells its studio.
        tokio::time::sleep(Duration::from_millis(600)).await;
        let status = worker
            .status(&format!("part {part}"), |status| {
                status["currentJob"]["progress"]["done"].as_u64() >= Some(part)
            })
            .await;
        let progress = &status["currentJob"]["progress"];
        assert_eq!(progress["total"], 8, "{progress}");
        seen.push(progress["done"].as_u64().unwrap());
        if part == 4 {
            let told = rig.home.run(&["status"]).await.ok();
            assert!(
                told.contains("fetches performing 4/8 MiB of m.gguf"),
                "{told}"
            );
        }
    }
    assert!(seen.is_sorted(), "{seen:?}");
    gate.add_permits(1);
    let ended = submitted.await.unwrap();
    let told = ended.stderr.clone();
    ended.ok();
    let shown: Vec<u32> = told
        .lines()
        .filter(|line| line.contains("MiB of m.gguf"))
        .filter_map(|line| line.split('/').next()?.rsplit(' ').next()?.parse().ok())
        .collect();
    assert!(shown.len() >= 3 && shown.is_sorted(), "{told}");
    worker.line("downloading http://127.0.0.1").await;
    assert!(worker.lines().iter().all(|line| !line.contains("planted")));
}

#[tokio::test]
async fn an_older_workers_cache_is_used_where_it_lies() {
    let host = Host::start(|_| Answer::ok("fetched")).await;
    let rig = Rig::new();
    // Flat, and in a folder per model, as the reference worker names it.
    let own = rig.home.path("models/a_model_1");
    fs::create_dir(&own).unwrap();
    fs::write(rig.home.path("models/flat.gguf"), "flat weights").unwrap();
    fs::write(own.join("own.gguf"), "own weights").unwrap();
    let look = |path: PathBuf| {
        let meta = fs::metadata(path).unwrap();
        (meta.ino(), meta.len(), meta.mtime_nsec(), meta.mode())
    };
    let places = || {
        [
            look(rig.home.path("models/flat.gguf")),
            look(own.join("own.gguf")),
        ]
    };
    let before = places();
    let wanted = [
        with_digest(&host.url("/flat"), "flat.gguf", b"flat weights"),
        file(&host.url("/own"), "own.gguf"),
    ];
    rig.pulled(&wanted).await.ok();
    assert!(host.requests().is_empty(), "not a byte is fetched");
    assert_eq!(places(), before, "neither moved nor touched");
    let models = rig.list().await;
    assert_eq!(names(&models), ["flat.gguf", "own.gguf"]);
    assert!(
        models.iter().all(|model| model["adopted"] == true),
        "{models:?}"
    );
    assert_eq!(
        (&models[0]["verified"], &models[1]["verified"]),
        (&json!(true), &json!(false))
    );
    assert!(rig.kept("blobs").is_empty() && rig.kept("urls").is_empty());
    // Not ours to remove.
    let error = rig.models(&["remove", "flat.gguf"]).await.error();
    assert!(error.contains("older worker"), "{error}");
    rig.models(&["gc", "--max", "0"]).await.ok();
    assert_eq!(places(), before);
    // One that is another file than its digest says is passed over, and left alone.
    let other = with_digest(&host.url("/other"), "flat.gguf", b"fetched");
    rig.pulled(&[other]).await.ok();
    assert_eq!(host.asked("/other").len(), 1);
    assert_eq!(places(), before);
}

#[tokio::test]
async fn who_wants_a_file_that_is_coming_waits_for_it() {
    let gate = Arc::new(Semaphore::new(1));
    let held = gate.clone();
    let host = Host::start(move |_| Answer::parts(&[7; 1000], 2, &held)).await;
    let rig = Rig::new();
    let wanted = [file(&host.url("/m"), "m.gguf")];
    let pull = || tokio::spawn(finish(rig.pull(&wanted, &[])));
    let first = pull();
    until("the first request", || {
        (!host.requests().is_empty()).then_some(())
    })
    .await;
    // A job of a worker, and another command.
    let worker = rig.home.start_with(rig.folder.path(), &[]);
    let api = worker.connected().await;
    let job = api
        .offer(&Rig::claim("shares", json!([{"fetch": wanted}])))
        .await;
    worker.line("waiting for somebody else's download").await;
    let second = pull();
    let listed = rig.models(&["list"]).await.ok();
    assert!(listed.contains("downloading"), "{listed}");
    gate.add_permits(10);
    first.await.unwrap().ok();
    second.await.unwrap().ok();
    api.result(&job).await;
    assert_eq!(host.requests().len(), 1, "one download");
}

#[tokio::test]
async fn what_cannot_pass_is_asked_for_once() {
    let host = Host::start(|target| {
        let status = match target.split('?').next().unwrap() {
            "/401" => "401 Unauthorized",
            "/403" => "403 Forbidden",
            "/404" => "404 Not Found",
            _ => "410 Gone",
        };
        Answer::new(status, &[], "")
    })
    .await;
    let rig = Rig::new();
    for status in ["401", "403", "404", "410"] {
        let target = format!("/{status}?t=planted");
        let ended = rig.pulled(&[file(&host.url(&target), "m.gguf")]).await;
        let said = format!("{}{}", ended.stdout, ended.stderr);
        let error = ended.error();
        assert!(
            error.contains(status) && !said.contains("planted"),
            "{said}"
        );
        assert_eq!(host.asked(&target).len(), 1, "{status}");
    }
    assert!(rig.list().await.is_empty());
    assert!(rig.kept("blobs").is_empty() && rig.kept("urls").is_empty());
}

/// A full disk is said, and does not pass by asking again: neither where the size is known beforehand, nor where it is not.
#[tokio::test]
async fn a_full_disk_ends_a_download_at_once() {
    let body = vec![7; 3 << 20];
    let unsized_body = [
        worker_tests::host::head("200 OK", &[], None).into_bytes(),
        body.clone(),
    ]
    .concat();
    let host = Host::start(move |target| match target {
        "/sized" => Answer::ok(&body),
        _ => Answer::Whole(unsized_body.clone()),
    })
    .await;
    let rig = Rig::new();
    for target in ["/sized", "/unsized"] {
        let command = rig.pull(&[file(&host.url(target), "m.gguf")], &[]);
        let Some(command) = with_small_disk(&command, &rig.home.path("models"), 2048) else {
            return;
        };
        let error = finish(command).await.error();
        assert!(
            error.contains("cannot be stored") && error.contains("make room"),
            "{error}"
        );
        assert_eq!(host.asked(target).len(), 1, "{target}");
    }
    // A job says the same, and that another worker may have room.
    let command = {
        let mut command = rig.home.command(&["run", "--plugins"]);
        command.arg(rig.folder.path());
        with_small_disk(&command, &rig.home.path("models"), 2048).unwrap()
    };
    let worker = Worker::start(command, &rig.home.path("local-api.json"));
    let api = worker.connected().await;
    let script = json!([{"fetch": [file(&host.url("/sized"), "m.gguf")]}]);
    let id = api.offer(&Rig::claim("full", script)).await;
    let answer: Value = serde_json::from_slice(&api.result(&id).await).unwrap();
    let failed = &answer["history"][0]["Failed"];
    assert!(
        failed["message"].as_str().unwrap().contains("make room"),
        "{failed}"
    );
    assert_eq!(host.asked("/sized").len(), 2);
}

/// One that cannot be read is named, and says nothing of the others.
#[tokio::test]
async fn one_that_cannot_be_read_keeps_no_other_from_being_verified() {
    let host = Host::start(|_| Answer::ok("GGUF weights")).await;
    let rig = Rig::new();
    let wanted = ["a.gguf", "b.gguf"].map(|name| file(&host.url(&format!("/{name}")), name));
    rig.pulled(&wanted).await.ok();
    let models = rig.list().await;
    let path = PathBuf::from(models[0]["path"].as_str().unwrap());
    fs::remove_file(&path).unwrap();
    symlink("/dev/null", &path).unwrap();
    let ended = rig.models(&["verify", "--json"]).await;
    assert_eq!(ended.code(), 1);
    let told: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(told[0]["verdict"], "unreadable", "{told}");
    assert_eq!(told[1]["verdict"], "ok", "{told}");
    assert!(ended.error().contains("1 models could not be read"));
}

/// With a budget the operator lets models go: for the disk as for the budget.
#[tokio::test]
async fn a_full_disk_takes_what_was_used_longest_ago_where_there_is_a_budget() {
    let body = vec![7; 3 << 20];
    let host = Host::start(move |_| Answer::ok(&body)).await;
    for budget in [true, false] {
        let rig = Rig::new();
        rig.home
            .configure(if budget { "models_budget_gb = 1" } else { "" });
        let mut command = rig.home.command(&["run", "--plugins"]);
        command.arg(rig.folder.path());
        // A download leaves 64 MiB: there is room for two.
        let kib = (64 + 8) << 10;
        let Some(command) = with_small_disk(&command, &rig.home.path("models"), kib) else {
            return;
        };
        let worker = Worker::start(command, &rig.home.path("local-api.json"));
        let api = worker.connected().await;
        for (target, may) in [("/a", true), ("/b", true), ("/c", budget)] {
            let mut wanted = file(&host.url(target), "m.gguf");
            wanted["approx_bytes"] = json!(3 << 20);
            let claim = Rig::claim(&target[1..], json!([{"fetch": [wanted]}]));
            let id = api.offer(&claim).await;
            let answer: Value = serde_json::from_slice(&api.result(&id).await).unwrap();
            let failed = &answer["history"][0]["Failed"]["message"];
            let said = failed.as_str().unwrap_or_default();
            assert_eq!(failed.is_null(), may, "{target} {budget}: {answer}");
            assert_eq!(said.contains("models gc --max GB"), !may, "{said}");
        }
    }
}
