//! Words that must not be found, planted wherever they could come in, and looked for wherever they could come out.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use worker_tests::folder::component_path;
use worker_tests::media::holds;
use worker_tests::wait::until;
use worker_tests::{
    Answer, Home, Host, Peer, PluginFolder, Reply, ScriptedStudio, SdCli, Worker, component,
    files_with, offers,
};

/// Found nowhere but where the operator wrote them, and on the wire to those that they are for.
const SECRETS: [&str; 8] = [
    "planted-query",
    "planted-user",
    "planted-pass",
    "planted-secret",
    "planted-login",
    "planted-auth",
    "planted-env",
    "planted-answer",
];

/// Found in a result on its way to the studio, and in journals where the operator keeps them there.
const PROMPTS: [&str; 3] = ["planted-prompt", "planted-negative", "planted-word"];

/// A worker, its studio, and everything that was sent to the studio.
struct Rig {
    home: Home,
    sd: SdCli,
    host: Host,
    studio: ScriptedStudio,
    peer: Peer,
    frames: Vec<Value>,
    worker: Worker,
    _folder: PluginFolder,
}

impl Rig {
    async fn start(prompts_in_journal: bool) -> Self {
        let studio = ScriptedStudio::start().await;
        let host = Host::start(|target| match target {
            "/api" => Answer::new("200 OK", &["Set-Cookie: planted-answer"], "fine"),
            _ => Answer::ok("GGUF weights"),
        })
        .await;
        let home = Home::bare(&format!(
            "api_base_url = \"{}\"\ninstall_id = \"install\"\nworker_id = \"w-1\"\nauth_token = \"planted-auth\"\n\
             prompts_in_journal = {prompts_in_journal}\n",
            studio.base()
        ));
        let network = format!(
            "[[login]]\nhost = {0:?}\npath-prefix = \"/\"\nvalue = \"planted-login\"\n\
             [[secret]]\nplugin = \"scripted\"\nname = \"key\"\nenv = \"A_SECRET_OF_THE_OPERATOR\"\n",
            host.name()
        );
        fs::write(home.path("network.toml"), network).unwrap();
        let private = fs::Permissions::from_mode(0o600);
        fs::set_permissions(home.path("network.toml"), private.clone()).unwrap();
        fs::set_permissions(home.config(), private).unwrap();
        let secret = json!({"name": "key", "host": host.name(), "path-prefix": "/api"});
        let asks = json!({
            "programs": ["stand-in"], "environment": ["STAND_IN_MODE"], "hosts": [host.name()], "secrets": [secret],
        });
        let scripted = component::asking(&fs::read(component_path("scripted")).unwrap(), &asks);
        let grant = format!(
            "[plugins.scripted]\nprograms = [\"stand-in\"]\nenvironment = [\"STAND_IN_MODE\"]\nhosts = [{0:?}]\n\
             secrets = [{{ name = \"key\", host = {0:?}, path-prefix = \"/api\" }}]",
            host.name()
        );
        let folder = PluginFolder::first_party()
            .file("scripted.wasm", scripted)
            .grant(&grant);
        let sd = SdCli::install();
        let path = sd.path();
        let mut command = home.command(&["run", "--plugins"]);
        command
            .arg(folder.path())
            .envs(sd.env(&path))
            .env("RUST_LOG", "trace")
            .env("AWS_SECRET_ACCESS_KEY", "planted-env")
            .env("A_SECRET_OF_THE_OPERATOR", "planted-secret");
        let worker = Worker::start(command, &home.path("local-api.json"));
        let peer = studio.welcomed_with(&["jobCancel", "progress"]).await;
        Self {
            home,
            sd,
            host,
            studio,
            peer,
            frames: Vec::new(),
            worker,
            _folder: folder,
        }
    }

    /// Waits for a frame, and keeps it and all before it.
    async fn expect(&mut self, kind: &str) -> Value {
        loop {
            let frame = self.peer.frame().await;
            self.frames.push(frame.clone());
            if frame["type"] == "heartbeat" {
                self.peer.send(json!({"type": "heartbeatAck"})).await;
            }
            if frame["type"] == kind {
                return frame;
            }
        }
    }

    async fn taken(&mut self, claim: &Value) {
        self.peer.offer(claim).await;
        self.expect("accept").await;
    }

    async fn failed(&mut self) -> String {
        let frame = self.expect("fail").await;
        let ack = json!({"type": "failAck", "jobId": frame["jobId"]});
        self.peer.send(ack).await;
        frame["error"].as_str().unwrap().to_owned()
    }

    fn picture(&self, job: &str, url: &str) -> Value {
        let model = offers::model_file("diffusion-model", url, "m.gguf");
        let words =
            json!({"prompt": "planted-prompt of a fox", "negativePrompt": "planted-negative"});
        offers::sd_image(job, vec![model], &words)
    }
}

/// Every process of the machine, as each of its users sees it: its command line.
fn command_lines() -> Vec<(PathBuf, Vec<u8>)> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .map(|entry| entry.path())
        .filter_map(|path| Some((path.clone(), fs::read(path.join("cmdline")).ok()?)))
        .collect()
}

fn holds_none(bytes: &[u8], words: &[&str], place: &str) {
    for word in words {
        assert!(
            !holds(bytes, word),
            "{word} in {place}: {}",
            String::from_utf8_lossy(bytes)
        );
    }
}

#[tokio::test]
async fn neither_prompts_nor_secrets_are_found_where_they_do_not_belong() {
    for prompts_in_journal in [true, false] {
        planted(prompts_in_journal).await;
    }
}

async fn planted(prompts_in_journal: bool) {
    let mut rig = Rig::start(prompts_in_journal).await;
    let model = rig.host.url("/m.gguf?token=planted-query");

    // Success.
    let claim = rig.picture("drawn", &model);
    rig.taken(&claim).await;
    rig.studio.called("complete", 1).await;
    // A plugin's own request, with its secret.
    let mut asks = offers::claim(
        "asks",
        "scripted",
        json!({"kind": "scripted", "prompt": "planted-word", "script": [
            {"http": {"target": rig.host.url("/api"), "headers": [["Authorization", {"Secret": "key"}]], "body": ["planted-word"]}},
            {"write": ["planted-word", ["planted-word"]]},
            {"run": {"backend": "stand-in", "arguments": ["planted-word"]}},
        ], "finish": {"json": {"said": "fine"}}}),
        offers::source("scripted"),
    );
    rig.taken(&asks).await;
    rig.expect("completeJson").await;
    rig.peer
        .send(json!({"type": "completeAck", "jobId": "asks"}))
        .await;

    // Cancelled in the middle, which is when others look at the list of processes.
    rig.sd.mode("hang");
    let claim = rig.picture("cancelled", &model);
    rig.taken(&claim).await;
    let program = until("the program at work", || {
        let runs = rig.sd.runs();
        runs.get(1).and_then(|run| run["pid"].as_u64())
    })
    .await;
    let everything = [&SECRETS[..], &PROMPTS[..]].concat();
    for (process, line) in command_lines() {
        holds_none(
            &line,
            &everything,
            &format!("{} cmdline", process.display()),
        );
    }
    let environment = fs::read(format!("/proc/{program}/environ")).unwrap();
    assert!(!environment.is_empty());
    holds_none(&environment, &everything, "the program's environment");
    rig.peer
        .send(json!({"type": "jobCancel", "jobId": "cancelled"}))
        .await;
    rig.failed().await;

    // Failures: the program's, a URL with a login in it, an address that nobody answers at, one that cannot be read.
    rig.sd.mode("oom-gpu");
    let claim = rig.picture("fails", &model);
    rig.taken(&claim).await;
    rig.failed().await;
    let name = rig.host.name();
    for (job, url) in [
        (
            "user",
            format!("http://planted-user:planted-pass@{name}/m.gguf"),
        ),
        (
            "address",
            "https://10.0.0.1/m.gguf?token=planted-query".to_owned(),
        ),
        (
            "no-url",
            "HTTPS://host:port/m.gguf?token=planted-query".to_owned(),
        ),
    ] {
        let claim = rig.picture(job, &url);
        rig.taken(&claim).await;
        let error = rig.failed().await;
        holds_none(error.as_bytes(), &everything, "an error");
    }
    // Of a model's address a minute would be waited for.
    let mut claim = rig.picture("nobody", &model);
    claim["task"]["initImageUrl"] = json!("http://127.0.0.1:1/p.png?token=planted-query");
    rig.taken(&claim).await;
    let error = rig.failed().await;
    assert!(error.contains("cannot be reached"), "{error}");
    holds_none(error.as_bytes(), &everything, "an error");
    asks["jobId"] = json!("refused");
    asks["task"]["script"] = json!([
        {"http": {"target": format!("http://planted-user:planted-pass@{name}/api?planted-query")}},
        {"http": {"target": rig.host.url("/other?planted-query"), "headers": [["Authorization", {"Secret": "key"}]]}},
    ]);
    rig.taken(&asks).await;
    rig.expect("completeJson").await;
    rig.peer
        .send(json!({"type": "completeAck", "jobId": "refused"}))
        .await;

    // A result that the studio does not want stays here, with its prompt, for `results`.
    rig.sd.mode("ok");
    rig.studio
        .on("complete", Reply::Status(400, "no".to_owned()));
    let claim = rig.picture("aside", &model);
    rig.taken(&claim).await;
    rig.failed().await;
    for words in [
        &["results"][..],
        &["status"],
        &["status", "--json"],
        &["config"],
    ] {
        let ended = rig.home.run(words).await;
        let said = format!("{}{}", ended.stdout, ended.stderr);
        holds_none(said.as_bytes(), &SECRETS, &words.join(" "));
    }

    rig.worker.terminate();
    let (rest, _) = rig.peer.end().await;
    rig.frames.extend(rest);
    rig.worker.ended().await;
    let log = rig.worker.lines();
    assert!(
        log.iter().any(|line| line.contains(" TRACE ")),
        "everything is logged"
    );
    for line in &log {
        holds_none(line.as_bytes(), &everything, "the log");
    }
    for frame in &rig.frames {
        let with_prompt = frame["type"] == "completeJson";
        let words = if with_prompt {
            &SECRETS[..]
        } else {
            &everything
        };
        holds_none(frame.to_string().as_bytes(), words, "a frame");
    }
    let state = rig.home.path("state");
    for word in SECRETS {
        for folder in [&state, &rig.home.path("models")] {
            assert_eq!(files_with(folder, word), [] as [PathBuf; 0], "{word}");
        }
    }
    look_for_prompts(&state, prompts_in_journal);
    for path in worker_tests::search::files(&state) {
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} is for its owner alone", path.display());
    }
}

/// Prompts are in what was kept aside and, where the operator wants it so, in journals.
fn look_for_prompts(state: &Path, prompts_in_journal: bool) {
    let mut journals = 0;
    for word in PROMPTS {
        for path in files_with(state, word) {
            let in_journal = path.starts_with(state.join("journal"));
            journals += usize::from(in_journal);
            assert!(
                in_journal && prompts_in_journal || path.starts_with(state.join("aside")),
                "{word} in {}",
                path.display()
            );
        }
    }
    assert_eq!(journals > 0, prompts_in_journal, "the search finds them");
    assert!(!files_with(&state.join("aside"), "planted-prompt").is_empty());
}
