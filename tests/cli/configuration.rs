//! `config.toml`: the reference worker's file, read as it is, and never shown where it holds a secret.

use std::os::unix::fs::PermissionsExt;

use worker_tests::{Home, ScriptedStudio};

/// As the reference worker writes it, with keys of several versions and one of nobody's.
const REFERENCE: &str = r#"# my worker
api_base_url = "https://studio.example/"
worker_id = "w-77"
auth_token = "tok-s3cret"
vram_threshold_gb = 12
auto_start = true
auto_update_enabled = true
auto_update_interval_secs = 1800
auto_update_feed = "https://api.github.com/repos/x/y/releases"
auto_update_prerelease = false
models_root = "~/models"
install_id = "00000000-1111-2222-3333-444444444444"
memory_max_gb = 32
start_minimised = true
only_when_idle = false
local_api_token = "api-s3cret"
auto_enabled = true
favourite_colour = "teal" # kept

[table_of_a_later_version]
x = 1
"#;

#[tokio::test]
async fn a_reference_workers_file_is_read_and_kept() {
    let home = Home::new();
    std::fs::write(home.config(), REFERENCE).unwrap();
    let shown = home.run(&["config"]).await.ok();
    for needed in ["https://studio.example", "w-77", "12", "config.toml"] {
        assert!(shown.contains(needed), "{needed}: {shown}");
    }
    let json = home.run(&["config", "--json"]).await;
    for secret in ["tok-s3cret", "api-s3cret"] {
        assert!(
            !shown.contains(secret) && !json.stdout.contains(secret),
            "{shown}"
        );
    }
    json.json();
    assert_eq!(home.config_text(), REFERENCE, "looking changes nothing");

    home.run(&["set-threshold", "8.5"]).await.ok();
    let text = home.config_text();
    assert_eq!(
        text,
        REFERENCE.replace("vram_threshold_gb = 12", "vram_threshold_gb = 8.5"),
        "one value changed"
    );
    let mode = home.config().metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn each_value_says_where_it_came_from() {
    let home = Home::bare("drain_timeout_secs = 7");
    let mut command = home.command(&["config"]);
    command.env("STUDIO_WORKER_LOCAL_API_PORT", "45678");
    let shown = worker_tests::home::finish(command).await.ok();
    let line = |key: &str| {
        shown
            .lines()
            .find(|line| line.contains(key))
            .unwrap_or_else(|| panic!("{key}: {shown}"))
    };
    assert!(
        line("drain_timeout_secs").contains('7') && line("drain_timeout_secs").contains("file"),
        "{shown}"
    );
    assert!(line("local_api_port").contains("45678"), "{shown}");
    assert!(
        line("local_api_port").contains("STUDIO_WORKER_LOCAL_API_PORT"),
        "{shown}"
    );
    assert!(line("ws_reconnect_attempts").contains("default"), "{shown}");
    assert!(line("auth_token").contains("<not set>"), "{shown}");
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_never_echoed() {
    let files = [
        ("auth_token = \"s3cret\nworker_id = 5", "line"),
        ("auth_token = s3cret", "line"),
        ("auth_token = [\"s3cret\"]", "auth_token"),
        ("vram_threshold_gb = \"s3cret\"", "vram_threshold_gb"),
        ("vram_threshold_gb = -3.0 # s3cret", "vram_threshold_gb"),
        ("drain_timeout_secs = 1e99 # s3cret", "drain_timeout_secs"),
        ("api_base_url = \"s3cret\"", "api_base_url"),
        (
            "api_base_url = \"https://s3cret:s3cret@h/\"",
            "api_base_url",
        ),
        ("listen = \"s3cret\"", "listen"),
        ("a = 1\na = \"s3cret\"", "line"),
        ("\u{feff}\u{0}s3cret", "line"),
    ];
    let home = Home::new();
    for (content, named) in files {
        std::fs::write(home.config(), content).unwrap();
        for command in [
            &["config"][..],
            &["run"],
            &["status"],
            &["set-threshold", "3"],
            &["register", "--reset"],
        ] {
            let ended = home.run(command).await;
            assert!(
                !ended.stderr.contains("s3cret") && !ended.stdout.contains("s3cret"),
                "{content:?}: {ended:?}"
            );
            // A command that writes one value need not read the others.
            if ended.code() != 0 || command[0] == "run" {
                let error = ended.error();
                assert!(
                    error.contains("config.toml") && error.contains(named),
                    "{content:?}: {error}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_wrong_environment_variable_is_named() {
    let home = Home::new();
    let mut command = home.command(&["run"]);
    command.env("STUDIO_WORKER_LOCAL_API_PORT", "ninety");
    let error = worker_tests::home::finish(command).await.error();
    assert!(error.contains("STUDIO_WORKER_LOCAL_API_PORT"), "{error}");
}

#[tokio::test]
async fn register_sets_the_studio_and_forgets_the_identity() {
    let home = Home::new();
    home.run(&["register", "--api-base-url", "https://studio.example"])
        .await
        .ok();
    assert!(
        home.config_text()
            .contains("api_base_url = \"https://studio.example"),
        "{}",
        home.config_text()
    );
    home.configure("worker_id = \"w-1\"\nauth_token = \"tok\"\ninstall_id = \"i\"");
    home.run(&["register", "--reset"]).await.ok();
    let text = home.config_text();
    for gone in ["worker_id", "auth_token", "install_id"] {
        assert!(!text.contains(gone), "{text}");
    }
    assert!(text.contains("api_base_url"), "{text}");
}

#[tokio::test]
async fn a_command_that_writes_leaves_the_embedded_studio_embedded() {
    let home = Home::new();
    std::fs::remove_file(home.config()).unwrap();
    home.run(&["set-threshold", "3"]).await.ok();
    assert!(
        !home.config_text().contains("api_base_url"),
        "{}",
        home.config_text()
    );
}

#[tokio::test]
async fn merely_running_writes_no_configuration() {
    let home = Home::new();
    std::fs::remove_file(home.config()).unwrap();
    let mut command = home.command(&["run"]);
    command.env("STUDIO_WORKER_LOCAL_API_PORT", "0");
    let worker = worker_tests::Worker::start(command, &home.path("local-api.json"));
    worker.connected().await;
    assert!(!home.config().exists());
    worker.stop().await;
    assert!(!home.config().exists());
}

/// An identity at one studio is never shown to another.
#[tokio::test]
async fn another_studio_never_sees_the_first_ones_token() {
    let first = ScriptedStudio::start().await;
    let home = Home::unregistered(&first.base());
    let worker = home.start();
    let peer = first.welcomed().await;
    drop(peer);
    worker.stop().await;
    let second = ScriptedStudio::start().await;
    second.on_json(
        "poll",
        serde_json::json!({"status": "approved", "workerId": "w-2", "authToken": "tok-2"}),
    );
    home.run(&["register", "--api-base-url", &second.base()])
        .await
        .ok();
    let _worker = home.start();
    let mut peer = second.peer().await;
    assert_eq!(peer.expect("hello").await["authToken"], "tok-2");
    for call in second.calls("poll").iter().chain(&second.calls("connect")) {
        assert_ne!(call.header("authorization"), Some("Bearer tok"));
    }
}
