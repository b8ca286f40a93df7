//! Effects one by one, through an engine that asks for what its task lists.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};
use worker_tests::{Api, FileServer, Home, PluginFolder, Worker, offers};

/// Writes down that it ran, then does what its words say.
const STAND_IN: &str = r#"#!/bin/sh
[ "$1" = --help ] && { echo "usage: stand-in [--out FILE] [--plain]"; exit 0; }
echo "$*" >> "$(dirname "$0")/ran"
case "$1" in
    upper) tr a-z A-Z > "$2" ;;
    mode) echo "mode=$STAND_IN_MODE" ;;
    fail) echo "it broke" >&2; exit 7 ;;
    path) cat "$2" ;;
esac
"#;

struct Rig {
    home: Home,
    api: Api,
    _worker: Worker,
}

impl Rig {
    async fn start() -> Self {
        let home = Home::new();
        let bin = home.path(".local/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::write(bin.join("stand-in"), STAND_IN).unwrap();
        std::fs::set_permissions(bin.join("stand-in"), std::fs::Permissions::from_mode(0o755))
            .unwrap();
        // It writes down its runs beside itself, and its plugin is none of the worker's own.
        home.configure(&format!(
            "program_writable = {bin:?}\nprograms_without_sandbox = true"
        ));
        let grant =
            "[plugins.scripted]\nprograms = [\"stand-in\"]\nenvironment = [\"STAND_IN_MODE\"]";
        let folder = PluginFolder::first_party().add("scripted").grant(grant);
        let worker = home.start_with(folder.path(), &[]);
        let api = worker.connected().await;
        Self {
            home,
            api,
            _worker: worker,
        }
    }

    async fn offer(&self, job: &str, task: Value) -> String {
        let mut task = task;
        task["kind"] = json!("scripted");
        self.api
            .offer(&offers::claim(
                job,
                "scripted",
                task,
                offers::source("scripted"),
            ))
            .await
    }

    /// What came of each effect.
    async fn history(&self, job: &str, script: Value) -> Vec<Value> {
        let id = self.offer(job, json!({ "script": script })).await;
        let answer: Value = serde_json::from_slice(&self.api.result(&id).await).unwrap();
        answer["history"].as_array().unwrap().clone()
    }

    fn ran(&self) -> PathBuf {
        self.home.path(".local/bin/ran")
    }
}

/// The bytes of an outcome, as text.
fn text(outcome: &Value) -> String {
    let bytes = outcome["Bytes"]
        .as_array()
        .unwrap_or_else(|| panic!("{outcome}"));
    let bytes = bytes
        .iter()
        .map(|byte| byte.as_u64().unwrap() as u8)
        .collect();
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn what_may_be_done_is_done() {
    let rig = Rig::start().await;
    let files = FileServer::start().await;
    let url = files.put("a.txt", "fetched");
    let script = json!([
        {"fetch": [{"url": url}]},
        {"write": ["joined.txt", ["<", {"File": {"from": [0, 0]}}, ">", {"Base64": {"from": [0, 0]}}]]},
        {"read": {"file": {"from": [1, 0]}, "offset": 0, "length": 64}},
        {"run": {"backend": "stand-in", "arguments": ["upper", {"Positional": [{"Output": 0}]}],
                 "outputs": [{"File": "txt"}], "input": ["shout ", {"File": {"from": [0, 0]}}]}},
        {"read": {"file": {"from": [3, 0]}, "offset": 0, "length": 64}},
        {"run": {"backend": "stand-in", "arguments": ["mode"], "environment": [["STAND_IN_MODE", "quiet"]],
                 "outputs": [{"Stdout": "txt"}]}},
        {"read": {"file": {"from": [5, 0]}, "offset": 5, "length": 64}},
        {"run": {"backend": "stand-in", "arguments": ["fail"]}},
        {"wait": 1},
    ]);
    let history = rig.history("job-1", script).await;
    assert_eq!(history.len(), 9, "{history:#?}");
    assert_eq!(text(&history[2]), "<fetched>ZmV0Y2hlZA==");
    assert_eq!(history[3]["Exited"]["code"], 0);
    assert_eq!(text(&history[4]), "SHOUT FETCHED");
    assert_eq!(text(&history[6]).trim(), "quiet");
    assert_eq!(history[7]["Exited"]["code"], 7);
    assert!(
        history[7]["Exited"]["stderr_tail"]
            .as_str()
            .unwrap()
            .contains("it broke")
    );
    let shown = Value::Array(history).to_string();
    assert!(
        !shown.contains(rig.home.path("").to_str().unwrap()),
        "a plugin never learns a path: {shown}"
    );
}

/// Each is refused with words that say what was wrong, and nothing is started.
#[tokio::test]
async fn what_may_not_be_done_is_refused() {
    let rig = Rig::start().await;
    let run = |arguments: Value| json!({"run": {"backend": "stand-in", "arguments": arguments}});
    let environment = |name: &str| json!({"run": {"backend": "stand-in", "arguments": ["mode"], "environment": [[name, "x"]]}});
    let rows: Vec<(Value, &str)> = vec![
        (
            json!({"run": {"backend": "other", "arguments": []}}),
            "`other`",
        ),
        (environment("HOME"), "HOME"),
        (environment("LD_PRELOAD"), "LD_PRELOAD"),
        (environment("STAND_IN_MODE=x"), "STAND_IN_MODE"),
        (run(json!([{"Positional": [{"File": 99}]}])), "file 99"),
        (run(json!([{"Positional": [{"Output": 0}]}])), "output 0"),
        (run(json!(["--plain"])), "`-`"),
        (run(json!(["a\u{0}b"])), "NUL"),
        (run(json!([{"Flag": "plain"}])), "`plain`"),
        (
            run(json!([{"Setting": {"name": "--out=/etc/x", "value": ["x"]}}])),
            "--out=/etc/x",
        ),
        (
            run(json!([{"Positional": [{"Directory": [{"name": "../up", "file": 0}]}]}])),
            "../up",
        ),
        (
            json!({"run": {"backend": "stand-in", "outputs": [{"File": "a/b"}]}}),
            "`a/b`",
        ),
        (
            json!({"run": {"backend": "stand-in", "outputs": [{"Stdout": "../x"}]}}),
            "../x",
        ),
        (json!({"write": ["../up", ["x"]]}), "../up"),
        (json!({"write": ["a/b", ["x"]]}), "a/b"),
        (json!({"write": ["x", [{"File": 99}]]}), "99"),
        (
            json!({"read": {"file": 99, "offset": 0, "length": 1}}),
            "99",
        ),
        (
            json!({"fetch": [{"url": "https://h.example/x", "sha256": "short"}]}),
            "SHA-256",
        ),
        (
            json!({"fetch": [{"url": "https://h.example/x", "cache_as": "../x"}]}),
            "../x",
        ),
        (json!({"fetch": [{"url": "file:///etc/passwd"}]}), "https"),
        (json!({"fetch": [{"url": "http://10.0.0.1/x"}]}), "10.0.0.1"),
        // Addresses in other spellings, and names that lead to one another.
        (
            json!({"fetch": [{"url": "https://2852039166/x"}]}),
            "metadata address",
        ),
        (
            json!({"fetch": [{"url": "https://0x0a000001/x"}]}),
            "private address",
        ),
        (
            json!({"fetch": [{"url": "https://[::ffff:10.0.0.1]/x"}]}),
            "not a public one",
        ),
        (
            json!({"fetch": [{"url": "https://[64:ff9b::a9fe:a9fe]/x"}]}),
            "not a public one",
        ),
        (
            json!({"fetch": [{"url": "https://169.254.169.254/latest"}]}),
            "metadata address",
        ),
        (
            json!({"fetch": [{"url": "https://[fe80::1]/x"}]}),
            "link-local",
        ),
        (
            json!({"fetch": [{"url": "https://good.example@10.0.0.1/x"}]}),
            "user name",
        ),
        (
            json!({"fetch": [{"url": "https://good.example:pw@evil.example/x"}]}),
            "user name",
        ),
        // What the plugin puts together stands nowhere in its offer: the prompt could be in it.
        (
            json!({"fetch": [{"url": {"join": ["https://evil.example/", "?prompt"]}}]}),
            "neither in the offer nor",
        ),
        (
            json!({"fetch": [{"url": {"join": ["data:,", "x"]}}]}),
            "neither in the offer nor",
        ),
        (
            json!({"fetch": [{"url": {"join": ["http://127.0.0.1:", "1/x"]}}]}),
            "neither in the offer nor",
        ),
        (environment("PYTHONSTARTUP"), "PYTHONSTARTUP"),
        (environment("HTTPS_PROXY"), "HTTPS_PROXY"),
        (environment("MY_PATH"), "MY_PATH"),
        (
            environment("DYLD_INSERT_LIBRARIES"),
            "DYLD_INSERT_LIBRARIES",
        ),
        (
            run(json!([{"Flag": "--plain=/etc/passwd"}])),
            "--plain=/etc/passwd",
        ),
        (
            run(json!([{"Positional": [{"Text": ""}, {"Text": "-o"}]}])),
            "`-`",
        ),
        (
            run(json!([{"Positional": [{"Directory": [{"name": "\u{1b}[2J", "file": 0}]}]}])),
            "bare file name",
        ),
        (json!({"write": ["\u{1b}]0;x", ["x"]]}), "bare file name"),
        (
            json!({"fetch": [{"url": "https://h.example/x", "cache_as": "\u{1b}[2J"}]}),
            "bare file name",
        ),
        (json!({"wait": 4_000_000_000u32}), "4000000000"),
        (json!({"http": {"target": "https://h.example/"}}), "http"),
        (
            json!({"call": {"backend": "stand-in", "request": {"target": "/"}}}),
            "call",
        ),
        (json!({"other": ["dance", "{}"]}), "dance"),
    ];
    // Far from the limit on steps, and from that on effects at once.
    for (part, rows) in rows.chunks(8).enumerate() {
        let script: Vec<&Value> = rows.iter().map(|(effect, _)| effect).collect();
        let history = rig.history(&format!("job-{part}"), json!(script)).await;
        assert_eq!(history.len(), rows.len());
        for ((effect, named), outcome) in rows.iter().zip(history) {
            let effect: String = effect.to_string().chars().take(200).collect();
            let message = outcome["Failed"]["message"]
                .as_str()
                .unwrap_or_else(|| panic!("{effect}: {outcome}"));
            assert!(message.contains(named), "{effect}: {message}");
        }
    }
    assert!(!rig.ran().exists(), "nothing was started");
}

#[tokio::test]
async fn what_cannot_be_fails_the_job_and_the_next_is_served() {
    let rig = Rig::start().await;
    let command = |arguments: Value| json!({"script": [{"run": {"backend": "stand-in", "arguments": arguments}}]});
    let rows = [
        (json!({"finish": {"text": "x", "ext": "a/b"}}), "slash"),
        (json!({"finish": {"text": "x", "ext": ".."}}), "product"),
        (
            json!({"finish": {"text": "x", "ext": "x".repeat(40)}}),
            "product",
        ),
        (json!({"finish": {"file": 99, "ext": "txt"}}), "a file"),
        (
            json!({"finish": {"failure": "it would not\nat all", "retryable": false}}),
            "it would not at all",
        ),
        (json!({"script": vec![json!({"wait": 0}); 100]}), "64"),
        (
            json!({"script": [vec![json!({"wait": 0}); 100]]}),
            "100 entries",
        ),
        (
            json!({"script": [{"read": {"file": 0, "offset": 0, "length": 4_000_000_000u32}}]}),
            "4000000000",
        ),
        (command(json!(vec!["x"; 2000])), "2000 arguments"),
        (command(json!(["x".repeat(200 * 1024)])), "131072"),
    ];
    for (number, (task, named)) in rows.into_iter().enumerate() {
        let id = rig.offer(&format!("job-{number}"), task).await;
        let (error, retryable) = rig.api.failure(&id).await;
        assert!(error.contains(named) && !retryable, "{error}");
    }
    let id = rig
        .offer("after", json!({"finish": {"text": "fine", "ext": "txt"}}))
        .await;
    assert_eq!(&rig.api.result(&id).await[..], b"fine");
}

#[tokio::test]
async fn effects_at_once_are_all_done() {
    let rig = Rig::start().await;
    let few: Vec<Value> = (0..10)
        .map(|number| json!({"write": [format!("f{number}"), ["x"]]}))
        .collect();
    let history = rig.history("job-2", json!([few])).await;
    assert!(
        history.iter().all(|outcome| outcome.get("Files").is_some()),
        "{history:?}"
    );
}
