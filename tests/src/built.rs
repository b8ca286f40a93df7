//! The programs under test, built when they are missing or older than their sources.
//!
//! `cargo test` on the whole workspace builds them anyway; running one test binary alone does not. Cargo's own list of what a
//! program was made from tells whether it is current, so that the ordinary case costs no second build.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Set to anything, the programs are taken as they are: for runs that build them beforehand.
const AS_THEY_ARE: &str = "WORKER_TESTS_AS_BUILT";

/// The worker.
pub fn worker() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| current("studio-worker", "studio-worker"))
}

/// The stand-in for `sd-cli`.
pub fn fake_sd() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| current("fake-sd", "fake-sd"))
}

/// A program that tries what it must not.
pub fn hostile_program() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| current("hostile-program", "hostile-program"))
}

/// The stand-in for a native server.
pub fn stand_in_server() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| current("stand-in-server", "stand-in-server"))
}

/// Root of the repository.
pub fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
        tests
            .parent()
            .expect("the tests lie in the repository")
            .to_owned()
    })
}

/// Where this profile's programs lie: two folders above the running test.
pub fn profile_dir() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    test.ancestors()
        .nth(2)
        .expect("tests lie in target/PROFILE/deps")
        .to_owned()
}

fn current(package: &str, program: &str) -> PathBuf {
    let dir = profile_dir();
    let path = dir.join(format!("{program}{}", std::env::consts::EXE_SUFFIX));
    let taken_as_is = std::env::var_os(AS_THEY_ARE).is_some() && path.is_file();
    if !taken_as_is && is_stale(&path, &dir.join(format!("{program}.d"))) {
        build(package, &dir);
    }
    assert!(path.is_file(), "{} was not built", path.display());
    path
}

fn is_stale(program: &Path, list: &Path) -> bool {
    let changed = |path: &Path| path.metadata().and_then(|meta| meta.modified()).ok();
    let (Some(built), Ok(list)) = (changed(program), std::fs::read_to_string(list)) else {
        return true;
    };
    let sources = list
        .split_once(": ")
        .map_or("", |(_, sources)| sources)
        .trim();
    // Blanks within a path are written with a backslash before them.
    let sources = sources.replace("\\ ", "\0");
    sources
        .split(' ')
        .map(|source| PathBuf::from(source.replace('\0', " ")))
        .any(|source| changed(&source).is_none_or(|when| when > built))
}

fn build(package: &str, profile_dir: &Path) {
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // What the outer build tells its tests of their package is none of the inner one's business: build scripts that look at
    // such variables would run again, and with them half of the dependencies, at each change between the two.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
        {
            command.env_remove(&name);
        }
    }
    let status = command
        .current_dir(root())
        .args([
            "build",
            "--quiet",
            "--package",
            package,
            "--profile",
            profile,
        ])
        .arg("--target-dir")
        .arg(
            profile_dir
                .parent()
                .expect("a profile's folder lies in the target folder"),
        )
        .status()
        .expect("cargo starts");
    assert!(status.success(), "building {package} failed");
}
