//! What a running worker leaves beside its configuration: the lock and the discovery file.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "helpers of tests fail like tests"
)]

use std::fs;
use std::path::Path;

use worker_config::{
    ConfigFile, DaemonLock, Discovery, DiscoveryError, Environment, LockError, Paths, Settings,
};
use worker_wire::Secret;

fn paths(dir: &Path) -> Paths {
    let config = dir.join("config.toml");
    let settings =
        Settings::resolve(&ConfigFile::load(&config).unwrap(), &Environment::default()).unwrap();
    Paths::new(&config, &settings)
}

fn api(url: &str) -> Discovery {
    Discovery {
        url: url.into(),
        token: Secret::new("tok-SECRET"),
    }
}

#[test]
fn a_second_worker_is_told_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let paths = paths(&dir.path().join("not/there/yet"));
    let held = DaemonLock::take(&paths.lock).unwrap();
    let refused = DaemonLock::take(&paths.lock).unwrap_err();
    let own = std::process::id();
    assert!(
        matches!(refused, LockError::Held { pid: Some(pid) } if pid == own),
        "{refused}"
    );
    drop(held);
    DaemonLock::take(&paths.lock).unwrap();
}

#[test]
fn a_discovery_file_lives_as_long_as_its_worker() {
    let dir = tempfile::tempdir().unwrap();
    let file = paths(dir.path()).discovery;
    assert_eq!(Discovery::read(&file).unwrap(), None);
    let announced = api("http://127.0.0.1:4787").announce(&file).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(
        text,
        r#"{"url":"http://127.0.0.1:4787","token":"tok-SECRET"}"#
    );
    assert_eq!(
        Discovery::read(&file).unwrap(),
        Some(api("http://127.0.0.1:4787"))
    );
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
    assert!(!format!("{announced:?}").contains("SECRET"));
    drop(announced);
    assert!(!file.exists());
}

#[test]
fn another_workers_discovery_file_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let file = paths(dir.path()).discovery;
    let first = api("http://127.0.0.1:1").announce(&file).unwrap();
    let second = api("http://127.0.0.1:2").announce(&file).unwrap();
    drop(first);
    assert_eq!(
        Discovery::read(&file).unwrap(),
        Some(api("http://127.0.0.1:2"))
    );
    drop(second);
    assert!(!file.exists());
}

#[test]
fn a_discovery_file_of_nonsense_is_said_and_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = paths(dir.path()).discovery;
    for text in [
        "SECRET",
        "{}",
        r#"{"url":"SECRET","token":"t"}"#,
        r#"{"url":"ftp://h","token":"t"}"#,
    ] {
        fs::write(&file, text).unwrap();
        let error = Discovery::read(&file).unwrap_err();
        assert!(matches!(error, DiscoveryError::Malformed { .. }), "{text}");
        assert!(!error.to_string().contains("SECRET"));
    }
}
