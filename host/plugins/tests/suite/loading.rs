//! Each rule that a file may break.

use worker_plugins::{InspectError, Rule, World, inspect, validate};

use crate::guest::{self, encode_with, engine, named, section};
use crate::support::{Folder, assert_rule, refusal, refusal_under, sandbox};

#[tokio::test]
async fn names() {
    for name in [
        "X_y.wasm",
        "-x.wasm",
        "x.y.wasm",
        "ä.wasm",
        "x.WASM",
        &format!("{}.wasm", "x".repeat(65)),
    ] {
        assert_rule(
            &refusal(name, &engine().build()).await,
            Rule::Name,
            "lower-case",
        );
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn names_that_differ_by_case_are_all_refused() {
    let bytes = engine().build();
    let folder = Folder::serving()
        .put("x.wasm", &bytes)
        .put("X.wasm", &bytes)
        .put("y.wasm", &bytes);
    let loaded = folder.load(&sandbox()).await.unwrap();
    assert_eq!(loaded.refused.len(), 2);
    for refusal in &loaded.refused {
        assert_rule(refusal, Rule::UniqueName, "case");
    }
    assert_eq!(loaded.generation.engines().len(), 1);
}

#[cfg(unix)]
#[tokio::test]
async fn links_folders_pipes_and_sockets_are_not_opened() {
    use std::os::unix::fs::symlink;
    let folder = Folder::serving().put("good.wasm", &engine().build());
    let at = |name: &str| folder.path().join(name);
    symlink(at("good.wasm"), at("link.wasm")).unwrap();
    symlink("/dev/zero", at("device.wasm")).unwrap();
    symlink(at("nowhere"), at("dangling.wasm")).unwrap();
    std::fs::create_dir(at("folder.wasm")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at("pipe.wasm"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket.wasm")).unwrap();
    let loaded = folder.load(&sandbox()).await.unwrap();
    assert_eq!(loaded.refused.len(), 6, "{:?}", loaded.refused);
    for refusal in &loaded.refused {
        assert_rule(refusal, Rule::RegularFile, "not a regular file");
    }
    assert_eq!(loaded.generation.engines().len(), 1);
}

#[tokio::test]
async fn file_size_is_checked_before_reading() {
    let folder = Folder::serving().put("x.wasm", b"");
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(folder.path().join("x.wasm"))
        .unwrap();
    file.set_len((32 << 20) + 1).unwrap();
    let loaded = folder.load(&sandbox()).await.unwrap();
    assert_rule(&loaded.refused[0], Rule::FileSize, "32 MiB");
    // Granted more, it is read, and found to be no component.
    let folder = folder.policy("[plugins.x]\nfile-mib = 33");
    let loaded = folder.load(&sandbox()).await.unwrap();
    assert_rule(
        &loaded.refused[0],
        Rule::Component,
        "not a WebAssembly component",
    );
}

#[tokio::test]
async fn other_things_than_binary_components() {
    assert_rule(&refusal("x.wasm", b"").await, Rule::Component, "empty");
    assert_rule(
        &refusal("x.wasm", b"(component)").await,
        Rule::Component,
        "text",
    );
    let core = wat::parse_str("(module)").unwrap();
    assert_rule(
        &refusal("x.wasm", &core).await,
        Rule::Component,
        "core module",
    );
    let empty = wat::parse_str("(component)").unwrap();
    assert_rule(&refusal("x.wasm", &empty).await, Rule::World, "none of");
    let mut two = engine().build();
    two.extend(engine().build());
    assert_rule(&refusal("x.wasm", &two).await, Rule::WellFormed, "at byte");
    let mut cut = engine().build();
    cut.truncate(cut.len() / 2);
    assert_rule(&refusal("x.wasm", &cut).await, Rule::WellFormed, "at byte");
}

#[tokio::test]
async fn metadata() {
    let lying = named(engine().build(), "other");
    assert_rule(
        &refusal("x.wasm", &lying).await,
        Rule::Metadata,
        "it is `other`",
    );
    let twice = section(section(engine().build(), "version", b"1"), "version", b"2");
    assert_rule(
        &refusal("x.wasm", &twice).await,
        Rule::Metadata,
        "two sections",
    );
    let twice = section(named(engine().build(), "x"), "component-name", b"");
    assert_rule(
        &refusal("x.wasm", &twice).await,
        Rule::Metadata,
        "two sections",
    );
    let escapes = section(engine().build(), "version", b"1\x1b[2J");
    assert_rule(
        &refusal("x.wasm", &escapes).await,
        Rule::Metadata,
        "one short line",
    );
    let bytes = section(engine().build(), "licenses", b"\xff");
    assert_rule(&refusal("x.wasm", &bytes).await, Rule::Metadata, "UTF-8");
    let bare = wat::parse_str("(component)").unwrap();
    let broken = section(bare, "component-name", b"\x00\xff\xff\xff");
    assert_rule(
        &refusal("x.wasm", &broken).await,
        Rule::Metadata,
        "its component-name section is broken",
    );
}

#[tokio::test]
async fn metadata_is_shown() {
    let bytes = named(engine().build(), "x");
    let bytes = section(bytes, "version", b"1.2.3");
    let bytes = section(bytes, "licenses", b"MIT");
    let bytes = section(bytes, "source", b"https://example.org/");
    let engine = crate::support::engine(&bytes, "").await;
    let identity = engine.identity();
    assert_eq!(
        (identity.name.as_str(), identity.version.as_str()),
        ("x", "1.2.3")
    );
    assert_eq!(identity.license.as_deref(), Some("MIT"));
    assert_eq!(identity.source.as_deref(), Some("https://example.org/"));
    assert_eq!(identity.digest.len(), 64);
    assert_eq!(engine.settings(), "{}");
}

#[tokio::test]
async fn wishes() {
    assert_rule(
        &refusal("x.wasm", &engine().asking("{")).await,
        Rule::Asks,
        "JSON",
    );
    assert_rule(
        &refusal("x.wasm", &engine().asking(r#"{"unknown":1}"#)).await,
        Rule::Asks,
        "unknown",
    );
    assert_rule(
        &refusal("x.wasm", &engine().asking(r#"{"programs":["bash"]}"#)).await,
        Rule::Asks,
        "bash",
    );
    let asking = engine().asking(r#"{"programs":["stand-in"]}"#);
    let refused = refusal("x.wasm", &asking).await;
    assert_rule(
        &refused,
        Rule::Granted,
        "put `programs = [\"stand-in\"]` under [plugins.x] in plugins.toml",
    );
    let granted = crate::support::engine(&asking, "[plugins.x]\nprograms = [\"stand-in\"]").await;
    assert_eq!(granted.grants().programs, ["stand-in"]);
}

#[tokio::test]
async fn versions_of_the_contract() {
    for version in ["2.0.0", "1.1.0", "0.1.0"] {
        let wit = format!(
            "package studio:worker@{version}; interface log {{ write: func(); }} interface engine {{ f: func(); }} world w {{ import log; export engine; }}"
        );
        let module = format!(
            r#"(module (import "studio:worker/log@{version}" "write" (func)) (func (export "studio:worker/engine@{version}#f")))"#
        );
        let refused = refusal("x.wasm", &encode_with(&wit, "w", &module)).await;
        assert_rule(&refused, Rule::ContractVersion, version);
    }
}

#[tokio::test]
async fn imports() {
    let importing = |import: &str, module_import: &str| {
        let wit = format!(
            "package studio:worker@1.0.0; interface log {{ write: func(); }} interface secret {{ get: func(); }} interface engine {{ f: func(); }} world w {{ {import} export engine; }}"
        );
        let module = format!(
            r#"(module (import {module_import} (func)) (func (export "studio:worker/engine@1.0.0#f")))"#
        );
        encode_with(&wit, "w", &module)
    };
    let bytes = importing("import secret;", r#""studio:worker/secret@1.0.0" "get""#);
    assert_rule(&refusal("x.wasm", &bytes).await, Rule::Imports, "secret");
    let bytes = importing("import f: func();", r#""$root" "f""#);
    assert_rule(&refusal("x.wasm", &bytes).await, Rule::Imports, "`f`");
    let more = "package studio:worker@1.0.0; interface log { write: func(); read: func(); resource r; } interface engine { f: func(); } world w { import log; export engine; }";
    for import in ["read", "[resource-drop]r"] {
        let parameters = if import == "read" { "" } else { "(param i32)" };
        let module = format!(
            r#"(module (import "studio:worker/log@1.0.0" "{import}" (func {parameters})) (func (export "studio:worker/engine@1.0.0#f")))"#
        );
        assert_rule(
            &refusal("x.wasm", &encode_with(more, "w", &module)).await,
            Rule::Imports,
            "log",
        );
    }
}

#[tokio::test]
async fn worlds() {
    let wit = "package studio:worker@1.0.0; interface engine { f: func(); } interface routing { f: func(); } interface other { f: func(); } world both { export engine; export routing; } world odd { export other; }";
    let both = r#"(module (func (export "studio:worker/engine@1.0.0#f")) (func (export "studio:worker/routing@1.0.0#f")))"#;
    assert_rule(
        &refusal("x.wasm", &encode_with(wit, "both", both)).await,
        Rule::World,
        "more than one",
    );
    let odd = r#"(module (func (export "studio:worker/other@1.0.0#f")))"#;
    assert_rule(
        &refusal("x.wasm", &encode_with(wit, "odd", odd)).await,
        Rule::World,
        "other",
    );
}

#[tokio::test]
async fn shapes() {
    // The right names, the wrong types: it links, and is found out before anything is called.
    let wit = "package studio:worker@1.0.0; interface engine { describe: func(); builds: func(); compose: func(); subject: func(); step: func(); read-progress: func(); } world w { export engine; }";
    let functions: String = [
        "describe",
        "builds",
        "compose",
        "subject",
        "step",
        "read-progress",
    ]
    .iter()
    .map(|name| format!("(func (export \"studio:worker/engine@1.0.0#{name}\") unreachable)"))
    .collect();
    let bytes = encode_with(wit, "w", &format!("(module {functions})"));
    assert_rule(&refusal("x.wasm", &bytes).await, Rule::Shape, "`describe`");
    let wit =
        "package studio:worker@1.0.0; interface engine { f: func(); } world w { export engine; }";
    let bytes = encode_with(
        wit,
        "w",
        r#"(module (func (export "studio:worker/engine@1.0.0#f")))"#,
    );
    assert_rule(
        &refusal("x.wasm", &bytes).await,
        Rule::Shape,
        "no function `describe`",
    );
    // The log with other parameters.
    let wit = "package studio:worker@1.0.0; interface log { write: func(a: u32); } interface routing { f: func(); } world w { import log; export routing; }";
    let module = r#"(module (import "studio:worker/log@1.0.0" "write" (func (param i32))) (func (export "studio:worker/routing@1.0.0#f")))"#;
    assert_rule(
        &refusal("x.wasm", &encode_with(wit, "w", module)).await,
        Rule::Shape,
        "import",
    );
}

#[tokio::test]
async fn counts() {
    let memories: String = (0..9).map(|n| format!("(memory $m{n} 1)")).collect();
    let mut guest = engine();
    guest.extra = memories;
    assert_rule(
        &refusal("x.wasm", &guest.build()).await,
        Rule::Counts,
        "memories",
    );
    let mut guest = engine();
    guest.extra = (0..9).map(|n| format!("(table $t{n} 1 funcref)")).collect();
    assert_rule(
        &refusal("x.wasm", &guest.build()).await,
        Rule::Counts,
        "tables",
    );
    let mut guest = engine();
    guest.extra = "(table $big 20001 funcref)".to_owned();
    assert_rule(
        &refusal("x.wasm", &guest.build()).await,
        Rule::Counts,
        "elements",
    );
    let mut guest = engine();
    guest.extra = format!("(func {})", "nop ".repeat((2 << 20) + 1));
    assert_rule(
        &refusal("x.wasm", &guest.build()).await,
        Rule::Counts,
        "one function",
    );
}

#[tokio::test]
async fn descriptions() {
    let broken = engine().with_data(&guest::words(1024, &[1056, 0]));
    assert_rule(
        &refusal("x.wasm", &broken.build()).await,
        Rule::Description,
        "engine",
    );
    let broken = engine().with_data(&guest::text(1100, "ha\nku"));
    assert_rule(
        &refusal("x.wasm", &broken.build()).await,
        Rule::Description,
        "ha\\nku",
    );
    let broken = guest::finisher().with_data(&guest::text(1100, "a/bc"));
    assert_rule(
        &refusal("x.wasm", &broken.build()).await,
        Rule::Description,
        "a/bc",
    );
    // A wild pointer, and bytes that are no text.
    let broken = engine().with("describe", "i32.const -8");
    assert_rule(
        &refusal("x.wasm", &broken.build()).await,
        Rule::Probe,
        "describe",
    );
    let broken = engine().with_data("(data (i32.const 1100) \"\\ff\\ff\")");
    assert_rule(
        &refusal("x.wasm", &broken.build()).await,
        Rule::Probe,
        "utf-8",
    );
}

#[tokio::test]
async fn a_backend_beyond_the_grants_is_refused() {
    // One backend: name and program `haiku`; everything else empty or zero.
    let mut record = vec![1100, 5, 1100, 5];
    record.extend([0; 20]);
    let backend = engine()
        .with_data(&guest::words(1040, &[5000, 1]))
        .with_data(&guest::words(5000, &record));
    assert_rule(
        &refusal("x.wasm", &backend.build()).await,
        Rule::Description,
        "does not ask for",
    );
    let asking = backend.asking(r#"{"programs":["haiku"]}"#);
    let refused = refusal_under("x.wasm", &asking, "").await;
    assert_rule(&refused, Rule::Granted, "programs");
    let engine = crate::support::engine(&asking, "[plugins.x]\nprograms = [\"haiku\"]").await;
    assert_eq!(engine.description().backends[0].program, "haiku");
}

#[tokio::test]
async fn one_file_for_its_author() {
    let folder = Folder::serving()
        .put(
            "x.wasm",
            &section(
                engine().asking(r#"{"programs":["stand-in"]}"#),
                "version",
                b"1.0.0",
            ),
        )
        .put("y.wasm", b"(component)");
    let inspection = inspect(&folder.path().join("x.wasm")).unwrap();
    assert_eq!(inspection.world, Some(World::Engine));
    assert_eq!(inspection.version.as_deref(), Some("1.0.0"));
    assert_eq!(inspection.asks.programs, ["stand-in"]);
    assert!(
        inspection
            .imports
            .contains(&"studio:worker/log@1.0.0".to_owned()),
        "{:?}",
        inspection.imports
    );
    assert_eq!(inspection.exports, ["studio:worker/engine@1.0.0"]);
    assert!(inspection.problems.is_empty(), "{:?}", inspection.problems);
    assert!(matches!(
        inspect(&folder.path().join("y.wasm")),
        Err(InspectError::Refused(_))
    ));
    assert!(matches!(
        inspect(&folder.path().join("none/x.wasm")),
        Err(InspectError::Folder { .. })
    ));
    let sandbox = sandbox();
    match validate(&sandbox, &folder.path().join("x.wasm")).await {
        Err(InspectError::Refused(refused)) => assert_rule(&refused, Rule::Granted, "stand-in"),
        other => panic!("{other:?}"),
    }
    let folder = folder.policy("[plugins.x]\nprograms = [\"stand-in\"]");
    let valid = validate(&sandbox, &folder.path().join("x.wasm"))
        .await
        .unwrap();
    assert_eq!(valid.description.unwrap().engines, ["haiku"]);
}
