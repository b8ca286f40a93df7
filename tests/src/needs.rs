//! What a test needs of the machine and cannot bring along: a program of the distribution, root, a kernel's feature.
//!
//! A test that cannot run says so, past the harness that swallows what passing tests print. Where `WORKER_TESTS_ALL` is
//! set, as `.ci/run` does, it fails instead: there everything is installed, and a run without it would prove nothing.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Set to anything, a test that cannot run fails.
const ALL: &str = "WORKER_TESTS_ALL";

/// Names the file with which a whole run ends: a line for each test that was not run.
const LIST: &str = "WORKER_TESTS_NOT_RUN";

/// Where distributions put programs; what a service manager gives a worker for its `PATH`.
pub const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Says that a test, or a part of one, was not run.
pub fn not_run(what: &str, why: &str) {
    assert!(
        std::env::var_os(ALL).is_none(),
        "{what} cannot run: {why}; {ALL} is set, so that this is a failure"
    );
    let line = format!("NOT RUN: {what}: {why}\n");
    let _ = write!(std::io::stderr(), "\n{line}");
    if let Some(list) = std::env::var_os(LIST) {
        let list = OpenOptions::new().append(true).create(true).open(list);
        list.and_then(|mut list| list.write_all(line.as_bytes()))
            .expect("the list of what was not run");
    }
}

/// A program on [`PATH`]; none, said, where it is missing.
pub fn program(what: &str, name: &str, package: &str) -> Option<PathBuf> {
    let found = PATH
        .split(':')
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.is_file());
    if found.is_none() {
        let why = format!("`{name}` is not on {PATH}; on Debian: apt-get install {package}");
        not_run(what, &why);
    }
    found
}
