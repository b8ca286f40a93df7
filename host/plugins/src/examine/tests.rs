use super::*;

#[test]
fn versions_of_the_contract() {
    for good in [
        "studio:worker/log@1.0.0",
        "studio:worker/engine@1.0.7",
        "wasi:io/poll@9.9.9",
        "run",
    ] {
        assert!(check_version(good).is_ok(), "{good}");
    }
    for bad in [
        "studio:worker/log",
        "studio:worker/log@2.0.0",
        "studio:worker/log@1.1.0",
        "studio:worker/log@0.9.0",
        "studio:worker/log@1.0.0-rc",
        "studio:worker/log@1",
        "studio:worker/log@1.0.0.0",
    ] {
        assert_eq!(
            check_version(bad).unwrap_err().rule,
            Rule::ContractVersion,
            "{bad}"
        );
    }
}

#[test]
fn imports_by_name() {
    assert!(check_import("studio:worker/log@1.0.0", false).is_ok());
    assert!(check_import("wasi:io/poll@0.2.0", true).is_ok());
    for (name, wasi) in [
        ("wasi:io/poll@0.2.0", false),
        ("studio:worker/secret@1.0.0", true),
        ("other:x/y", true),
        ("f", true),
    ] {
        assert_eq!(
            check_import(name, wasi).unwrap_err().rule,
            Rule::Imports,
            "{name}"
        );
    }
}

#[test]
fn headers() {
    for (bytes, word) in [
        (&b""[..], "empty"),
        (b"(component)", "text"),
        (b" ;; x", "text"),
        (b"\0asm\x01\0\0\0", "core module"),
        (b"\x7fELF....", "not a WebAssembly"),
        (b"\0as", "not a WebAssembly"),
    ] {
        let broken = Anatomy::read(bytes).unwrap_err();
        assert_eq!(broken.rule, Rule::Component);
        assert!(broken.detail.contains(word), "{}", broken.detail);
    }
}
