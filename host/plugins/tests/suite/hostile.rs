//! Damaged and mutated files: refused or loaded, and never a panic.

use worker_plugins::{EmbeddedFile, Rule, Source, load};

use crate::guest::{engine, named, router, section};
use crate::support::sandbox;

fn leak(bytes: Vec<u8>) -> &'static [u8] {
    Box::leak(bytes.into_boxed_slice())
}

fn small() -> Vec<u8> {
    section(
        named(engine().asking(r#"{"programs":[]}"#), "x"),
        "version",
        b"1.0.0",
    )
}

/// Loads all variants, in sets under names of their own, and counts those refused; the router must load each time.
async fn refused(variants: Vec<Vec<u8>>) -> usize {
    let sandbox = sandbox();
    let router = leak(router().build());
    let mut refused = 0;
    for batch in variants.chunks(100) {
        let mut files = vec![EmbeddedFile {
            name: "router.wasm",
            bytes: router,
        }];
        files.extend(
            batch
                .iter()
                .enumerate()
                .map(|(number, bytes)| EmbeddedFile {
                    name: Box::leak(format!("x{number}.wasm").into_boxed_str()),
                    bytes: leak(bytes.clone()),
                }),
        );
        let loaded = load(&sandbox, Source::Embedded(&files)).await.unwrap();
        refused += loaded.refused.len();
        assert!(
            loaded
                .refused
                .iter()
                .all(|refusal| !refusal.to_string().contains('\n'))
        );
        assert!(
            loaded
                .refused
                .iter()
                .all(|refusal| !refusal.detail.contains("interrupted")),
            "a panic"
        );
    }
    refused
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_at_every_offset() {
    let whole = engine().build();
    let variants: Vec<Vec<u8>> = (0..whole.len())
        .map(|length| whole[..length].to_vec())
        .collect();
    let count = variants.len();
    let loaded = count - refused(variants).await;
    // Cut off behind the exports, only trailing names are lost: as good as whole.
    assert!(
        loaded < 8,
        "{loaded} of {count} truncated files were loaded"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bit_flipped_at_every_offset() {
    let whole = small();
    let variants: Vec<Vec<u8>> = (0..whole.len())
        .map(|at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            bytes
        })
        .collect();
    let count = variants.len();
    let refused = refused(variants).await;
    assert!(refused > count / 3, "{refused} of {count}");
}

#[tokio::test]
async fn a_mutated_name_never_gets_anothers_grants() {
    // The name inside is `x`; as `y` it is refused whatever `y` is granted.
    let files = [
        EmbeddedFile {
            name: "router.wasm",
            bytes: leak(router().build()),
        },
        EmbeddedFile {
            name: "y.wasm",
            bytes: leak(small()),
        },
        EmbeddedFile {
            name: "plugins.toml",
            bytes: b"[plugins.y]\nprograms = [\"stand-in\"]",
        },
    ];
    let loaded = load(&sandbox(), Source::Embedded(&files)).await.unwrap();
    assert_eq!(loaded.refused[0].rule, Rule::Metadata);
}

#[tokio::test]
async fn deep_nesting_and_many_modules_are_refused() {
    let mut text = String::new();
    for _ in 0..50 {
        text = format!("(component {text})");
    }
    let deep = wat::parse_str(&text).unwrap();
    let many = wat::parse_str(format!("(component {})", "(core module)".repeat(65))).unwrap();
    for bytes in [deep, many] {
        let files = [
            EmbeddedFile {
                name: "router.wasm",
                bytes: leak(router().build()),
            },
            EmbeddedFile {
                name: "x.wasm",
                bytes: leak(bytes),
            },
        ];
        let loaded = load(&sandbox(), Source::Embedded(&files)).await.unwrap();
        assert_eq!(loaded.refused[0].rule, Rule::Counts);
    }
}
