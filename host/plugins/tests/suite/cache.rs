//! The cache of compiled plugins: used, sealed, and never believed when damaged.

use std::path::{Path, PathBuf};

use crate::guest::engine;
use crate::support::{Folder, job, sandbox_in};

fn compiled(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "compiled"))
        .collect();
    found.sort();
    found
}

async fn load_and_call(folder: &Folder, cache: &Path) {
    let loaded = folder
        .load(&sandbox_in(Some(cache.to_owned())))
        .await
        .unwrap();
    assert!(loaded.refused.is_empty(), "{:?}", loaded.refused);
    let engine = loaded.generation.engine("x").unwrap();
    assert_eq!(engine.subject(&job()).await.unwrap(), "haiku");
}

#[tokio::test]
async fn compiled_once_then_loaded() {
    let cache = tempfile::tempdir().unwrap();
    let folder = Folder::serving().put("x.wasm", &engine().build());
    load_and_call(&folder, cache.path()).await;
    let files = compiled(cache.path());
    assert_eq!(files.len(), 2);
    let written: Vec<_> = files
        .iter()
        .map(|path| path.metadata().unwrap().modified().unwrap())
        .collect();
    load_and_call(&folder, cache.path()).await;
    let again: Vec<_> = compiled(cache.path())
        .iter()
        .map(|path| path.metadata().unwrap().modified().unwrap())
        .collect();
    assert_eq!(written, again);
}

#[tokio::test]
async fn what_does_not_bear_the_seal_is_compiled_anew() {
    let cache = tempfile::tempdir().unwrap();
    let folder = Folder::serving().put("x.wasm", &engine().build());
    load_and_call(&folder, cache.path()).await;
    let originals: Vec<(PathBuf, Vec<u8>)> = compiled(cache.path())
        .into_iter()
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    type Spoil = fn(&mut Vec<u8>);
    let spoil: [(&str, Spoil); 6] = [
        ("flipped in the code", |bytes| {
            *bytes.last_mut().unwrap() ^= 1
        }),
        ("flipped in the middle", |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x80;
        }),
        ("flipped in the seal", |bytes| bytes[10] ^= 1),
        ("flipped in the magic", |bytes| bytes[0] ^= 1),
        ("cut", |bytes| bytes.truncate(20)),
        ("empty", Vec::clear),
    ];
    for (what, spoil) in spoil {
        for (path, bytes) in &originals {
            let mut spoiled = bytes.clone();
            spoil(&mut spoiled);
            std::fs::write(path, spoiled).unwrap();
        }
        load_and_call(&folder, cache.path()).await;
        for (path, _) in &originals {
            // Written again, under the seal, by the compiler.
            assert!(std::fs::read(path).unwrap().len() > 1_000, "{what}");
        }
    }
    // Swapped: each bears a seal, and of another digest.
    std::fs::write(&originals[0].0, &originals[1].1).unwrap();
    load_and_call(&folder, cache.path()).await;
    assert_ne!(std::fs::read(&originals[0].0).unwrap(), originals[1].1);
}

#[tokio::test]
async fn another_installations_seal_is_worth_nothing() {
    let cache = tempfile::tempdir().unwrap();
    let folder = Folder::serving().put("x.wasm", &engine().build());
    load_and_call(&folder, cache.path()).await;
    let before: Vec<Vec<u8>> = compiled(cache.path())
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect();
    std::fs::write(cache.path().join("seal.key"), [7; 32]).unwrap();
    load_and_call(&folder, cache.path()).await;
    let after: Vec<Vec<u8>> = compiled(cache.path())
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect();
    for (before, after) in before.iter().zip(&after) {
        assert_ne!(before[8..40], after[8..40]);
    }
}

#[cfg(unix)]
#[tokio::test]
async fn the_key_is_its_owners_alone() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let cache = tempfile::tempdir().unwrap();
    let dir = cache.path().join("made");
    let _sandbox = sandbox_in(Some(dir.clone()));
    let key = dir.join("seal.key");
    assert_eq!(std::fs::metadata(&key).unwrap().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
    let first = std::fs::read(&key).unwrap();
    let _again = sandbox_in(Some(dir.clone()));
    assert_eq!(std::fs::read(&key).unwrap(), first);
    // One that others could have read is replaced, and so is one of the wrong length.
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let _again = sandbox_in(Some(dir.clone()));
    let second = std::fs::read(&key).unwrap();
    assert_ne!(second, first);
    std::fs::write(&key, b"short").unwrap();
    let _again = sandbox_in(Some(dir));
    assert_eq!(std::fs::read(&key).unwrap().len(), 32);
}

#[tokio::test]
async fn a_cache_that_cannot_be_made_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let options = worker_plugins::SandboxOptions {
        cache_dir: Some(file.path().join("below")),
        ..Default::default()
    };
    let error = worker_plugins::Sandbox::new(options).unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&file.path().display().to_string()),
        "{error}"
    );
}
