//! WASI imports: refused, or met by an empty context.

use worker_plugins::Rule;

use crate::guest::{encode_with, section};
use crate::support::{Folder, assert_rule, refusal, refusal_under, sandbox, worker_state};

/// A router whose code asks WASI for what `body` says; its answer is the rejection `code`/`code`.
fn router(imports: &str, module_imports: &str, body: &str) -> Vec<u8> {
    let contract = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../wit/routing.wit"
    ))
    .unwrap();
    let types =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit/types.wit"))
            .unwrap();
    let body_of = |text: &str| text.replace("package studio:worker@1.0.0;", "");
    let wit = format!(
        "package studio:worker@1.0.0; {} {} world w {{ {imports} export routing; }}
        package wasi:clocks@0.2.6 {{ interface monotonic-clock {{ now: func() -> u64; }} }}
        package wasi:random@0.2.6 {{ interface random {{ get-random-u64: func() -> u64; get-random-bytes: func(len: u64) -> list<u8>; }} }}
        package wasi:cli@0.2.6 {{ interface environment {{ get-environment: func() -> list<tuple<string, string>>; }}
            interface stdout {{ use wasi:io/streams@0.2.6.{{output-stream}}; get-stdout: func() -> output-stream; }} }}
        package wasi:io@0.2.6 {{ interface streams {{ resource output-stream {{ check-write: func() -> u64; }} }} }}
        package wasi:sockets@0.2.6 {{ interface tcp {{ connect: func(); }} }}",
        body_of(&contract),
        body_of(&types)
    );
    let module = format!(
        r#"(module {module_imports}
        (memory (export "memory") 2)
        (global $heap (mut i32) (i32.const 8192))
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
            (global.set $heap (i32.and (i32.add (global.get $heap) (i32.const 15)) (i32.const -16)))
            (global.get $heap)
            (global.set $heap (i32.add (global.get $heap) (local.get 3))))
        (func (export "studio:worker/routing@1.0.0#route") (param i32) (result i32) {body} i32.const 2048)
        (data (i32.const 2048) "\01\00\00\00\40\08\00\00\04\00\00\00\40\08\00\00\04\00\00\00")
        (data (i32.const 2112) "code"))"#
    );
    encode_with(&wit, "w", &module)
}

const CLOCK: (&str, &str) = (
    "import wasi:clocks/monotonic-clock@0.2.6;",
    r#"(import "wasi:clocks/monotonic-clock@0.2.6" "now" (func $now (result i64)))"#,
);
const ALLOW: &str = "[plugins.router]\nwasi = \"empty\"";

async fn routed(bytes: &[u8]) -> Result<String, String> {
    let folder = Folder::empty().put("router.wasm", bytes).policy(ALLOW);
    let loaded = folder
        .load(&sandbox())
        .await
        .map_err(|error| error.to_string())?;
    let answer = loaded
        .generation
        .router()
        .route("{}", vec![], worker_state())
        .await;
    answer
        .map(|rejection| rejection.unwrap_err().code)
        .map_err(|error| error.to_string())
}

#[tokio::test]
async fn refused_unless_the_operator_allows_it() {
    let bytes = router(CLOCK.0, CLOCK.1, "(drop (call $now))");
    let refused = refusal("x.wasm", &bytes).await;
    assert_rule(&refused, Rule::Imports, "wasm32-unknown-unknown");
    assert_rule(
        &refusal_under("x.wasm", &bytes, "[plugins.x]\nwasi = \"none\"").await,
        Rule::Imports,
        "wasi",
    );
}

#[tokio::test]
async fn clocks_stand_still_and_randomness_is_the_jobs() {
    let still = "(if (i64.ne (call $now) (i64.const 0)) (then unreachable))";
    assert_eq!(
        routed(&router(CLOCK.0, CLOCK.1, still)).await.unwrap(),
        "code"
    );
    let random = r#"(import "wasi:random/random@0.2.6" "get-random-u64" (func $random (result i64)))
        (import "wasi:random/random@0.2.6" "get-random-bytes" (func $bytes (param i64 i32)))"#;
    // A route has no job, so its numbers are those of the seed 0, the same in each call.
    let body = "(if (i64.ne (call $random) (i64.const 0xe220a8397b1dcdaf)) (then unreachable))";
    assert_eq!(
        routed(&router("import wasi:random/random@0.2.6;", random, body))
            .await
            .unwrap(),
        "code"
    );
    let greedy = "(call $bytes (i64.const 1000000) (i32.const 4000))";
    let error = routed(&router("import wasi:random/random@0.2.6;", random, greedy))
        .await
        .unwrap_err();
    assert!(error.contains("random bytes"), "{error}");
}

#[tokio::test]
async fn there_is_no_environment_and_output_goes_nowhere() {
    let environment =
        r#"(import "wasi:cli/environment@0.2.6" "get-environment" (func $get (param i32)))"#;
    let body = "(call $get (i32.const 3000)) (if (i32.load (i32.const 3004)) (then unreachable))";
    assert_eq!(
        routed(&router(
            "import wasi:cli/environment@0.2.6;",
            environment,
            body
        ))
        .await
        .unwrap(),
        "code"
    );
    let stdout = r#"(import "wasi:cli/stdout@0.2.6" "get-stdout" (func $get (result i32)))
        (import "wasi:io/streams@0.2.6" "[resource-drop]output-stream" (func $drop (param i32)))"#;
    let imports = "import wasi:io/streams@0.2.6; import wasi:cli/stdout@0.2.6;";
    assert_eq!(
        routed(&router(imports, stdout, "(call $drop (call $get))"))
            .await
            .unwrap(),
        "code"
    );
}

#[tokio::test]
async fn everything_else_traps_when_called_and_not_before() {
    let sockets = r#"(import "wasi:sockets/tcp@0.2.6" "connect" (func $connect))"#;
    let imports = "import wasi:sockets/tcp@0.2.6;";
    assert_eq!(routed(&router(imports, sockets, "")).await.unwrap(), "code");
    let error = routed(&router(imports, sockets, "(call $connect)"))
        .await
        .unwrap_err();
    assert!(error.contains("connect"), "{error}");
}

#[tokio::test]
async fn a_name_that_is_not_wasis_is_refused_all_the_same() {
    let bytes = section(
        encode_with(
            "package studio:worker@1.0.0; interface engine { f: func(); } world w { import other:thing/it@1.0.0; export engine; } package other:thing@1.0.0 { interface it { f: func(); } }",
            "w",
            r#"(module (import "other:thing/it@1.0.0" "f" (func)) (func (export "studio:worker/engine@1.0.0#f")))"#,
        ),
        "version",
        b"1",
    );
    assert_rule(
        &refusal_under("x.wasm", &bytes, "[plugins.x]\nwasi = \"empty\"").await,
        Rule::Imports,
        "other:thing",
    );
}
