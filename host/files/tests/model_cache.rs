//! The model cache, on a real file system.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected has failed"
)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use worker_files::{CacheError, CacheKey, CachedFile, ModelCache, Received};

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

async fn bring(cache: &ModelCache, key: CacheKey, text: &str) -> Result<CachedFile, CacheError> {
    let pending = cache.begin(&key).unwrap();
    fs::write(pending.path(), text).unwrap();
    cache
        .commit(
            pending,
            Received {
                sha256: digest(text),
                bytes: text.len() as u64,
            },
        )
        .await
}

fn all_files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                all_files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

#[tokio::test]
async fn a_file_is_kept_under_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let cache = ModelCache::open(dir.path()).unwrap();
    let url = "https://models.example/m.gguf?token=planted";
    let (by_content, by_url) = (
        ModelCache::key_for(Some(digest("model")), url),
        ModelCache::key_for(None, url),
    );
    assert_eq!(cache.lookup(&by_content).unwrap(), None);
    let file = bring(&cache, by_content, "model").await.unwrap();
    assert!(file.verified && file.size == 5);
    assert_eq!(cache.lookup(&by_content).unwrap(), Some(file.clone()));
    assert_eq!(fs::read(&file.path).unwrap(), b"model");
    // What came by URL alone is another file, and never taken for a verified one.
    assert_eq!(cache.lookup(&by_url).unwrap(), None);
    let other = bring(&cache, by_url, "else").await.unwrap();
    assert!(!other.verified);
    assert_eq!(fs::read(&file.path).unwrap(), b"model");
    let paths = all_files(dir.path());
    assert_eq!(paths.len(), 2);
    assert!(
        paths
            .iter()
            .all(|path| !path.to_str().unwrap().contains("planted"))
    );
    // Still there for the next start.
    assert_eq!(
        ModelCache::open(dir.path())
            .unwrap()
            .lookup(&by_content)
            .unwrap(),
        Some(file)
    );
}

#[tokio::test]
async fn what_is_not_the_file_is_never_kept() {
    let dir = tempfile::tempdir().unwrap();
    let cache = ModelCache::open(dir.path()).unwrap();
    let key = CacheKey::Content(digest("model"));
    assert!(matches!(
        bring(&cache, key, "other").await,
        Err(CacheError::Digest { .. })
    ));
    let pending = cache.begin(&key).unwrap();
    fs::write(pending.path(), "mod").unwrap();
    let short = cache
        .commit(
            pending,
            Received {
                sha256: digest("model"),
                bytes: 5,
            },
        )
        .await;
    assert!(matches!(
        short,
        Err(CacheError::Length {
            wanted: 5,
            found: 3,
            ..
        })
    ));
    let pending = cache.begin(&key).unwrap();
    let never_written = cache
        .commit(
            pending,
            Received {
                sha256: digest("model"),
                bytes: 5,
            },
        )
        .await;
    assert!(matches!(never_written, Err(CacheError::Io { .. })));
    let pending = cache.begin(&key).unwrap();
    fs::write(pending.path(), "given up").unwrap();
    drop(pending);
    assert_eq!(cache.lookup(&key).unwrap(), None);
    assert!(all_files(dir.path()).is_empty());
}

#[tokio::test]
async fn two_that_bring_one_file_do_not_meet() {
    let dir = tempfile::tempdir().unwrap();
    let cache = ModelCache::open(dir.path()).unwrap();
    let key = CacheKey::Content(digest("model"));
    let (one, two) = (cache.begin(&key).unwrap(), cache.begin(&key).unwrap());
    assert_ne!(one.path(), two.path());
    for pending in [one, two] {
        fs::write(pending.path(), "model").unwrap();
        cache
            .commit(
                pending,
                Received {
                    sha256: digest("model"),
                    bytes: 5,
                },
            )
            .await
            .unwrap();
    }
    assert_eq!(all_files(dir.path()).len(), 1);
}

#[test]
fn a_link_in_the_place_of_a_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let cache = ModelCache::open(dir.path()).unwrap();
    let key = CacheKey::Content([7; 32]);
    symlink(
        "/etc/passwd",
        dir.path()
            .join(".studio-worker/blobs")
            .join("07".repeat(32)),
    )
    .unwrap();
    assert!(matches!(
        cache.lookup(&key),
        Err(CacheError::NotRegular { .. })
    ));
}
