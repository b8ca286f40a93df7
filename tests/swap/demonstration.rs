//! `tests/demonstrate`, the script that a person runs from a fresh clone, is run as it is.

use std::process::{Command, Stdio};
use std::time::Duration;

use worker_tests::{Home, built};

/// A dozen commands and two services, on a machine that is busy compiling. The script bounds its own waits.
const LIMIT: Duration = Duration::from_secs(600);

#[tokio::test]
async fn a_release_renames_an_option_and_a_pushed_plugin_brings_the_next_job_home() {
    // An installation has compiled plugins in it, which saves the demonstration from compiling them anew.
    let home = Home::new();
    let mut command = Command::new(built::root().join("tests/demonstrate"));
    command
        .env_clear()
        .env("PATH", worker_tests::needs::PATH)
        .env("HOME", home.path(""))
        .env("STUDIO_WORKER", built::worker())
        .env("STAND_IN", built::fake_sd())
        .env("COMPILED", home.path("state/compiled"))
        .stdin(Stdio::null());
    let ran = tokio::task::spawn_blocking(move || command.output().unwrap());
    let ran = tokio::time::timeout(LIMIT, ran)
        .await
        .expect("its end")
        .unwrap();
    let (told, complaint) = (
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr),
    );
    assert!(ran.status.success(), "{told}\n{complaint}");
    // The script fails where a step does not come out; here is what a reader of its output is to see.
    for words in [
        "has no option --steps",
        "master-990",
        "sd-cpp 0.2.0",
        "as at the beginning",
        "probation",
    ] {
        assert!(told.contains(words), "{words} is missing:\n{told}");
    }
}
