//! Commands with other rights than the test's own.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::needs;

/// A user who owns nothing.
pub const NOBODY: u32 = 65_534;

/// The same command, started by `setpriv` with these options. None, said, where there is no `setpriv`.
pub fn changed(what: &str, command: &Command, options: &[&str]) -> Option<Command> {
    let mut outer = Command::new(needs::program(what, "setpriv", "util-linux")?);
    outer
        .args(options)
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(dir) = command.get_current_dir() {
        outer.current_dir(dir);
    }
    Some(outer)
}

/// Gives a file, or a folder and all that is in it, to a user. Takes root.
pub fn give(path: &Path, user: u32) {
    let mut theirs: Vec<PathBuf> = vec![path.to_owned()];
    while let Some(path) = theirs.pop() {
        chown(&path, Some(user), Some(user)).expect("root may give things away");
        if path.is_dir() {
            let inside = fs::read_dir(&path).expect("a folder");
            theirs.extend(inside.map(|entry| entry.expect("an entry").path()));
        }
    }
}
