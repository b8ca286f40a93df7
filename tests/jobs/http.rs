//! Requests of plugins, and the operator's logins, over real sockets: where they go, what they carry, and what is refused
//! before anybody is asked.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::sync::Semaphore;
use worker_tests::folder::component_path;
use worker_tests::wait::until;
use worker_tests::{Answer, Api, Home, Host, PluginFolder, Worker, component, offers};

/// A worker whose scripted engine asks for hosts and secrets, and an operator who grants them.
struct Rig {
    home: Home,
    api: Api,
    worker: Worker,
    _folder: PluginFolder,
}

impl Rig {
    /// `secrets` as a plugin asks for them; `network` is the operator's `network.toml`.
    async fn start(hosts: &[String], secrets: &[(&str, String, &str)], network: &str) -> Self {
        let asked: Vec<Value> = secrets
            .iter()
            .map(|(name, host, prefix)| json!({"name": name, "host": host, "path-prefix": prefix}))
            .collect();
        let asks = json!({
            "programs": ["stand-in"], "environment": ["STAND_IN_MODE"], "hosts": hosts, "secrets": asked,
        });
        let plugin = fs::read(component_path("scripted")).unwrap();
        let granted: Vec<String> = secrets
            .iter()
            .map(|(name, host, prefix)| {
                format!("{{ name = {name:?}, host = {host:?}, path-prefix = {prefix:?} }}")
            })
            .collect();
        let grant = format!(
            "[plugins.scripted]\nprograms = [\"stand-in\"]\nenvironment = [\"STAND_IN_MODE\"]\nhosts = {hosts:?}\nsecrets = [{}]",
            granted.join(", ")
        );
        let folder = PluginFolder::first_party()
            .file("scripted.wasm", component::asking(&plugin, &asks))
            .grant(&grant);
        let home = Home::new();
        let path = home.path("network.toml");
        fs::write(&path, network).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let mut command = home.command(&["run", "--plugins"]);
        command.arg(folder.path()).env("RUST_LOG", "trace");
        let worker = Worker::start(command, &home.path("local-api.json"));
        let api = worker.connected().await;
        Self {
            home,
            api,
            worker,
            _folder: folder,
        }
    }

    async fn offer(&self, job: &str, script: Value) -> String {
        let task = json!({"kind": "scripted", "script": script});
        let claim = offers::claim(job, "scripted", task, offers::source("scripted"));
        self.api.offer(&claim).await
    }

    /// What came of each effect.
    async fn history(&self, job: &str, script: Value) -> Vec<Value> {
        let id = self.offer(job, script).await;
        let answer: Value = serde_json::from_slice(&self.api.result(&id).await).unwrap();
        answer["history"].as_array().unwrap().clone()
    }

    /// Each of these requests must be refused with words that hold the one beside it.
    async fn refuses(&self, job: &str, rows: &[(Value, &str)]) {
        for (part, rows) in rows.chunks(8).enumerate() {
            let script: Vec<Value> = rows
                .iter()
                .map(|(request, _)| json!({"http": request}))
                .collect();
            let history = self.history(&format!("{job}-{part}"), json!(script)).await;
            for ((request, word), outcome) in rows.iter().zip(&history) {
                let (why, _) = failed(outcome);
                assert!(why.contains(word), "{request}: {why}");
            }
        }
    }

    /// Where a word stands in the log, or in the worker's state. The studio inside has its own, and holds offers as they came.
    fn places_of(&self, word: &str) -> Vec<String> {
        let mut places = self.worker.lines();
        places.retain(|line| line.contains(word));
        let studio = self.home.path("state/studio");
        let files = worker_tests::files_with(&self.home.path("state"), word);
        let files = files.iter().filter(|path| !path.starts_with(&studio));
        places.extend(files.map(|path| path.display().to_string()));
        places
    }
}

fn failed(outcome: &Value) -> (&str, bool) {
    let failed = &outcome["Failed"];
    let why = failed["message"].as_str();
    (
        why.unwrap_or_else(|| panic!("no refusal: {outcome}")),
        failed["retryable"].as_bool().unwrap(),
    )
}

/// The milliseconds that an exchange without an answer had, why it has none, and whether it may be tried again.
fn late(outcome: &Value) -> (u64, &str, bool) {
    let Some([time, failure]) = outcome["TimedOut"].as_array().map(Vec::as_slice) else {
        panic!("not late: {outcome}");
    };
    (
        time.as_u64().unwrap(),
        failure["message"].as_str().unwrap(),
        failure["retryable"].as_bool().unwrap(),
    )
}

fn body(outcome: &Value) -> String {
    let bytes = outcome["Responded"]["body"]["Bytes"].as_array();
    let bytes = bytes.unwrap_or_else(|| panic!("no answer: {outcome}"));
    let bytes = bytes.iter().map(|byte| byte.as_u64().unwrap() as u8);
    String::from_utf8(bytes.collect()).unwrap()
}

/// The value of a header of a request as it came.
fn header(request: &str, name: &str) -> Option<String> {
    let head = request.split("\r\n\r\n").next().unwrap();
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found
            .eq_ignore_ascii_case(name)
            .then(|| value.trim().to_owned())
    })
}

#[tokio::test]
async fn a_granted_host_gets_the_request_and_the_plugin_the_answer() {
    let elsewhere = Host::start(|_| Answer::ok("elsewhere")).await;
    let (moved, long) = (elsewhere.url("/moved"), "x".repeat(3000));
    let host = Host::start(move |target| match target {
        "/moved" => Answer::redirect(&moved),
        "/long" => Answer::ok(&long),
        "/gone" => Answer::new("404 Not Found", &["Set-Cookie: a=b", "X-Word: yes"], "no"),
        _ => Answer::ok("fine"),
    })
    .await;
    let rig = Rig::start(&[host.name()], &[], "").await;
    let script = json!([
        {"write": ["a.txt", ["of a file"]]},
        {"http": {"target": host.url("/v1?q=1"), "method": "POST", "headers": [["X-Mine", "yes"]],
                  "body": ["<", {"File": {"from": [0, 0]}}, "|", {"Base64": {"from": [0, 0]}}, ">"]}},
        {"http": {"target": host.url("/gone")}},
        {"http": {"target": host.url("/long"), "inline_bytes": 100}},
        {"http": {"target": host.url("/moved")}},
    ]);
    let history = rig.history("asks", script).await;
    assert_eq!(body(&history[1]), "fine");
    let request = &host.asked("/v1?q=1")[0];
    assert!(
        request.starts_with("POST ") && request.ends_with("<of a file|b2YgYSBmaWxl>"),
        "{request}"
    );
    assert_eq!(header(request, "x-mine").as_deref(), Some("yes"));
    assert_eq!(header(request, "host"), Some(host.name()));
    assert_eq!(history[2]["Responded"]["status"], 404, "an answer like any");
    let headers = history[2]["Responded"]["headers"].to_string();
    assert!(
        headers.contains("x-word") && !headers.contains("cookie"),
        "{headers}"
    );
    let file = &history[3]["Responded"]["body"]["File"];
    assert_eq!(file["size"], 3000, "too long to bring in: {}", history[3]);
    assert_eq!(history[4]["Responded"]["status"], 302, "{}", history[4]);
    assert!(
        elsewhere.requests().is_empty(),
        "a redirect is the plugin's to look at"
    );
}

#[tokio::test]
async fn only_a_granted_host_is_asked() {
    let host = Host::start(|_| Answer::ok("fine")).await;
    let other = Host::start(|_| Answer::ok("other")).await;
    let port = host.name().split_once(':').unwrap().1.to_owned();
    // Granted by an operator's mistake, and private all the same.
    let private = ["10.0.0.1", "169.254.169.254", "metadata.localhost"].map(str::to_owned);
    let granted = [&[host.name()], &private[..]].concat();
    let rig = Rig::start(&granted, &[], "").await;
    let to = |target: String| json!({"target": target});
    let not_granted = "not granted";
    rig.refuses(
        "hosts",
        &[
            (to(other.url("/")), not_granted),
            (to("http://127.0.0.1/".to_owned()), not_granted),
            (to(format!("http://localhost:{port}/")), not_granted),
            (to(format!("http://[::1]:{port}/")), not_granted),
            (
                to(format!("http://[::ffff:127.0.0.1]:{port}/")),
                not_granted,
            ),
            (
                to(format!("http://{}@{}/", host.name(), other.name())),
                not_granted,
            ),
            (
                to(format!("http://user:pass@{}/", host.name())),
                not_granted,
            ),
            (
                to(format!("http://{}.evil.example/", host.name())),
                not_granted,
            ),
            (
                to(format!("https://evil.example/?{}", host.name())),
                not_granted,
            ),
            (to(host.url("/a%2f..%2fx")), not_granted),
            (
                to("https://metadata.google.internal/".to_owned()),
                not_granted,
            ),
            (to("ftp://10.0.0.1/".to_owned()), not_granted),
            (to(String::new()), not_granted),
            (to("https://10.0.0.1/x".to_owned()), "private address"),
            (
                to("https://169.254.169.254/latest".to_owned()),
                "metadata address",
            ),
            // In decimal, it is the same address.
            (
                to("https://2852039166/latest".to_owned()),
                "metadata address",
            ),
        ],
    )
    .await;
    assert!(host.requests().is_empty() && other.requests().is_empty());
    let history = rig
        .history("granted", json!([{"http": to(host.url("/"))}]))
        .await;
    assert_eq!(body(&history[0]), "fine");
}

#[tokio::test]
async fn headers_and_methods_cannot_smuggle() {
    let host = Host::start(|_| Answer::ok("fine")).await;
    let rig = Rig::start(&[host.name()], &[], "").await;
    let with =
        |name: &str, value: &str| json!({"target": host.url("/"), "headers": [[name, value]]});
    let method = |method: &str| json!({"target": host.url("/"), "method": method});
    let ours = "is the worker's to set";
    let long: Vec<Value> = (0..3)
        .map(|n| json!([format!("x-{n}"), "v".repeat(8000)]))
        .collect();
    let many: Vec<Value> = (0..65).map(|n| json!([format!("x-{n}"), "v"])).collect();
    rig.refuses(
        "headers",
        &[
            (with("x", "a\r\nhost: evil"), "control character"),
            (with("x", "a\nb"), "control character"),
            (with("x\r\ny", "z"), "not the name of a header"),
            (with("x y", "z"), "not the name of a header"),
            (with("Host", "evil"), ours),
            (with("Content-Length", "0"), ours),
            (with("Transfer-Encoding", "chunked"), ours),
            (with("Connection", "upgrade"), ours),
            (with("Proxy-Authorization", "x"), ours),
            (with("Cookie", "a=b"), "secret that the operator granted"),
            (method("CONNECT"), "is not allowed"),
            (method("GET / HTTP/1.1\r\nx: y"), "is not allowed"),
            (
                json!({"target": host.url("/"), "headers": long}),
                "one too many",
            ),
            (
                json!({"target": host.url("/"), "body": [{"File": 9}]}),
                "no file 9",
            ),
            (
                json!({"target": host.url("/"), "inline_bytes": 1_u32 << 30}),
                "at most",
            ),
        ],
    )
    .await;
    let script = json!([{"http": {"target": host.url("/"), "headers": many}}]);
    let id = rig.offer("many", script).await;
    let (why, _) = rig.api.failure(&id).await;
    assert!(why.contains("list of headers has 65 entries"), "{why}");
    assert!(host.requests().is_empty(), "{:?}", host.requests());
}

#[tokio::test]
async fn a_secret_goes_where_it_was_granted_and_nowhere_else() {
    let elsewhere = Host::start(|_| Answer::ok("elsewhere")).await;
    let there = elsewhere.url("/api/there");
    let host = Host::start(move |target| match target {
        "/api/moved" => Answer::redirect(&there),
        _ => Answer::ok("fine"),
    })
    .await;
    let network = "[[secret]]\nplugin = \"scripted\"\nname = \"key\"\nvalue = \"Bearer planted-key\"\n\
                   [[secret]]\nplugin = \"another\"\nname = \"theirs\"\nvalue = \"planted-theirs\"\n\
                   [[secret]]\nplugin = \"scripted\"\nname = \"spare\"\nvalue = \"planted-spare\"\n";
    let secrets = [
        ("key", host.name(), "/api"),
        ("theirs", host.name(), "/api"),
        ("missing", host.name(), "/api"),
    ];
    let rig = Rig::start(&[host.name(), elsewhere.name()], &secrets, network).await;
    let with = |target: String, name: &str| json!({"target": target, "headers": [["Authorization", {"Secret": name}]]});
    rig.refuses(
        "secrets",
        &[
            (
                with(host.url("/other"), "key"),
                "not granted to it for that host and path",
            ),
            (with(host.url("/apis"), "key"), "not granted to it"),
            (with(host.url("/api/../other"), "key"), "not granted to it"),
            (with(elsewhere.url("/api"), "key"), "not granted to it"),
            // It has a value for this plugin, and no grant.
            (with(host.url("/api"), "spare"), "not granted to it"),
            // A grant, and a value that is another plugin's.
            (with(host.url("/api"), "theirs"), "has no value"),
            (with(host.url("/api"), "missing"), "has no value"),
            (with(host.url("/api"), "no\nname"), "not granted to it"),
        ],
    )
    .await;
    assert!(host.requests().is_empty() && elsewhere.requests().is_empty());
    let script = json!([
        {"http": with(host.url("/api/x"), "key")},
        {"http": with(host.url("/api/moved"), "key")},
    ]);
    let history = rig.history("granted", script).await;
    assert_eq!(body(&history[0]), "fine");
    let sent = &host.asked("/api/x")[0];
    assert_eq!(
        header(sent, "authorization").as_deref(),
        Some("Bearer planted-key")
    );
    assert_eq!(history[1]["Responded"]["status"], 302);
    assert!(elsewhere.requests().is_empty());
    let told = json!(history).to_string();
    assert!(
        !told.contains("planted"),
        "the plugin never sees it: {told}"
    );
    let none: Vec<String> = Vec::new();
    assert_eq!(rig.places_of("planted"), none, "nor does anybody else");
}

#[tokio::test]
async fn an_answer_without_end_or_none_at_all_is_given_up() {
    let host = Host::start(|target| match target {
        "/endless" => Answer::Endless(
            [
                worker_tests::host::head("200 OK", &[], None).into_bytes(),
                vec![b'x'; 4096],
            ]
            .concat(),
        ),
        "/mute" => Answer::Silence,
        "/huge" => Answer::Whole(
            worker_tests::host::head("200 OK", &[], Some(usize::MAX >> 1)).into_bytes(),
        ),
        _ => Answer::Whole(b"nonsense\r\n\r\n".to_vec()),
    })
    .await;
    let rig = Rig::start(&[host.name()], &[], "").await;
    let script = json!([
        {"http": {"target": host.url("/endless"), "max_bytes": 100_000, "inline_bytes": 10}},
        {"http": {"target": host.url("/huge"), "max_bytes": 100_000}},
        {"http": {"target": host.url("/mute"), "timeout_ms": 200}},
        {"http": {"target": host.url("/nonsense")}},
        {"wait": 0},
    ]);
    let history = rig.history("limits", script).await;
    for (number, word, may_pass) in [
        (0, "longer than the 100000 bytes", false),
        (1, "longer than the 100000 bytes", false),
        (3, "cannot be reached", true),
    ] {
        let (why, retryable) = failed(&history[number]);
        assert!(why.contains(word), "{why}");
        assert_eq!(retryable, may_pass, "{why}");
    }
    let (time, why, retryable) = late(&history[2]);
    assert!(why.contains("did not answer in"), "{why}");
    assert_eq!((time, retryable), (200, true));
    // What came of the endless one is gone with the job.
    worker_tests::wait::until("an empty scratch folder", || {
        rig.home.scratch_folders().is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_repeated_request_ends_with_its_answer_or_its_time() {
    let polls = AtomicUsize::new(0);
    let host = Host::start(move |target| match target {
        "/slow" => Answer::ok(r#"{"job":{"state":"queued"}}"#),
        "/broken" => Answer::new("500 Oops", &[], r#"{"job":{"state":"queued"}}"#),
        "/other" => Answer::ok(r#"{"job":"queued"}"#),
        _ => match polls.fetch_add(1, Ordering::SeqCst) {
            0 => Answer::ok(r#"{"job":{"state":"queued"}}"#),
            1 => Answer::ok(r#"{"job":{"state":"running"}}"#),
            _ => Answer::ok(r#"{"job":{"state":"done"}}"#),
        },
    })
    .await;
    let rig = Rig::start(&[host.name()], &[], "").await;
    let poll = |target: &str, pending: Value| {
        let time = if target == "/slow" { 1000 } else { 60_000 };
        json!({"target": host.url(target), "timeout_ms": time,
               "repeat": {"pointer": "/job/state", "pending": pending, "every_ms": 1}})
    };
    let words = json!(["queued", "running"]);
    let script = json!([
        {"http": poll("/poll", words.clone())},
        {"http": poll("/broken", words.clone())},
        {"http": poll("/other", words.clone())},
        {"http": poll("/slow", words)},
        {"http": poll("/slow", json!(vec!["x"; 33]))},
    ]);
    let history = rig.history("repeats", script).await;
    assert_eq!(body(&history[0]), r#"{"job":{"state":"done"}}"#);
    assert_eq!(host.asked("/poll").len(), 3);
    assert_eq!(history[1]["Responded"]["status"], 500);
    assert_eq!(host.asked("/broken").len(), 1, "a failure is an answer");
    assert_eq!(host.asked("/other").len(), 1, "no word where it should be");
    let (time, why, retryable) = late(&history[3]);
    assert_eq!(time, 1000, "of the request as a whole");
    // Its time ends between two requests or within one.
    let ended = why.contains("still pending") || why.contains("did not answer");
    assert!(ended && retryable, "{why}");
    let asked = host.asked("/slow").len();
    // Not faster than every 50 ms, whatever the plugin wants.
    assert!((1..=21).contains(&asked), "{asked}");
    let (why, _) = failed(&history[4]);
    assert!(why.contains("at most 32"), "{why}");
}

/// Interim answers that are too long for memory leave nothing behind: neither their files nor a folder for each.
#[tokio::test]
async fn repeated_long_answers_take_one_place() {
    let polls = AtomicUsize::new(0);
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    let host = Host::start(move |target| match target {
        "/hold" => Answer::parts(b"go on", 1, &held),
        _ if polls.fetch_add(1, Ordering::SeqCst) < 5 => Answer::ok(r#"{"state":"queued"}"#),
        _ => Answer::ok(r#"{"state":"done"}"#),
    })
    .await;
    let rig = Rig::start(&[host.name()], &[], "").await;
    let script = json!([
        {"http": {"target": host.url("/poll"), "inline_bytes": 1,
                  "repeat": {"pointer": "/state", "pending": ["queued"], "every_ms": 1}}},
        {"http": {"target": host.url("/hold")}},
    ]);
    let id = rig.offer("long", script).await;
    until("the request after the repeated one", || {
        (host.asked("/hold").len() == 1).then_some(())
    })
    .await;
    assert_eq!(host.asked("/poll").len(), 6);
    let [job] = rig.home.scratch_folders().try_into().unwrap();
    let mut places = Vec::new();
    for place in fs::read_dir(job).unwrap().flatten() {
        if place.file_name().to_string_lossy().starts_with("input-") {
            places.push(fs::read_dir(place.path()).unwrap().count());
        }
    }
    assert_eq!(places, [1], "one place with the last answer");
    gate.add_permits(1);
    let answer: Value = serde_json::from_slice(&rig.api.result(&id).await).unwrap();
    let last = &answer["history"][0]["Responded"];
    assert_eq!(last["status"], 200, "{answer}");
    assert!(last["body"]["File"].is_object(), "{answer}");
}

/// The operator's login for a model host: with every request below its path, and with no other.
#[tokio::test]
async fn a_login_is_bound_to_its_host_and_path_and_follows_no_redirect() {
    // Two hosts that send to each other: their addresses are known only once both listen.
    let addresses = std::sync::Arc::new(std::sync::Mutex::new((String::new(), String::new())));
    let (of_home, of_away) = (addresses.clone(), addresses.clone());
    let home = Host::start(move |target| {
        let away = of_home.lock().unwrap().1.clone();
        match target.split('?').next().unwrap() {
            "/acme/away" => Answer::redirect(&format!("http://{away}/acme/there")),
            "/acme/round" => Answer::redirect(&format!("http://{away}/back")),
            "/acme/within" => Answer::redirect("/acme/m"),
            "/acme/out" => Answer::redirect("/elsewhere/m"),
            _ => Answer::new("200 OK", &["ETag: \"1\""], "GGUF"),
        }
    })
    .await;
    let away = Host::start(move |target| match target {
        "/back" => Answer::redirect(&format!("http://{}/acme/home", of_away.lock().unwrap().0)),
        _ => Answer::ok("GGUF"),
    })
    .await;
    *addresses.lock().unwrap() = (home.name(), away.name());
    let network = format!(
        "[[login]]\nhost = {:?}\npath-prefix = \"/acme\"\nvalue = \"planted-login\"\n",
        home.name()
    );
    let rig = Rig::start(&[], &[], &network).await;
    let fetch =
        |target: String, name: Option<&str>| json!({"fetch": [{"url": target, "cache_as": name}]});
    for (job, cached) in [("model", Some("m.gguf")), ("input", None)] {
        let targets = ["m", "away", "round", "within", "out"];
        let mut script: Vec<Value> = targets
            .iter()
            .map(|target| {
                fetch(
                    home.url(&format!("/acme/{target}?{job}=planted-query")),
                    cached,
                )
            })
            .collect();
        script.push(fetch(home.url(&format!("/acmes/m?{job}")), cached));
        script.push(fetch(home.url(&format!("/acme/%2e%2e/m?{job}")), cached));
        let history = rig.history(job, json!(script)).await;
        for outcome in &history {
            assert!(outcome.get("Files").is_some(), "{outcome}");
        }
    }
    let mut told = Vec::new();
    for request in home.requests() {
        let target = request.split(' ').nth(1).unwrap().to_owned();
        let path = target.split('?').next().unwrap().to_owned();
        let carries = header(&request, "authorization");
        let wanted = match path.as_str() {
            "/acme/home" | "/elsewhere/m" | "/acmes/m" | "/m" => None,
            _ => Some("Bearer planted-login".to_owned()),
        };
        assert_eq!(carries, wanted, "{path}");
        told.push(path);
    }
    for path in [
        "/acme/m",
        "/acme/away",
        "/acme/home",
        "/elsewhere/m",
        "/acmes/m",
        "/m",
    ] {
        assert!(told.iter().any(|one| one == path), "{path}: {told:?}");
    }
    let there = away.requests();
    assert!(there.len() >= 4, "{there:?}");
    for request in there {
        assert_eq!(header(&request, "authorization"), None, "{request}");
        assert!(!request.contains("planted"), "{request}");
    }
    let none: Vec<String> = Vec::new();
    assert_eq!(rig.places_of("planted"), none);
}
