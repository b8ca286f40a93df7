//! That the program starts at all. Cargo builds a program for `cargo test` only where its package has such a test, and the
//! whole-program tests, which are a package of their own, use it.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::process::Command;

#[test]
fn it_tells_its_version() {
    let output = Command::new(env!("CARGO_BIN_EXE_studio-worker"))
        .arg("--version")
        .output()
        .unwrap();
    assert!(output.status.success());
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        told.trim(),
        concat!("studio-worker ", env!("CARGO_PKG_VERSION"))
    );
}
