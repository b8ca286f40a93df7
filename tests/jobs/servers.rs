//! Warm servers through the whole worker.

use std::path::Path;

use serde_json::{Value, json};
use worker_tests::wait::until;
use worker_tests::{Api, Home, PluginFolder, Worker, built, offers};

struct Rig {
    home: Home,
    folder: PluginFolder,
    worker: Worker,
    api: Api,
}

impl Rig {
    async fn start(config: &str) -> Self {
        let home = Home::new();
        home.configure(config);
        let bin = home.path(".local/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::copy(built::stand_in_server(), bin.join("stand-in")).unwrap();
        let folder = PluginFolder::first_party().add("scripted").grant(
            "[plugins.scripted]\nprograms = [\"stand-in\"]\nenvironment = [\"STAND_IN_MODE\"]",
        );
        let worker = home.start_with(folder.path(), &[]);
        let api = worker.connected().await;
        Self {
            home,
            folder,
            worker,
            api,
        }
    }

    async fn history(&self, job: &str, script: Value) -> Vec<Value> {
        let task = json!({ "kind": "scripted", "script": script });
        let claim = offers::claim(job, "scripted", task, offers::source("scripted"));
        let id = self.api.offer(&claim).await;
        let answer: Value = serde_json::from_slice(&self.api.result(&id).await).unwrap();
        answer["history"].as_array().unwrap().clone()
    }

    async fn servers(&self) -> Vec<Value> {
        let status = self.api.get("/daemon/status").await;
        status["servers"].as_array().unwrap().clone()
    }
}

fn call(options: &[&str], target: &str) -> Value {
    let arguments: Vec<Value> = options
        .iter()
        .map(|word| match word.strip_prefix("--") {
            Some(_) => json!({ "Flag": word }),
            None => json!(word),
        })
        .collect();
    json!({"call": {"backend": "stand-in", "arguments": arguments, "request": {"target": target}}})
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
