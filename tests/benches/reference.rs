//! The reference worker, built beside ours: the crate `studio-worker` 0.4.2 without its default features.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use worker_tests::{Home, Worker, built};

const VERSION: &str = "0.4.2";

/// Its program, installed into the target folder on first use; none, with the reason said, where that fails.
pub(crate) fn program() -> Option<PathBuf> {
    let target = built::profile_dir()
        .parent()
        .expect("a target folder")
        .to_owned();
    let root = target.join("reference");
    let program = root.join("bin/studio-worker");
    if !program.is_file() && !install(&root, &target) {
        println!(
            "!!!!! no reference worker: `cargo install studio-worker` {VERSION} failed, so there is no ratio to print"
        );
        return None;
    }
    Some(program)
}

fn install(root: &Path, target: &Path) -> bool {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        // Outside this workspace, whose settings are not its own.
        .current_dir(std::env::temp_dir())
        .args([
            "install",
            "studio-worker",
            "--version",
            VERSION,
            "--no-default-features",
            "--locked",
            "--root",
        ])
        .arg(root)
        .arg("--target-dir")
        .arg(target.join("reference-build"))
        .stdin(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// Starts it for a studio, approved as ours is.
pub(crate) fn start(program: &Path, home: &Home) -> Worker {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", home.path(""))
        .arg("--config")
        .arg(home.config())
        .arg("run")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // It has no such file: nothing waits for it.
    Worker::start(command, &home.path("local-api.json"))
}
