//! `doctor`: a line for everything a job depends on, and what to do next.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use worker_tests::disk::with_small_disk;
use worker_tests::rights::{self, NOBODY};
use worker_tests::{FileServer, Home, PluginFolder, SdCli, built, home, needs};

async fn doctor(home: &Home, plugins: &str, env: &[(&str, &str)]) -> (i32, Value) {
    let mut command = home.command(&["doctor", "--json", "--plugins", plugins]);
    command.envs(env.iter().copied());
    told(command).await
}

/// What a doctor says that is run in some way of its own.
async fn told(command: Command) -> (i32, Value) {
    let ended = home::finish(command).await;
    let code = ended.code();
    let told = serde_json::from_str(&ended.stdout);
    (
        code,
        told.unwrap_or_else(|error| panic!("{error}: {ended:?}")),
    )
}

fn first_party() -> String {
    built::root().join("plugins").to_str().unwrap().to_owned()
}

fn check<'a>(told: &'a Value, name: &str) -> &'a Value {
    let checks = told["checks"].as_array().unwrap();
    let found = checks.iter().find(|check| check["check"] == name);
    found.unwrap_or_else(|| panic!("no check {name}: {told:#}"))
}

fn failed(told: &Value) -> Vec<String> {
    let checks = told["checks"].as_array().unwrap().iter();
    checks
        .filter(|check| check["level"] == "failure")
        .map(|check| check["check"].as_str().unwrap().to_owned())
        // A full disk is this machine's, not the program's; the harness hides this machine's espeak-ng from every test.
        .filter(|check| !check.starts_with("disk.") && check != "program espeak-ng")
        .collect()
}

#[tokio::test]
async fn a_sound_installation() {
    let (home, sd) = (Home::new(), SdCli::install());
    let path = sd.path();
    let env = [("STUDIO_WORKER_SD_CLI", path.to_str().unwrap())];
    let (_, told) = doctor(&home, &first_party(), &env).await;
    assert_eq!(failed(&told), Vec::<String>::new(), "{told:#}");
    for name in [
        "permissions.config",
        "permissions.token",
        "permissions.state",
        "folder.models",
        "folder.state",
        "disk.models",
        "disk.state",
        "disk.scratch",
        "plugin sd-cpp",
        "plugin router",
        "plugin finisher",
        "program sd-cli",
        "gpu",
        "memory",
        "vulkan",
        "sandbox",
        "memory.limit",
        "server.network",
        "worker",
        "studio",
        "clock",
    ] {
        let check = check(&told, name);
        assert!(!check["found"].as_str().unwrap().is_empty(), "{check}");
        let calm = check["level"] == "ok";
        assert_eq!(
            check["next"].is_null(),
            calm,
            "what is not well says what to do: {check}"
        );
    }
    let program = check(&told, "program sd-cli")["found"].as_str().unwrap();
    assert!(
        program.contains("named in STUDIO_WORKER_SD_CLI") && program.contains("SHA-256"),
        "{program}"
    );
    // For people, a line each.
    let text = home::finish(home.command(&["doctor"])).await.stdout;
    assert!(
        text.lines()
            .any(|line| line.starts_with("ok") && line.contains("clock")),
        "{text}"
    );
}

#[tokio::test]
async fn a_broken_plugin_is_named_with_its_rule() {
    let home = Home::new();
    let folder = PluginFolder::first_party();
    fs::write(folder.path().join("broken.wasm"), b"\0asm\x0d\0\x01\0").unwrap();
    let (code, told) = doctor(&home, folder.path().to_str().unwrap(), &[]).await;
    assert_eq!((code, &told["ok"]), (1, &Value::Bool(false)));
    let broken = check(&told, "plugin broken.wasm");
    assert_eq!(broken["level"], "failure");
    assert!(
        broken["found"].as_str().unwrap().contains("refused ("),
        "{broken}"
    );
    assert_eq!(failed(&told), ["plugin broken.wasm"]);
}

#[tokio::test]
async fn models_that_were_set_aside_are_told_with_their_size() {
    let home = Home::new();
    let (_, told) = doctor(&home, &first_party(), &[]).await;
    assert!(!told.to_string().contains("models.set-aside"), "{told}");
    let folder = home.path("models/.studio-worker/quarantine");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("sha256-00.00"), vec![7; 4096]).unwrap();
    let (_, told) = doctor(&home, &first_party(), &[]).await;
    let aside = check(&told, "models.set-aside");
    assert_eq!(aside["level"], "warning", "{aside}");
    assert!(
        aside["found"]
            .as_str()
            .unwrap()
            .contains("aside: 1, of 0.0 GiB"),
        "{aside}"
    );
}

#[tokio::test]
async fn programs_that_are_missing_misnamed_or_to_come() {
    let home = Home::new();
    let (_, told) = doctor(&home, &first_party(), &[]).await;
    assert_eq!(check(&told, "program sd-cli")["level"], "warning");
    assert_eq!(check(&told, "plugin sd-cpp")["level"], "warning");
    let (code, told) = doctor(
        &home,
        &first_party(),
        &[("STUDIO_WORKER_SD_CLI", "/nowhere")],
    )
    .await;
    assert_eq!(code, 1);
    assert_eq!(failed(&told), ["program sd-cli"]);
    let files = FileServer::start().await;
    let url = files.put("sd.zip", "never asked for");
    let env = [
        ("STUDIO_WORKER_SDCPP_URL", url.as_str()),
        ("STUDIO_WORKER_SDCPP_RELEASE", "r-1"),
    ];
    let (_, told) = doctor(&home, &first_party(), &env).await;
    let program = check(&told, "program sd-cli");
    assert_eq!(program["level"], "ok", "{program}");
    assert!(
        program["found"].as_str().unwrap().contains("r-1"),
        "{program}"
    );
    assert_eq!(files.asked("sd.zip"), 0, "a doctor downloads nothing");
}

#[tokio::test]
async fn a_studio_that_answers_and_one_that_does_not() {
    let files = FileServer::start().await;
    let base = files.put("", "x");
    let home = Home::approved(&base);
    let (_, told) = doctor(&home, &first_party(), &[]).await;
    assert_eq!(check(&told, "studio")["level"], "ok");
    assert_eq!(check(&told, "registration")["found"], "approved");
    let clock = check(&told, "clock");
    assert!(
        clock["found"]
            .as_str()
            .unwrap()
            .contains("from the studio's"),
        "{clock}"
    );

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let home = Home::unregistered(&base);
    let (code, told) = doctor(&home, &first_party(), &[]).await;
    assert_eq!(code, 1);
    assert_eq!(failed(&told), ["studio"]);
    assert_eq!(check(&told, "registration")["level"], "warning");
}

#[tokio::test]
async fn a_token_that_others_can_read() {
    let home = Home::approved("http://127.0.0.1:9/");
    let config = home.config();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
    let (_, told) = doctor(&home, &first_party(), &[]).await;
    let open = check(&told, "permissions.config");
    assert_eq!(open["level"], "failure", "{open}");
    assert!(
        open["next"].as_str().unwrap().contains("chmod 600"),
        "{open}"
    );
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    let (_, told) = doctor(&home, &first_party(), &[]).await;
    assert_eq!(check(&told, "permissions.config")["level"], "ok");
}

#[tokio::test]
async fn a_disk_that_is_almost_full() {
    // What there is of room for models, in KiB, and what a doctor says of it.
    for (kib, level) in [(1 << 10, "failure"), (3 << 20, "warning")] {
        let home = Home::new();
        let command = home.command(&["doctor", "--json", "--plugins", &first_party()]);
        let Some(command) = with_small_disk(&command, &home.path("models"), kib) else {
            return;
        };
        let (code, told) = told(command).await;
        let models = check(&told, "disk.models");
        assert_eq!(models["level"], level, "{models}");
        let found = models["found"].as_str().unwrap();
        assert!(
            found.contains("GiB free in") && found.contains("models"),
            "{found}"
        );
        let next = models["next"].as_str().unwrap();
        assert!(next.contains("make room there"), "{next}");
        if level == "failure" {
            assert_eq!(code, 1);
        }
    }
}

/// An installation of a user who is nobody, and a command of theirs on it. Where this is nobody of importance already, theirs is
/// one's own.
fn of_nobody(home: &Home, args: &[&str]) -> Option<Command> {
    let command = home.command(args);
    if !rustix::process::geteuid().is_root() {
        return Some(command);
    }
    rights::give(&home.path(""), NOBODY);
    let theirs = [
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--no-new-privs",
    ];
    rights::changed("a doctor without rights", &command, &theirs)
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn a_folder_that_this_user_may_not_write_and_a_state_of_another_users() {
    let home = Home::new();
    mode(&home.config(), 0o600);
    let plugins = first_party();
    let args = ["doctor", "--json", "--plugins", &plugins];
    let Some(command) = of_nobody(&home, &["--version"]) else {
        return;
    };
    if !home::finish(command).await.status.success() {
        return needs::not_run("a doctor without rights", "nobody may run the worker here");
    }
    let Some(command) = of_nobody(&home, &args) else {
        return;
    };
    let (_, well) = told(command).await;
    assert_eq!(check(&well, "folder.models")["level"], "ok", "{well:#}");
    assert_eq!(check(&well, "permissions.config")["level"], "ok");
    let network = check(&well, "server.network");
    assert_eq!(network["level"], "warning", "{network}");
    let found = network["found"].as_str().unwrap();
    assert!(found.contains("CAP_SYS_ADMIN"), "{found}");

    mode(&home.path("models"), 0o555);
    let Some(command) = of_nobody(&home, &args) else {
        return;
    };
    let (code, ill) = told(command).await;
    assert_eq!(code, 1);
    let models = check(&ill, "folder.models");
    assert_eq!(models["level"], "failure", "{models}");
    let found = models["found"].as_str().unwrap();
    assert!(found.contains("cannot be written"), "{found}");
    let next = models["next"].as_str().unwrap();
    assert!(next.contains("config.toml"), "{next}");

    // Once run by root, as with `sudo`: only root can have made it so.
    mode(&home.path("models"), 0o755);
    if rustix::process::geteuid().is_root() {
        let Some(command) = of_nobody(&home, &args) else {
            return;
        };
        chown(home.path("state"), Some(0), Some(0)).unwrap();
        mode(&home.path("state"), 0o755);
        let (_, ill) = told(command).await;
        let state = check(&ill, "permissions.state");
        assert_eq!(state["level"], "failure", "{state}");
        let found = state["found"].as_str().unwrap();
        assert!(found.contains("belongs to user 0"), "{found}");
        assert_eq!(check(&ill, "folder.state")["level"], "failure");
    }
}
