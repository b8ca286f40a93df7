//! Folders and built-in sets as a whole.

use std::path::Path;

use worker_plugins::{EmbeddedFile, LoadError, Rule, Source, load};

use crate::guest::{engine, finisher, router};
use crate::support::{Folder, assert_rule, sandbox};

fn leak(bytes: Vec<u8>) -> &'static [u8] {
    Box::leak(bytes.into_boxed_slice())
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_named() {
    let error = load(
        &sandbox(),
        Source::Folder(Path::new("/nonexistent/plugins")),
    )
    .await
    .unwrap_err();
    assert!(matches!(error, LoadError::Folder { .. }));
    assert!(error.to_string().contains("/nonexistent/plugins"));
    let folder = Folder::empty().put("file", b"");
    let error = load(&sandbox(), Source::Folder(&folder.path().join("file")))
        .await
        .unwrap_err();
    assert!(matches!(error, LoadError::Folder { .. }));
}

#[tokio::test]
async fn without_a_router_nothing_serves() {
    let folder = Folder::empty().put("x.wasm", &engine().build());
    let error = folder.load(&sandbox()).await.unwrap_err();
    assert!(
        error.to_string().contains("put router.wasm there"),
        "{error}"
    );
    let folder = folder.put("router.wasm", b"(module)");
    let error = folder.load(&sandbox()).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("router.wasm refused (component)"),
        "{error}"
    );
    let folder = folder
        .put("router.wasm", &router().build())
        .put("other.wasm", &router().build());
    let error = folder.load(&sandbox()).await.unwrap_err();
    assert!(error.to_string().contains("other and router"), "{error}");
    let folder = folder.policy("router = \"other\"");
    let loaded = folder.load(&sandbox()).await.unwrap();
    assert_eq!(loaded.generation.router().identity().name, "other");
    let folder = folder.policy("router = \"x\"");
    assert!(matches!(
        folder.load(&sandbox()).await,
        Err(LoadError::NoRouter { .. })
    ));
}

#[tokio::test]
async fn a_broken_plugin_does_not_stop_the_others() {
    let folder = Folder::serving()
        .put("good.wasm", &engine().build())
        .put("bad.wasm", b"nonsense")
        .put(
            "trap.wasm",
            &engine().with("describe", "unreachable").build(),
        )
        .put("note.txt", b"not looked at")
        .put(".hidden.wasm", b"not looked at");
    let loaded = folder.load(&sandbox()).await.unwrap();
    assert_eq!(loaded.generation.engines().len(), 1);
    assert_eq!(loaded.refused.len(), 2);
    assert_rule(&loaded.refused[0], Rule::Component, "");
    assert_rule(&loaded.refused[1], Rule::Probe, "unreachable");
}

#[tokio::test]
async fn order_is_the_operators() {
    let bytes = engine().build();
    let folder = Folder::serving()
        .put("a.wasm", &bytes)
        .put("b.wasm", &bytes)
        .put("c.wasm", &bytes)
        .put("f1.wasm", &finisher().build())
        .put("f2.wasm", &finisher().build());
    let names = async |policy: &str| {
        std::fs::write(folder.path().join("plugins.toml"), policy).unwrap();
        let loaded = folder.load(&sandbox()).await.unwrap();
        let engines: Vec<String> = loaded
            .generation
            .engines()
            .iter()
            .map(|e| e.identity().name.clone())
            .collect();
        let finishers: Vec<String> = loaded
            .generation
            .finishers()
            .iter()
            .map(|e| e.identity().name.clone())
            .collect();
        (
            engines.join(" "),
            finishers.join(" "),
            loaded.generation.id().to_owned(),
        )
    };
    let (engines, finishers, first) = names("").await;
    assert_eq!((engines.as_str(), finishers.as_str()), ("a b c", "f1 f2"));
    let (engines, finishers, second) =
        names("engines = [\"c\", \"*\", \"a\", \"gone\"]\nfinishers = [\"f2\", \"f1\"]").await;
    assert_eq!((engines.as_str(), finishers.as_str()), ("c b a", "f2 f1"));
    assert_ne!(first, second);
    let (engines, finishers, _) =
        names("engines = [\"b\"]\nfinishers = []\n[plugins.b]\nenabled = true").await;
    assert_eq!((engines.as_str(), finishers.as_str()), ("b", ""));
    let (engines, _, _) = names("[plugins.b]\nenabled = false").await;
    assert_eq!(engines, "a c");
    assert_eq!(names("").await.2, first);
}

#[tokio::test]
async fn a_wrong_policy_names_file_line_and_key() {
    let folder = Folder::serving().policy("\n[plugins.x]\nmemory-mib = \"hunter2\"");
    let error = folder.load(&sandbox()).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("plugins.toml")
            && text.contains("line 3")
            && text.contains("plugins.x.memory-mib"),
        "{text}"
    );
    assert!(!text.contains("hunter2"));
    let folder = Folder::serving().put("plugins.toml", b"\xff\xfe");
    assert!(matches!(
        folder.load(&sandbox()).await,
        Err(LoadError::PolicyFile { .. })
    ));
    let folder = Folder::serving();
    std::fs::create_dir(folder.path().join("plugins.toml")).unwrap();
    assert!(matches!(
        folder.load(&sandbox()).await,
        Err(LoadError::PolicyFile { .. })
    ));
}

#[tokio::test]
async fn a_built_in_set_is_loaded_like_a_folder() {
    let files = [
        EmbeddedFile {
            name: "router.wasm",
            bytes: leak(router().build()),
        },
        EmbeddedFile {
            name: "x.wasm",
            bytes: leak(engine().build()),
        },
        EmbeddedFile {
            name: "bad.wasm",
            bytes: b"bad",
        },
        EmbeddedFile {
            name: "plugins.toml",
            bytes: b"[plugins.x]\nsettings = { a = 1 }",
        },
    ];
    let loaded = load(&sandbox(), Source::Embedded(&files)).await.unwrap();
    assert_eq!(
        loaded.generation.engine("x").unwrap().settings(),
        "{\"a\":1}"
    );
    assert_eq!(loaded.refused.len(), 1);
    assert!(matches!(
        load(&sandbox(), Source::Embedded(&[])).await,
        Err(LoadError::NoRouter { .. })
    ));
}
