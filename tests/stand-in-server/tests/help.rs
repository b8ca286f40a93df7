//! It is there and says what it can do. Cargo builds a program beside the tests only for a package that has some.
#![allow(clippy::unwrap_used, reason = "a test")]

#[test]
fn it_names_its_options() {
    let program = env!("CARGO_BIN_EXE_stand-in-server");
    let output = std::process::Command::new(program)
        .arg("--help")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for option in ["--load-ms", "--die-after", "--deaf", "--model"] {
        assert!(text.contains(option), "{text}");
    }
}
