//! Wrong words, missing things, commands without a worker.

use serde_json::json;
use worker_tests::Home;

#[tokio::test]
async fn what_cannot_be_meant_is_a_usage_error() {
    let home = Home::new();
    let lines: &[&[&str]] = &[
        &[],
        &["fly"],
        &["run", "--plugin", "x"],
        &["run", "extra"],
        &["submit"],
        &["submit", "image"],
        &["submit", "image", "x", "--offer", "f.json"],
        &["submit", "image", "x", "--set", "novalue"],
        &["submit", "image", "x", "--vram-gb", "-1"],
        &["submit", "image", "x", "--vram-gb", "NaN"],
        &["submit", "image", "x", "--no-wait", "-o", "x.webp"],
        &["cancel"],
        &["cancel", "../x"],
        &["set-threshold"],
        &["set-threshold", "many"],
        &["studio", "--listen", "nowhere"],
        &["studio", "--approve", "perhaps"],
        &["results", "show"],
        &["results", "remove"],
        &["results", "remove", "x", "--all"],
        &["plugin"],
        &["plugin", "inspect"],
        &["plugin", "validate"],
        &["plan"],
        &["status", "--jason"],
        &["register", "--api-base-url", "studio"],
        &["register", "--api-base-url", "https://me:s3cret@h"],
    ];
    for line in lines {
        let ended = home.run(line).await;
        assert_eq!(ended.code(), 2, "{line:?}: {ended:?}");
        assert!(
            ended.stderr.contains("--help") && !ended.stderr.contains("panicked"),
            "{line:?}: {ended:?}"
        );
        assert!(ended.stdout.is_empty(), "{line:?}: {ended:?}");
        assert!(!ended.stderr.contains("s3cret"), "{ended:?}");
    }
}

#[tokio::test]
async fn help_and_version_are_answers() {
    let home = Home::new();
    let version = home.run(&["--version"]).await.ok();
    assert!(version.starts_with("studio-worker "), "{version}");
    let help = home.run(&["--help"]).await.ok();
    let commands = [
        "run",
        "studio",
        "submit",
        "cancel",
        "results",
        "pause",
        "resume",
        "register",
        "status",
        "config",
        "set-threshold",
        "plugin",
        "plan",
    ];
    for command in commands {
        assert!(
            help.lines()
                .any(|line| line.trim_start().starts_with(command)),
            "{command}: {help}"
        );
        let own = home.run(&[command, "--help"]).await.ok();
        assert!(own.contains("Usage"), "{command}");
    }
}

#[tokio::test]
async fn commands_for_a_running_worker_say_that_there_is_none() {
    let home = Home::new();
    let lines: &[&[&str]] = &[
        &["submit", "image", "x"],
        &["cancel", "job-1"],
        &["pause"],
        &["resume"],
    ];
    for line in lines {
        let error = home.run(line).await.error();
        assert!(
            error.contains("no worker runs") && error.contains("config.toml"),
            "{line:?}: {error}"
        );
    }
    // These answer without one.
    let lines: &[&[&str]] = &[
        &["status"],
        &["status", "--json"],
        &["config"],
        &["results"],
        &["plugin", "list"],
    ];
    for line in lines {
        home.run(line).await.ok();
    }
}

#[tokio::test]
async fn a_discovery_file_that_lies_is_an_error() {
    let home = Home::new();
    for content in [
        "",
        "{",
        "[]",
        "{\"url\":\"file:///etc/passwd\",\"token\":\"x\"}",
    ] {
        std::fs::write(home.path("local-api.json"), content).unwrap();
        let error = home.run(&["pause"]).await.error();
        assert!(error.contains("local-api.json"), "{error}");
    }
    // Nobody listens there: killed, and its file is left.
    let left = json!({"url": "http://127.0.0.1:9", "token": "s3cret"}).to_string();
    std::fs::write(home.path("local-api.json"), left).unwrap();
    let ended = home.run(&["pause"]).await;
    assert!(!ended.stderr.contains("s3cret"));
    let error = ended.error();
    assert!(error.contains("cannot be reached"), "{error}");
}

#[tokio::test]
async fn missing_files_and_folders_are_named() {
    let home = Home::new();
    std::fs::write(home.path("text.json"), "not json").unwrap();
    std::fs::write(home.path("list.json"), "[]").unwrap();
    std::fs::write(home.path("half.json"), "{\"jobId\":\"x\"}").unwrap();
    let lines: &[(&[&str], &str)] = &[
        (&["run", "--plugins", "no-such-folder"], "no-such-folder"),
        (&["run", "--plugins", "text.json"], "text.json"),
        (
            &["plugin", "list", "--plugins", "no-such-folder"],
            "no-such-folder",
        ),
        (&["plugin", "inspect", "none.wasm"], "none.wasm"),
        (&["plugin", "inspect", "text.json"], "text.json"),
        (&["plan", "none.json"], "none.json"),
        (&["plan", "text.json"], "text.json"),
        (&["plan", "list.json"], "list.json"),
        (&["plan", "half.json"], "task"),
        (&["results", "show", "nothing"], "nothing"),
        (&["results", "remove", "nothing"], "nothing"),
        (&["set-threshold", "-1"], "vram_threshold_gb"),
        (&["set-threshold", "nan"], "vram_threshold_gb"),
    ];
    for (line, named) in lines {
        let error = home.run(line).await.error();
        assert!(error.contains(named), "{line:?}: {error}");
    }
}

#[tokio::test]
async fn an_unreadable_plugin_folder_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    let folder = home.path("closed");
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o000)).unwrap();
    // Root reads everything: then there is nothing to see here but an empty folder.
    let readable = std::fs::read_dir(&folder).is_ok();
    let mut command = home.command(&["plugin", "list", "--plugins"]);
    command.arg(&folder);
    let ended = worker_tests::home::finish(command).await;
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
    if !readable {
        let error = ended.error();
        assert!(error.contains("closed"), "{error}");
    }
}

#[tokio::test]
async fn a_reader_that_leaves_early_is_no_panic() {
    let home = Home::new();
    let mut child = home.command(&["config"]).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!complaint.contains("panicked"), "{complaint}");
}
