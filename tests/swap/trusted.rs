//! Keys and signatures as an operator handles them: `plugin keygen | sign | verify | grant`, signature files in the folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use worker_tests::component::asking;
use worker_tests::{Home, PluginFolder, needs};

use crate::support::{Rig, at_version, component, digest, journals, rename_in};

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// A key pair of `plugin keygen`; the secret key's file, and the public key's line.
async fn keygen(home: &Home, name: &str) -> (String, String) {
    let (secret, public) = (
        home.path(&format!("{name}.key")),
        home.path(&format!("{name}.pub")),
    );
    let told = home
        .run(&[
            "plugin",
            "keygen",
            "-W",
            "-s",
            &text(&secret),
            "-p",
            &text(&public),
        ])
        .await
        .ok();
    let mode = fs::metadata(&secret).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let line = fs::read_to_string(&public).unwrap();
    let line = line.lines().nth(1).unwrap().to_owned();
    assert!(told.contains(&line), "{told}");
    (text(&secret), line)
}

/// Signs bytes under a file's name; the signature's text.
async fn sign(home: &Home, secret: &str, bytes: &[u8]) -> String {
    let file = home.path("haiku.wasm");
    fs::write(&file, bytes).unwrap();
    home.run(&["plugin", "sign", "-s", secret, &text(&file)])
        .await
        .ok();
    fs::read_to_string(home.path("haiku.wasm.minisig")).unwrap()
}

/// The first-party plugins and `haiku`, under a policy that begins with these lines.
fn folder(lines: &str) -> PluginFolder {
    let folder = PluginFolder::first_party().file("haiku.wasm", component("haiku"));
    let policy = fs::read_to_string(folder.path().join("plugins.toml")).unwrap();
    folder.file("plugins.toml", format!("{lines}\n{policy}"))
}

async fn seen(rig: &Rig, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    rig.worker.status(what, |status| is(&haiku(status))).await
}

fn haiku(status: &Value) -> Value {
    let plugins = status["plugins"].as_array().unwrap();
    let found = plugins.iter().find(|one| one["name"] == "haiku");
    found.cloned().unwrap_or_default()
}

#[tokio::test]
async fn a_signature_file_is_told_apart_by_three_states_and_one_that_fails_refuses() {
    let home = Home::new();
    let (secret, key) = keygen(&home, "own").await;
    let first = component("haiku");
    let second = at_version(&first, "0.2.0");
    let (of_first, of_second) = (
        sign(&home, &secret, &first).await,
        sign(&home, &secret, &second).await,
    );
    let folder = folder(&format!(
        "keys = [{{ key = \"{key}\", name = \"release\" }}]"
    ));
    let rig = Rig::with(home, folder, &[]).await;
    let status = rig.api.get("/daemon/status").await;
    assert_eq!(haiku(&status)["signature"], json!({"state": "not-signed"}));
    let unsigned = rig.generation().await;

    // The same bytes, signed now: another generation, and no probation.
    rig.put("haiku.wasm.minisig", of_first.as_bytes());
    let status = seen(&rig, "a signature", |one| {
        one["signature"]["state"] == "verified"
    })
    .await;
    assert_eq!(haiku(&status)["signature"]["name"], "release");
    assert_eq!(haiku(&status)["state"], "active");
    assert_ne!(rig.generation().await, unsigned);
    let listed = rig.home.run(&["plugin", "list"]).await.ok();
    assert!(listed.contains("(signed by release)"), "{listed}");
    assert!(listed.contains("(not signed)"), "{listed}");

    // New bytes beside the old signature: refused, and what runs is what ran.
    let before = rig.generation().await;
    rig.put("haiku.wasm", &second);
    let reason = rig.candidate("haiku", "refused").await;
    assert!(reason.contains("(signature)"), "{reason}");
    let status = rig.api.get("/daemon/status").await;
    assert_eq!(status["swap"]["candidates"][0]["signature"], "failed");
    assert_eq!(rig.generation().await, before);
    assert_eq!(rig.active("haiku").await, digest(&first));
    rig.haiku().await;
    // The other half arrives, and the pair is taken.
    rig.put("haiku.wasm.minisig", of_second.as_bytes());
    rig.serves("haiku", &digest(&second)).await;
    rig.haiku().await;
    let story = rig.home.run(&["plugin", "history", "haiku"]).await.ok();
    assert!(story.contains("signed by release"), "{story}");
    let recorded = journals(&rig.home.path("state/journal"));
    assert_eq!(recorded.len(), 2);
    let files = worker_tests::files_with(&rig.home.path("state/journal"), "\"verified\"");
    assert_eq!(files.len(), 2, "the signature is on each job's record");

    // A pair that is replaced at once, signature first, is never refused.
    rig.put("haiku.wasm.minisig", of_first.as_bytes());
    rig.put("haiku.wasm", &first);
    rig.serves("haiku", &digest(&first)).await;
    let refusals = rig.story("haiku").await;
    let refusals = refusals.iter().filter(|state| *state == "refused").count();
    assert_eq!(refusals, 1);
}

#[tokio::test]
async fn an_operator_can_demand_signatures_of_the_folder_too() {
    let home = Home::new();
    let (secret, key) = keygen(&home, "own").await;
    let second = at_version(&component("haiku"), "0.2.0");
    let signature = sign(&home, &secret, &second).await;
    let folder = folder(&format!("keys = [\"{key}\"]\nrequire-signature = true"));
    // All that is to serve is signed first.
    let mut files: Vec<String> = vec!["plugin".into(), "sign".into(), "-s".into(), secret.clone()];
    for entry in fs::read_dir(folder.path()).unwrap().flatten() {
        if entry.path().extension().is_some_and(|ext| ext == "wasm") {
            files.push(text(&entry.path()));
        }
    }
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    home.run(&files).await.ok();
    let rig = Rig::with(home, folder, &[]).await;
    let before = rig.generation().await;
    fs::remove_file(rig.folder.path().join("haiku.wasm.minisig")).unwrap();
    rig.put("haiku.wasm", &second);
    let reason = rig.candidate("haiku", "refused").await;
    assert!(reason.contains("(not-signed)"), "{reason}");
    let file = text(&rig.home.path("haiku.wasm"));
    fs::remove_file(rig.home.path("haiku.wasm.minisig")).unwrap();
    let error = rig.home.run(&["plugin", "add", &file]).await.error();
    assert!(error.contains("not-signed"), "{error}");
    assert_eq!(rig.generation().await, before);
    rig.haiku().await;
    rig.put("haiku.wasm.minisig", signature.as_bytes());
    rig.serves("haiku", &digest(&second)).await;
}

#[tokio::test]
async fn a_file_that_asks_for_more_than_plugins_toml_gives_waits_for_plugin_grant() {
    let first = component("haiku");
    let rig = Rig::start(&[("haiku.wasm", &first)]).await;
    let policy = fs::read(rig.folder.path().join("plugins.toml")).unwrap();
    let before = rig.generation().await;
    let error = rig.home.run(&["plugin", "grant", "haiku"]).await.error();
    assert!(error.contains("no version"), "{error}");
    let more = asking(
        &first,
        &json!({"hosts": ["example.org"], "limits": {"step-ms": 2000}}),
    );
    rig.put("haiku.wasm", &more);
    let reason = rig.candidate("haiku", "waiting").await;
    assert!(
        reason.contains("hosts example.org; step-ms 2000"),
        "{reason}"
    );
    let listed = rig.home.run(&["plugin", "list"]).await.ok();
    assert!(
        listed.contains("hosts example.org") && listed.contains("waiting"),
        "{listed}"
    );
    assert_eq!(rig.generation().await, before);
    rig.haiku().await;
    let wrong = "ab".repeat(32);
    let error = rig
        .home
        .run(&["plugin", "grant", "haiku", "--digest", &wrong])
        .await
        .error();
    assert!(error.contains("another version"), "{error}");
    let told = rig
        .home
        .run(&["plugin", "grant", "haiku", "--json"])
        .await
        .json();
    assert_eq!(told["granted"]["hosts"], json!(["example.org"]));
    rig.serves("haiku", &digest(&more)).await;
    rig.haiku().await;
    let story = rig.story("haiku").await;
    assert_eq!(story, ["active", "waiting", "granted", "probation"]);
    let after = fs::read(rig.folder.path().join("plugins.toml")).unwrap();
    assert_eq!(policy, after, "the operator's file is the operator's");
    // A plugin that never served waits as well, and goes when its file goes.
    rig.put(
        "stranger.wasm",
        &asking(
            &crate::support::nameless(&first),
            &json!({"hosts": ["example.org"]}),
        ),
    );
    rig.candidate("stranger", "waiting").await;
    fs::remove_file(rig.folder.path().join("stranger.wasm")).unwrap();
    rig.worker
        .status("nothing that waits", |status| {
            status["swap"]["candidates"] == json!([])
        })
        .await;
}

/// Debian's own, in a folder where it can ask nobody.
fn minisign(program: &Path, home: &Home, args: &[&str]) -> bool {
    let run = Command::new(program)
        .args(args)
        .current_dir(home.path(""))
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    run.status.success()
}

#[tokio::test]
async fn keys_and_signatures_are_interchangeable_with_minisign_both_ways() {
    let Some(program) = needs::program("minisign's files", "minisign", "minisign") else {
        return;
    };
    let home = Home::new();
    let path = |name: &str| text(&home.path(name));
    let file = path("haiku.wasm");
    fs::write(&file, component("haiku")).unwrap();
    let theirs = |args: &[&str]| minisign(&program, &home, args);
    assert!(theirs(&[
        "-G",
        "-W",
        "-f",
        "-p",
        "their.pub",
        "-s",
        "their.key"
    ]));
    let (own, own_line) = keygen(&home, "own").await;
    let own_public = path("own.pub");
    let their_line = fs::read_to_string(path("their.pub")).unwrap();
    let their_line = their_line.lines().nth(1).unwrap();

    // Signed here with their key and with ours, verified there.
    for (secret, line) in [
        (path("their.key"), their_line),
        (own.clone(), own_line.as_str()),
    ] {
        home.run(&["plugin", "sign", "-s", &secret, &file])
            .await
            .ok();
        assert!(theirs(&["-V", "-P", line, "-m", "haiku.wasm"]));
        let told = home
            .run(&["plugin", "verify", "-P", line, "--json", &file])
            .await
            .json();
        assert_eq!(told["state"], "verified");
    }
    assert!(
        !theirs(&["-V", "-P", their_line, "-m", "haiku.wasm"]),
        "ours is not theirs"
    );
    let error = home
        .run(&["plugin", "verify", "-P", their_line, &file])
        .await
        .error();
    assert!(error.contains("not trusted"), "{error}");

    // Signed there with our key and with theirs, hashed and in the old way, verified here.
    let digest = "cd".repeat(32);
    for (secret, public) in [
        ("their.key", path("their.pub")),
        ("own.key", own_public.clone()),
    ] {
        for kind in [&["-S"][..], &["-S", "-l"]] {
            let comment = format!("replaces:{digest}");
            let args = [kind, &["-s", secret, "-m", "haiku.wasm", "-t", &comment]].concat();
            assert!(theirs(&args), "{args:?}");
            let told = home
                .run(&["plugin", "verify", "-p", &public, "--json", &file])
                .await
                .json();
            assert_eq!(told["state"], "verified", "{args:?}");
            assert_eq!(told["replaces"], digest.as_str());
        }
    }

    // Three states, each with its own word, and the exit code of a failure for two.
    fs::write(&file, at_version(&component("haiku"), "9.9.9")).unwrap();
    let error = home
        .run(&["plugin", "verify", "-p", &own_public, &file])
        .await
        .error();
    assert!(error.contains("does not fit"), "{error}");
    let inspected = home.run(&["plugin", "inspect", &file]).await.ok();
    assert!(inspected.contains("verification failed"), "{inspected}");
    fs::remove_file(path("haiku.wasm.minisig")).unwrap();
    let error = home
        .run(&["plugin", "verify", "-p", &own_public, &file])
        .await
        .error();
    assert!(error.contains("is not signed"), "{error}");
    let inspected = home
        .run(&["plugin", "inspect", &file, "--json"])
        .await
        .json();
    assert_eq!(inspected["signature"]["state"], "not-signed");
}

#[tokio::test]
async fn a_password_keeps_a_key_and_never_stands_on_a_command_line() {
    let home = Home::new();
    let path = |name: &str| text(&home.path(name));
    fs::write(path("haiku.wasm"), component("haiku")).unwrap();
    fs::write(path("right"), "snow\n").unwrap();
    fs::write(path("wrong"), "rain\n").unwrap();
    let pair = ["-s", &path("own.key"), "-p", &path("own.pub")].map(str::to_owned);
    let run = async |args: &[&str]| {
        let args: Vec<&str> = ["plugin"].iter().chain(args).copied().collect();
        home.run(&args).await
    };
    let [s, secret, p, public] = &pair;
    run(&[
        "keygen",
        s,
        secret,
        p,
        public,
        "--password-file",
        &path("right"),
    ])
    .await
    .ok();
    let before = fs::read(secret).unwrap();
    let error = run(&["keygen", "-W", s, secret, p, public]).await.error();
    assert!(error.contains("is there already"), "{error}");
    assert_eq!(fs::read(secret).unwrap(), before);
    let file = path("haiku.wasm");
    let error = run(&["sign", s, secret, "--password-file", &path("wrong"), &file])
        .await
        .error();
    assert!(error.contains("does not open"), "{error}");
    assert!(!home.path("haiku.wasm.minisig").exists());
    run(&["sign", s, secret, "--password-file", &path("right"), &file])
        .await
        .ok();
    run(&["verify", p, public, &file]).await.ok();
    let left: Vec<PathBuf> = fs::read_dir(home.path(""))
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with(".tmp")
        })
        .collect();
    assert!(left.is_empty(), "{left:?}");
    rename_in(&home.path(""), "own.pub", b"no key");
    let error = run(&["verify", p, public, &file]).await.error();
    assert!(error.contains("no minisign public key"), "{error}");
}
