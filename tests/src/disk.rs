//! A small disk for one process and its children, to be filled.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::needs;

/// Has a command see a disk of its own, of so many KiB, at `at`, which must be a folder. Nobody else sees it, and it is gone with
/// the process. None, said loudly, where the system has no such thing for this user.
pub fn with_small_disk(command: &Command, at: &Path, kib: u64) -> Option<Command> {
    let mount = format!("mount -t tmpfs -o size={kib}k,mode=700 tmpfs \"$0\"");
    let flags = if rustix::process::geteuid().is_root() {
        "-m"
    } else {
        "-rm"
    };
    let around = |script: &str| {
        let mut outer = Command::new("unshare");
        outer.args([flags, "sh", "-c", script]).arg(at);
        outer
    };
    let tried = around(&mount).output();
    if !tried.is_ok_and(|tried| tried.status.success()) {
        needs::not_run(
            "a full disk",
            "no disk can be mounted in a namespace (unshare, mount)",
        );
        return None;
    }
    let mut outer = around(&format!("{mount} && exec \"$@\""));
    outer.arg(command.get_program()).args(command.get_args());
    outer.stdin(Stdio::null());
    outer.stdout(Stdio::piped()).stderr(Stdio::piped());
    outer.env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            outer.env(name, value);
        }
    }
    if let Some(folder) = command.get_current_dir() {
        outer.current_dir(folder);
    }
    Some(outer)
}
