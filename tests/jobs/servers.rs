//! Warm servers through the whole worker.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use worker_tests::disk::with_small_disk;
use worker_tests::wait::until;
use worker_tests::{Api, FileServer, Home, PluginFolder, Worker, built, offers};

pub(crate) struct Rig {
    pub(crate) home: Home,
    folder: PluginFolder,
    pub(crate) worker: Worker,
    api: Api,
}

impl Rig {
    pub(crate) async fn start(config: &str) -> Self {
        let started = Self::start_as(config, |command, _| Some(command)).await;
        started.expect("nothing is in its way")
    }

    /// With a worker that is started in some way of its own; none where it cannot be.
    pub(crate) async fn start_as(
        config: &str,
        change: impl FnOnce(Command, &Home) -> Option<Command>,
    ) -> Option<Self> {
        let home = Home::new();
        home.configure(config);
        let bin = home.path(".local/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::copy(built::stand_in_server(), bin.join("stand-in")).unwrap();
        let folder = PluginFolder::first_party().add("scripted").grant(
            "[plugins.scripted]\nprograms = [\"stand-in\"]\nenvironment = [\"STAND_IN_MODE\"]",
        );
        let mut command = home.command(&["run", "--plugins"]);
        command.arg(folder.path());
        let worker = Worker::start(change(command, &home)?, &home.path("local-api.json"));
        let api = worker.connected().await;
        Some(Self {
            home,
            folder,
            worker,
            api,
        })
    }

    pub(crate) async fn history(&self, job: &str, script: Value) -> Vec<Value> {
        let task = json!({ "kind": "scripted", "script": script });
        let claim = offers::claim(job, "scripted", task, offers::source("scripted"));
        let id = self.api.offer(&claim).await;
        let answer: Value = serde_json::from_slice(&self.api.result(&id).await).unwrap();
        answer["history"].as_array().unwrap().clone()
    }

    pub(crate) async fn servers(&self) -> Vec<Value> {
        let status = self.api.get("/daemon/status").await;
        status["servers"].as_array().unwrap().clone()
    }
}

pub(crate) fn call(options: &[&str], target: &str) -> Value {
    let arguments: Vec<Value> = options
        .iter()
        .map(|word| match word.strip_prefix("--") {
            Some(_) => json!({ "Flag": word }),
            None => json!(word),
        })
        .collect();
    json!({"call": {"backend": "stand-in", "arguments": arguments, "request": {"target": target}}})
}

/// A plugin learns by kind, not by words, that the time is gone, and how long it was.
#[tokio::test]
async fn a_call_without_an_answer_in_its_time_says_so_and_how_long_it_had() {
    let rig = Rig::start("").await;
    let mut asked = call(&[], "/v1/poll");
    asked["call"]["request"]["timeout_ms"] = json!(700);
    asked["call"]["request"]["repeat"] =
        json!({"pointer": "/job/state", "pending": ["pending", "done"], "every_ms": 20});
    let history = rig.history("job-1", json!([asked])).await;
    let late = &history[0]["TimedOut"];
    assert_eq!(late[0], 700, "{history:?}");
    assert_eq!(late[1]["retryable"], true, "{history:?}");
}

#[tokio::test]
async fn two_jobs_share_a_server_and_other_arguments_do_not() {
    let rig = Rig::start("").await;
    for job in ["job-1", "job-2"] {
        let history = rig.history(job, json!([call(&[], "/v1/pid")])).await;
        assert_eq!(history[0]["Responded"]["status"], 200, "{history:?}");
    }
    let servers = rig.servers().await;
    assert_eq!(servers.len(), 1, "{servers:?}");
    assert_eq!(
        (&servers[0]["starts"], &servers[0]["calls"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(servers[0]["plugin"], "scripted");
    rig.history("job-3", json!([call(&["--deaf"], "/v1/pid")]))
        .await;
    let pid = servers[0]["pid"].to_string();
    assert!(
        rig.servers()
            .await
            .iter()
            .all(|server| server["calls"] != 3),
        "another server"
    );
    rig.worker.stop().await;
    assert!(!Path::new("/proc").join(pid).exists());
}

#[tokio::test]
async fn only_declared_routes_and_sound_headers() {
    let rig = Rig::start("").await;
    let mut injected = call(&[], "/v1/echo");
    injected["call"]["request"]["headers"] = json!([["X-A", "b\r\nHost: evil"]]);
    let mut host = call(&[], "/v1/echo");
    host["call"]["request"]["headers"] = json!([["Host", "evil"]]);
    let rows = [
        call(&[], "/admin"),
        call(&[], "/v1/../admin"),
        call(&[], "/v1/%2e%2e/admin"),
        call(&[], "//v1/x"),
        call(&[], "http://127.0.0.1/v1"),
        injected,
        host,
    ];
    let history = rig.history("job-1", json!(rows)).await;
    assert_eq!(history.len(), rows.len());
    for (row, outcome) in rows.iter().zip(history) {
        assert_eq!(outcome["Failed"]["retryable"], false, "{row}: {outcome}");
    }
    assert!(rig.servers().await.is_empty(), "nothing was started");
}

#[tokio::test]
async fn a_crash_loop_tells_the_plugin_to_do_it_otherwise() {
    let rig = Rig::start("").await;
    let rows: Vec<Value> = (0..4).map(|_| call(&["--exit", "7"], "/v1/pid")).collect();
    let history = rig.history("job-1", json!(rows)).await;
    let told: Vec<bool> = history
        .iter()
        .map(|it| it["Failed"]["retryable"].as_bool().unwrap())
        .collect();
    assert_eq!(told, [true, true, true, false], "{history:?}");
}

/// One that says that it has no ready path is not waited for as one that loads is; the plugin is told to do it otherwise.
#[tokio::test]
async fn a_server_without_its_ready_path_is_told_from_one_that_loads() {
    let rig = Rig::start("").await;
    let rows = [
        call(&["--absent", "always"], "/v1/pid"),
        call(&["--absent", "loading", "--load-ms", "300"], "/v1/pid"),
    ];
    let history = rig.history("job-1", json!(rows)).await;
    let failed = &history[0]["Failed"];
    assert_eq!(failed["retryable"], false, "{history:?}");
    let message = failed["message"].as_str().unwrap();
    assert!(message.contains("answers 404 on /health"), "{message}");
    assert_eq!(history[1]["Responded"]["status"], 200, "{history:?}");
}

#[tokio::test]
async fn an_idle_server_goes_and_a_killed_worker_leaves_none() {
    let mut rig = Rig::start("").await;
    rig.history("job-1", json!([call(&[], "/v1/pid")])).await;
    let path = Path::new("/proc").join(rig.servers().await[0]["pid"].to_string());
    assert!(path.exists());
    rig.worker.kill().await;
    rig.home.configure("server_idle_secs = 1");
    rig.worker = rig.home.start_with(rig.folder.path(), &[]);
    rig.api = rig.worker.connected().await;
    until("the end of the server", || (!path.exists()).then_some(())).await;
    rig.history("job-2", json!([call(&[], "/v1/pid")])).await;
    rig.worker
        .status("no server", |status| status["servers"] == json!([]))
        .await;
}

/// At the swap, not with the next look at the programs; but not under a job of the generation before.
#[tokio::test]
async fn a_swap_ends_servers_once_no_job_of_an_older_generation_uses_them() {
    let rig = Rig::start("").await;
    rig.history("job-1", json!([call(&[], "/v1/pid")])).await;
    let pid = rig.servers().await[0]["pid"].clone();
    let files = worker_tests::FileServer::start().await;
    let gate = files.hold("gate", "open");
    let task = json!({"kind": "scripted", "script": [call(&[], "/v1/pid"), {"fetch": [{"url": gate}]}, call(&[], "/v1/pid")]});
    let mut claim = offers::claim("job-2", "scripted", task, offers::source("scripted"));
    claim["modelSource"]["files"] = json!([{"role": "model", "url": gate, "filename": "gate"}]);
    let id = rig.api.offer(&claim).await;
    until("the job at the gate", || {
        (files.asked("gate") == 1).then_some(())
    })
    .await;
    swap_scripted(&rig).await;
    assert_eq!(rig.servers().await[0]["pid"], pid, "the job still uses it");
    files.release("gate");
    let answer: Value = serde_json::from_slice(&rig.api.result(&id).await).unwrap();
    let history = answer["history"].as_array().unwrap();
    assert_eq!(history[0], history[2], "one server for the whole job");
    // Well before the next look at the programs, which is every 30 s.
    let path = Path::new("/proc").join(pid.to_string());
    let gone = until("its end", || (!path.exists()).then_some(()));
    tokio::time::timeout(std::time::Duration::from_secs(15), gone)
        .await
        .expect("the server ends with the last job of its generation");
    rig.worker.stop().await;
}

/// The same plugin in other bytes.
async fn swap_scripted(rig: &Rig) {
    let path = rig.folder.path().join("scripted.wasm");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend([0, 6, 4, b'm', b'a', b'r', b'k', b'x']);
    let before = rig.api.get("/daemon/status").await["generation"].clone();
    let partial = rig.folder.path().join("scripted.part");
    std::fs::write(&partial, bytes).unwrap();
    std::fs::rename(&partial, &path).unwrap();
    rig.worker
        .status("another generation", |status| {
            status["generation"] != before
        })
        .await;
}

/// A server has its one port, and nothing else that a command has not. Without the sandbox it has all of it.
#[tokio::test]
async fn a_server_reaches_nobody_and_reads_nothing_of_others() {
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let ports = (
        tcp.local_addr().unwrap().port(),
        udp.local_addr().unwrap().port(),
    );
    let without = "program_sandbox = false\nprograms_without_sandbox = true";
    for config in ["", without] {
        let rig = Rig::start(config).await;
        let targets = [
            format!("/v1/connect?port={}", ports.0),
            format!("/v1/udp?port={}", ports.1),
            "/v1/listen".to_owned(),
            "/v1/passwd".to_owned(),
        ];
        let script: Vec<Value> = targets.iter().map(|target| call(&[], target)).collect();
        let history = rig.history("deeds", json!(script)).await;
        for (target, outcome) in targets.iter().zip(&history) {
            let bytes = outcome["Responded"]["body"]["Bytes"].as_array();
            let bytes = bytes.unwrap_or_else(|| panic!("{target}: {outcome}"));
            let bytes = bytes.iter().map(|byte| byte.as_u64().unwrap() as u8);
            let said = String::from_utf8(bytes.collect()).unwrap();
            assert_eq!(
                said != "did",
                config.is_empty(),
                "{config}: {target}: {said}"
            );
        }
    }
}

/// A model that was changed after it was fetched is given to no server, whether by itself or in a folder.
#[tokio::test]
async fn a_changed_model_starts_no_server() {
    let rig = Rig::start("").await;
    let files = FileServer::start().await;
    let model = files.put("model", "GGUF weights");
    let gate = files.hold("gate", "open");
    let with = |value: Value| {
        let mut call = call(&[], "/v1/pid");
        call["call"]["arguments"] = json!([{"Setting": {"name": "--model", "value": [value]}}]);
        call
    };
    let script = json!([
        {"fetch": [{"url": model, "cache_as": "model"}]},
        {"fetch": [{"url": gate}]},
        with(json!({"File": {"from": [0, 0]}})),
        with(json!({"Directory": [{"file": {"from": [0, 0]}, "name": "a.gguf"}]})),
    ]);
    let task = json!({"kind": "scripted", "script": script});
    let claim = offers::claim("job-1", "scripted", task, offers::source("scripted"));
    let id = rig.api.offer(&claim).await;
    until("the job at the gate", || {
        (files.asked("gate") == 1).then_some(())
    })
    .await;
    let listed = rig.home.run(&["models", "list", "--json"]).await.json();
    let path = Path::new(listed["models"][0]["path"].as_str().unwrap());
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(path, "GGUF other weights").unwrap();
    files.release("gate");
    let answer: Value = serde_json::from_slice(&rig.api.result(&id).await).unwrap();
    for outcome in &answer["history"].as_array().unwrap()[2..] {
        let message = outcome["Failed"]["message"].as_str().unwrap_or_default();
        assert!(message.contains("was changed since"), "{answer}");
    }
    assert!(rig.servers().await.is_empty(), "nothing was started");
}

/// A model that a warm server was started with is in use although no job is: neither the operator's word nor the budget
/// takes it away; a download that needs its room ends the server first.
#[tokio::test]
async fn files_of_a_warm_server_are_in_use() {
    let rig = Rig::start("models_budget_gb = 1").await;
    let files = FileServer::start().await;
    let fetch = |name: &str, bytes: u64| {
        let url = files.put(name, "GGUF");
        json!({"fetch": [{"url": url, "cache_as": name, "approx_bytes": bytes}]})
    };
    let mut warm = call(&[], "/v1/pid");
    warm["call"]["arguments"] =
        json!([{"Setting": {"name": "--model", "value": [{"File": {"from": [0, 0]}}]}}]);
    let history = rig.history("job-1", json!([fetch("held", 4), warm])).await;
    assert_eq!(history[1]["Responded"]["status"], 200, "{history:?}");
    let id = {
        let listed = rig.home.run(&["models", "list", "--json"]).await.json();
        listed["models"][0]["id"].as_str().unwrap().to_owned()
    };
    let error = rig.home.run(&["models", "remove", &id]).await.error();
    assert!(error.contains("in use"), "{error}");
    let pid = rig.servers().await[0]["pid"].to_string();
    let history = rig.history("job-2", json!([fetch("large", 1 << 30)])).await;
    assert_eq!(history[0]["Files"][0]["name"], "large", "{history:?}");
    assert!(!Path::new("/proc").join(pid).exists(), "it made room");
    let listed = rig.home.run(&["models", "list", "--json"]).await.json();
    let names = |listed: &Value| listed["models"].as_array().unwrap().len();
    assert_eq!(names(&listed), 1, "{listed}");
}

/// So does one that the disk has no room for, where the operator lets models go.
#[tokio::test]
async fn a_download_that_the_disk_has_no_room_for_ends_the_server_that_holds_some() {
    // A download leaves 64 MiB: there is room for one of the two models.
    let kib = (64 + 8) << 10;
    let rig = Rig::start_as("models_budget_gb = 1", |command, home| {
        with_small_disk(&command, &home.path("models"), kib)
    });
    let Some(rig) = rig.await else {
        return;
    };
    let files = FileServer::start().await;
    let fetch = |name: &str, mib: usize| {
        let url = files.put(name, vec![b'w'; mib << 20]);
        json!({"fetch": [{"url": url, "cache_as": name, "approx_bytes": mib << 20}]})
    };
    let mut warm = call(&[], "/v1/pid");
    warm["call"]["arguments"] =
        json!([{"Setting": {"name": "--model", "value": [{"File": {"from": [0, 0]}}]}}]);
    let history = rig.history("job-1", json!([fetch("held", 5), warm])).await;
    assert_eq!(history[1]["Responded"]["status"], 200, "{history:?}");
    let pid = rig.servers().await[0]["pid"].to_string();
    let history = rig.history("job-2", json!([fetch("large", 6)])).await;
    assert_eq!(history[0]["Files"][0]["name"], "large", "{history:?}");
    assert!(!Path::new("/proc").join(pid).exists(), "it made room");
}
