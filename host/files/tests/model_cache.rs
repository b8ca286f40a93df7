//! The model cache, on a real file system.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected has failed"
)]

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use worker_files::{
    CacheError, CacheKey, CachedFile, ModelCache, ObtainError, Partial, Received, Verdict,
    WantedFile, quarantined,
};

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

fn by_url(url: &str) -> WantedFile {
    WantedFile {
        url: url.to_owned(),
        sha256: None,
        name: "m.gguf".to_owned(),
        model: "a model/1".to_owned(),
        approx_bytes: None,
    }
}

fn by_digest(text: &str) -> WantedFile {
    WantedFile {
        sha256: Some(digest(text)),
        ..by_url("https://models.example/m.gguf?token=planted")
    }
}

/// A cache, and a network that counts.
struct Rig {
    dir: tempfile::TempDir,
    cache: ModelCache,
    downloads: AtomicUsize,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = ModelCache::open(dir.path()).unwrap();
        Self {
            dir,
            cache,
            downloads: AtomicUsize::new(0),
        }
    }

    async fn get(
        &self,
        wanted: &WantedFile,
        answer: &str,
    ) -> Result<CachedFile, ObtainError<io::Error>> {
        let download = |partial: Partial| async move {
            self.downloads.fetch_add(1, Ordering::SeqCst);
            fs::write(partial.path(), answer)?;
            Ok(Received {
                sha256: digest(answer),
                bytes: answer.len() as u64,
                validator: None,
            })
        };
        let never = CancellationToken::new();
        self.cache.obtain(wanted, &never, || {}, download).await
    }

    fn downloads(&self) -> usize {
        self.downloads.load(Ordering::SeqCst)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn used(&self, wanted: &WantedFile, ago: u64) {
        let lock = self.path(&format!(".studio-worker/use/{}", wanted.key()));
        let file = fs::File::options().write(true).open(lock).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(ago))
            .unwrap();
    }
}

fn cache_error<T: std::fmt::Debug>(result: Result<T, ObtainError<io::Error>>) -> CacheError {
    match result {
        Err(ObtainError::Cache(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn files_in(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn a_file_is_kept_under_its_key() {
    let rig = Rig::new();
    let (content, url) = (by_digest("model"), by_url(&by_digest("model").url));
    let file = rig.get(&content, "model").await.unwrap();
    assert!(file.verified && file.size == 5);
    assert_eq!(fs::read(&file.path).unwrap(), b"model");
    assert_eq!(fs::metadata(&file.path).unwrap().mode() & 0o777, 0o444);
    // What comes by URL alone is another file, and never taken for a verified one, nor the other way round.
    let other = rig.get(&url, "else").await.unwrap();
    assert!(!other.verified && other.path != file.path);
    assert_eq!(fs::read(&file.path).unwrap(), b"model");
    assert_eq!(rig.downloads(), 2);
    // Both are there for the next start, with no download.
    let again = ModelCache::open(rig.dir.path()).unwrap();
    assert_eq!(
        again.lookup(&content.key()).unwrap().unwrap().path,
        file.path
    );
    assert_eq!(again.lookup(&url.key()).unwrap().unwrap().path, other.path);
    rig.get(&content, "x").await.unwrap();
    rig.get(&url, "x").await.unwrap();
    assert_eq!(rig.downloads(), 2);
    // Nothing of a URL is on the disk.
    for entry in files_in(&rig.path(".studio-worker/index")) {
        assert!(!fs::read_to_string(entry).unwrap().contains("planted"));
    }
}

#[tokio::test]
async fn what_is_not_the_file_is_never_kept() {
    let rig = Rig::new();
    let wanted = by_digest("model");
    assert!(matches!(
        cache_error(rig.get(&wanted, "other").await),
        CacheError::Digest { .. }
    ));
    assert!(rig.cache.lookup(&wanted.key()).unwrap().is_none());
    assert!(files_in(&rig.path(".studio-worker/partial")).is_empty());
    let short = |partial: Partial| async move {
        fs::write(partial.path(), "mod")?;
        Ok::<_, io::Error>(Received {
            sha256: digest("model"),
            bytes: 5,
            validator: None,
        })
    };
    let never = CancellationToken::new();
    let short = rig.cache.obtain(&wanted, &never, || {}, short).await;
    assert!(matches!(
        cache_error(short),
        CacheError::Length {
            wanted: 5,
            found: 3,
            ..
        }
    ));
    // A download that broke leaves what came, for the next to go on from.
    let broken = |partial: Partial| async move {
        fs::write(partial.path(), "mo")?;
        Err::<Received, _>(io::Error::other("cut"))
    };
    let broken = rig.cache.obtain(&wanted, &never, || {}, broken).await;
    assert!(matches!(broken, Err(ObtainError::Download(_))));
    let left = rig.cache.partials().unwrap();
    assert!(left.len() == 1 && left[0].key == wanted.key() && !left[0].in_flight);
    let going_on = |partial: Partial| async move {
        assert_eq!(fs::read(partial.path())?, b"mo");
        fs::write(partial.path(), "model")?;
        Ok::<_, io::Error>(Received {
            sha256: digest("model"),
            bytes: 5,
            validator: None,
        })
    };
    let whole = rig.cache.obtain(&wanted, &never, || {}, going_on).await;
    assert_eq!(fs::read(whole.unwrap().path).unwrap(), b"model");
    assert!(rig.cache.partials().unwrap().is_empty());
}

#[tokio::test]
async fn many_that_want_one_file_share_one_download() {
    let rig = Rig::new();
    let (wanted, waited) = (by_digest("model"), AtomicUsize::new(0));
    let (begun, go) = (tokio::sync::Notify::new(), tokio::sync::Notify::new());
    let never = CancellationToken::new();
    let first = rig.cache.obtain(
        &wanted,
        &never,
        || {},
        |partial| async {
            begun.notify_one();
            go.notified().await;
            let partial: Partial = partial;
            fs::write(partial.path(), "model")?;
            Ok::<_, io::Error>(Received {
                sha256: digest("model"),
                bytes: 5,
                validator: None,
            })
        },
    );
    // Another process has another cache; the lock is the system's.
    let other = ModelCache::open(rig.dir.path()).unwrap();
    let second = async {
        begun.notified().await;
        assert!(other.partials().unwrap().is_empty());
        let waiting = || {
            waited.fetch_add(1, Ordering::SeqCst);
            go.notify_one();
        };
        let none = |_: Partial| async { Err::<Received, _>(io::Error::other("a second download")) };
        other.obtain(&wanted, &never, waiting, none).await
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!(first.unwrap().path, second.unwrap().path);
    assert_eq!(waited.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn whoever_waits_can_be_cancelled() {
    let rig = Rig::new();
    let wanted = by_digest("model");
    let lock = rig.path(&format!(".studio-worker/flight/{}", wanted.key()));
    let lock = fs::File::create(lock).unwrap();
    lock.lock().unwrap();
    let cancel = CancellationToken::new();
    let none = |_: Partial| async { Err::<Received, _>(io::Error::other("no download")) };
    let told = cancel.clone();
    let waited = rig
        .cache
        .obtain(&wanted, &cancel, move || told.cancel(), none)
        .await;
    assert!(matches!(cache_error(waited), CacheError::Cancelled));
}

#[tokio::test]
async fn a_file_that_was_touched_is_hashed_and_one_that_was_changed_is_set_aside() {
    let rig = Rig::new();
    for wanted in [by_digest("model"), by_url("https://a/m")] {
        let path = rig.get(&wanted, "model").await.unwrap().path;
        let file = fs::File::open(&path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(60))
            .unwrap();
        let again = rig.cache.lookup(&wanted.key()).unwrap().unwrap();
        assert_eq!(again.path, path, "touched, but the same");
        again.check().unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&path, "MODEL").unwrap();
        assert!(matches!(again.check(), Err(CacheError::Changed { .. })));
        drop(again);
        let before = rig.downloads();
        let brought = rig.get(&wanted, "model").await.unwrap();
        assert_eq!(rig.downloads(), before + 1);
        assert_eq!(fs::read(brought.path).unwrap(), b"model");
    }
    let aside = files_in(&rig.path(".studio-worker/quarantine"));
    assert_eq!(aside.len(), 2);
    for path in aside {
        assert_eq!(fs::read(path).unwrap(), b"MODEL");
    }
}

#[tokio::test]
async fn a_link_in_the_place_of_a_file_is_refused() {
    let rig = Rig::new();
    let wanted = by_digest("model");
    let path = rig.get(&wanted, "model").await.unwrap().path;
    fs::remove_file(&path).unwrap();
    symlink("/etc/passwd", &path).unwrap();
    assert!(matches!(
        rig.cache.lookup(&wanted.key()),
        Err(CacheError::NotRegular { .. })
    ));
    // A record that points elsewhere is none.
    fs::remove_file(&path).unwrap();
    let record = rig.path(&format!(".studio-worker/index/{}.json", wanted.key()));
    for text in ["{", "{}", r#"{"version":1}"#] {
        fs::write(&record, text).unwrap();
        assert!(rig.cache.lookup(&wanted.key()).unwrap().is_none(), "{text}");
    }
}

#[tokio::test]
async fn an_older_workers_file_is_used_where_it_lies() {
    let rig = Rig::new();
    for folder in ["a_model_1", "elsewhere", "other"] {
        fs::create_dir(rig.path(folder)).unwrap();
    }
    // Two models, one name; a digest tells which is which, in whatever folder.
    fs::write(rig.path("m.gguf"), "flat").unwrap();
    fs::write(rig.path("elsewhere/m.gguf"), "model").unwrap();
    let found = rig.get(&by_digest("model"), "-").await.unwrap();
    assert_eq!(
        found.path,
        fs::canonicalize(rig.path("elsewhere/m.gguf")).unwrap()
    );
    assert!(found.verified);
    assert!(rig.get(&by_digest("flat"), "-").await.unwrap().verified);
    assert_eq!(rig.downloads(), 0);
    // Hashed once: what was found out lies by path and look.
    assert_eq!(files_in(&rig.path(".studio-worker/hashes")).len(), 2);
    // None has this digest: fetched.
    let third = rig.get(&by_digest("third"), "third").await.unwrap();
    assert!(
        third
            .path
            .starts_with(fs::canonicalize(rig.path(".studio-worker")).unwrap())
    );
    assert_eq!(rig.downloads(), 1);

    // Without a digest: the model's own folder, for the first URL alone, unverified.
    fs::write(rig.path("a_model_1/m.gguf"), "own").unwrap();
    let own = rig.get(&by_url("https://a/m"), "-").await.unwrap();
    assert!(!own.verified && fs::read(&own.path).unwrap() == b"own");
    let stranger = WantedFile {
        model: "other".to_owned(),
        ..by_url("https://b/m")
    };
    let flat = rig.get(&stranger, "-").await.unwrap();
    assert_eq!(fs::read(&flat.path).unwrap(), b"flat");
    let later = rig.get(&by_url("https://c/m"), "fetched").await.unwrap();
    assert_eq!(fs::read(&later.path).unwrap(), b"fetched");
    assert_eq!(rig.downloads(), 2);

    // It is the operator's: not ours to remove, and of no use when it changes and nobody knows its digest.
    let key = own.key;
    drop(own);
    assert!(matches!(
        rig.cache.remove(&key),
        Err(CacheError::Adopted { .. })
    ));
    fs::write(rig.path("a_model_1/m.gguf"), "changed").unwrap();
    assert!(matches!(
        cache_error(rig.get(&by_url("https://a/m"), "-").await),
        CacheError::Changed { .. }
    ));
    // One whose digest is known is fetched instead; nothing is moved.
    fs::write(rig.path("elsewhere/m.gguf"), "broken").unwrap();
    rig.get(&by_digest("model"), "model").await.unwrap();
    assert_eq!(rig.downloads(), 3);
    assert_eq!(fs::read(rig.path("elsewhere/m.gguf")).unwrap(), b"broken");
}

#[tokio::test]
async fn a_size_that_cannot_be_right_is_no_match() {
    let rig = Rig::new();
    fs::write(rig.path("m.gguf"), vec![0; 1000]).unwrap();
    for (approx, adopted) in [(500, false), (2000, false), (1050, true)] {
        let wanted = WantedFile {
            approx_bytes: Some(approx),
            ..by_url("https://a/m")
        };
        let before = rig.downloads();
        let file = rig.get(&wanted, "came").await.unwrap();
        assert_eq!(rig.downloads() == before, adopted, "{approx}");
        drop(file);
        let _ = rig.cache.remove(&wanted.key());
    }
}

#[tokio::test]
async fn the_budget_takes_what_was_used_longest_ago() {
    let mut rig = Rig::new();
    rig.cache = rig.cache.clone().with_budget(Some(4000));
    let wanted: Vec<WantedFile> = (0..5)
        .map(|n| WantedFile {
            approx_bytes: Some(1000),
            name: format!("m{n}"),
            ..by_url(&format!("https://a/{n}"))
        })
        .collect();
    let body = "x".repeat(1000);
    for (n, wanted) in wanted.iter().take(4).enumerate() {
        rig.get(wanted, &body).await.unwrap();
        rig.used(wanted, 100 - n as u64);
    }
    // The oldest is in use, the next pinned: the third goes.
    let held = rig.cache.lookup(&wanted[0].key()).unwrap().unwrap();
    rig.used(&wanted[0], 100);
    rig.cache.pin(&wanted[1].key(), true).unwrap();
    rig.get(&wanted[4], &body).await.unwrap();
    let names = |cache: &ModelCache| -> Vec<String> {
        let entries = cache.list().unwrap();
        entries.into_iter().map(|entry| entry.name).collect()
    };
    assert_eq!(names(&rig.cache), ["m0", "m1", "m3", "m4"]);
    assert!(matches!(
        rig.cache.remove(&wanted[1].key()),
        Err(CacheError::Pinned { .. })
    ));
    assert!(matches!(
        rig.cache.remove(&wanted[0].key()),
        Err(CacheError::InUse { .. })
    ));
    // Nothing that may go makes enough room: said, and nobody's file is lost for it. Nor for one larger than the budget.
    for bytes in [3000, 5000] {
        let large = WantedFile {
            approx_bytes: Some(bytes),
            ..by_url("https://a/large")
        };
        assert!(matches!(
            cache_error(rig.get(&large, &body).await),
            CacheError::Budget { held: 2000, needed, .. } if needed == bytes
        ));
        assert_eq!(names(&rig.cache), ["m0", "m1", "m3", "m4"]);
    }
    drop(held);
    let freed = rig.cache.collect_garbage(Some(0)).unwrap();
    assert_eq!(
        (freed.names.as_slice(), freed.left),
        (&["m0", "m3", "m4"].map(str::to_owned)[..], 1000)
    );
    // A file without a record is nobody's.
    let orphan = rig.path(".studio-worker/blobs").join("00".repeat(32));
    fs::write(&orphan, "left").unwrap();
    rig.cache.collect_garbage(None).unwrap();
    assert!(!orphan.exists());
}

#[tokio::test]
async fn no_room_on_the_disk_is_said_before_anything_comes() {
    let rig = Rig::new();
    let wanted = WantedFile {
        approx_bytes: Some(1 << 60),
        ..by_url("https://a/huge")
    };
    assert!(matches!(
        cache_error(rig.get(&wanted, "x").await),
        CacheError::Space { needed, .. } if needed > 1 << 60
    ));
    assert_eq!(rig.downloads(), 0);
}

/// What the budget would have go is kept where the disk has no room all the same.
#[tokio::test]
async fn nothing_goes_for_the_budget_where_the_disk_has_no_room() {
    const HUGE: u64 = 1 << 60;
    let mut rig = Rig::new();
    let body = "x".repeat(1000);
    let model = |name: &str, bytes: u64| WantedFile {
        approx_bytes: Some(bytes),
        name: name.to_owned(),
        ..by_url(&format!("https://a/{name}"))
    };
    for name in ["a", "b"] {
        rig.get(&model(name, 1000), &body).await.unwrap();
    }
    // Room for the new file beside one of the two.
    rig.cache = rig.cache.clone().with_budget(Some(HUGE + 1500));
    let refused = cache_error(rig.get(&model("huge", HUGE), &body).await);
    assert!(
        matches!(refused, CacheError::Space { needed, .. } if needed > HUGE),
        "{refused:?}"
    );
    assert_eq!((rig.cache.list().unwrap().len(), rig.downloads()), (2, 2));
}

#[tokio::test]
async fn partial_downloads_are_given_up_by_age_but_not_in_flight() {
    let rig = Rig::new();
    let keys = [[1; 32], [2; 32], [3; 32]].map(CacheKey::Content);
    let old = SystemTime::now() - Duration::from_secs(30 * 24 * 60 * 60);
    let place = |key: &CacheKey| rig.path(&format!(".studio-worker/partial/{key}"));
    for key in &keys {
        fs::write(place(key), "part").unwrap();
    }
    for key in &keys[..2] {
        let file = fs::File::options().write(true).open(place(key)).unwrap();
        file.set_modified(old).unwrap();
    }
    let flight = rig.path(&format!(".studio-worker/flight/{}", keys[1]));
    let flight = fs::File::create(flight).unwrap();
    flight.lock().unwrap();
    let cache = ModelCache::open(rig.dir.path()).unwrap();
    let left: Vec<CacheKey> = cache
        .partials()
        .unwrap()
        .iter()
        .map(|partial| partial.key)
        .collect();
    assert_eq!(left, keys[1..]);
}

/// What lies in the cache unfinished takes room like all else, and goes in its turn.
#[tokio::test]
async fn partial_downloads_count_and_go_like_models() {
    let mut rig = Rig::new();
    let keys = [[1; 32], [2; 32]].map(CacheKey::Content);
    let place = |key: &CacheKey| rig.path(&format!(".studio-worker/partial/{key}"));
    let [idle, flown] = keys.map(|key| {
        fs::write(place(&key), vec![1; 64 << 10]).unwrap();
        fs::write(place(&key).with_extension("resume"), "{}").unwrap();
        place(&key)
    });
    let flight = rig.path(&format!(".studio-worker/flight/{}", keys[1]));
    let flight = fs::File::create(flight).unwrap();
    flight.lock().unwrap();
    rig.cache = rig.cache.clone().with_budget(Some(100 << 10));
    let model = |name: &str| WantedFile {
        approx_bytes: Some(30 << 10),
        ..by_url(&format!("https://a/{name}"))
    };
    let body = "x".repeat(30 << 10);
    rig.get(&model("first"), &body).await.unwrap();
    assert!(idle.exists(), "there is room for both");
    rig.get(&model("second"), &body).await.unwrap();
    assert!(!idle.exists() && !idle.with_extension("resume").exists());
    assert!(flown.exists(), "somebody brings it");
    assert_eq!(rig.cache.list().unwrap().len(), 2);
}

#[test]
fn what_a_killed_worker_was_writing_goes_and_what_is_being_written_stays() {
    let rig = Rig::new();
    let old = SystemTime::now() - Duration::from_secs(2 * 60 * 60);
    for folder in ["index", "hashes"] {
        let place = |name: &str| rig.path(&format!(".studio-worker/{folder}/{name}"));
        let names = [
            "url-00.json.0011223344556677.new",
            "url-00.json.8899aabbccddeeff.new",
            "url-00.json",
            "other.new",
        ];
        for (name, is_old) in names.iter().zip([true, false, true, true]) {
            fs::write(place(name), "{}").unwrap();
            if is_old {
                let file = fs::File::options().write(true).open(place(name)).unwrap();
                file.set_modified(old).unwrap();
            }
        }
        ModelCache::open(rig.dir.path()).unwrap();
        let left = names.map(|name| place(name).exists());
        assert_eq!(left, [false, true, true, true], "{folder}");
    }
}

#[tokio::test]
async fn what_was_set_aside_goes_after_two_weeks() {
    let rig = Rig::new();
    let held = rig.get(&by_digest("model"), "model").await.unwrap();
    let path = held.path.clone();
    drop(held);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, "other").unwrap();
    let other = rig.cache.list().unwrap().remove(0);
    assert_eq!(
        rig.cache.verify(&other.key).unwrap().verdict,
        Verdict::Damaged
    );
    let (count, bytes) = quarantined(rig.dir.path());
    assert!(count == 1 && bytes > 0, "{count} {bytes}");
    // The file itself is as old as it was; its name says since when it is here.
    let folder = rig.path(".studio-worker/quarantine");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let (now, day) = (now.unwrap().as_secs(), 24 * 60 * 60);
    let old = folder.join(format!("{}.{}.00", other.key, now - 15 * day));
    let new = folder.join(format!("{}.{}.00", other.key, now - 13 * day));
    for file in [&old, &new] {
        fs::write(file, "x").unwrap();
    }
    let freed = rig.cache.collect_garbage(None).unwrap();
    assert_eq!(freed.set_aside, 1);
    assert!(!old.exists() && new.exists());
    assert_eq!(quarantined(rig.dir.path()).0, 2);
    // A worker that starts does the same, with a name of before there was a time in it, too.
    let older = folder.join(format!("{}.00", other.key));
    fs::write(&older, "x").unwrap();
    let then = SystemTime::now() - Duration::from_secs(15 * day);
    let file = fs::File::options().write(true).open(&older).unwrap();
    file.set_modified(then).unwrap();
    ModelCache::open(rig.dir.path()).unwrap();
    assert!(!older.exists() && new.exists());
}

/// What is being brought has its record before its file: whoever comes in between does not take it for lost.
#[tokio::test]
async fn a_record_whose_file_is_on_its_way_is_left_alone() {
    let rig = Rig::new();
    let held = rig.get(&by_digest("model"), "model").await.unwrap();
    let (path, key) = (held.path.clone(), held.key);
    drop(held);
    let record = rig.path(&format!(".studio-worker/index/{key}.json"));
    fs::remove_file(&path).unwrap();
    let flight = rig.path(&format!(".studio-worker/flight/{key}"));
    let flight = fs::File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(flight)
        .unwrap();
    flight.lock().unwrap();
    assert!(rig.cache.lookup(&key).unwrap().is_none());
    assert!(record.exists());
    drop(flight);
    assert!(rig.cache.lookup(&key).unwrap().is_none());
    assert!(!record.exists(), "nobody brings it");
}

/// Checked on demand, a file is checked on the disk, and is on it for good from then on.
#[tokio::test]
async fn a_file_that_was_checked_is_settled() {
    let rig = Rig::new();
    let held = rig.get(&by_digest("model"), "model").await.unwrap();
    let key = held.key;
    drop(held);
    let record = rig.path(&format!(".studio-worker/index/{key}.json"));
    let mut told: serde_json::Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    told["unsettled"] = "another start".into();
    fs::write(&record, told.to_string()).unwrap();
    assert_eq!(rig.cache.verify(&key).unwrap().verdict, Verdict::Whole);
    let told = fs::read_to_string(&record).unwrap();
    assert!(!told.contains("another start"), "{told}");
}

#[tokio::test]
async fn entries_are_found_by_name_and_id_and_checked_on_demand() {
    let rig = Rig::new();
    let (a, b) = (by_digest("one"), by_digest("two"));
    rig.get(&a, "one").await.unwrap();
    let damaged = rig.get(&b, "two").await.unwrap();
    assert!(matches!(
        rig.cache.find_entry("m.gguf"),
        Err(CacheError::Ambiguous { .. })
    ));
    assert!(matches!(
        rig.cache.find_entry("nobody"),
        Err(CacheError::Unknown { .. })
    ));
    let id = a.key().to_string();
    assert_eq!(rig.cache.find_entry(&id[..16]).unwrap(), a.key());
    assert_eq!(rig.cache.find_entry(&id[7..16]).unwrap(), a.key());
    // The same size, time and inode: only reading tells.
    let time = fs::metadata(&damaged.path).unwrap().modified().unwrap();
    fs::set_permissions(&damaged.path, fs::Permissions::from_mode(0o644)).unwrap();
    let file = fs::File::options().write(true).open(&damaged.path).unwrap();
    io::Write::write_all(&mut &file, b"TWO").unwrap();
    file.set_modified(time).unwrap();
    let verdict = |key: CacheKey| rig.cache.verify(&key).unwrap().verdict;
    assert_eq!(verdict(a.key()), Verdict::Whole);
    assert_eq!(verdict(b.key()), Verdict::Damaged);
    assert!(rig.cache.lookup(&b.key()).unwrap().is_none());
    assert_eq!(files_in(&rig.path(".studio-worker/quarantine")).len(), 1);
}

/// Large enough to be put on the disk behind the job's back; sparse, so that no test writes it.
const LARGE: u64 = 64 << 20;

/// A large file, brought once, with what was computed of it.
async fn large(rig: &Rig) -> (WantedFile, CachedFile) {
    let zeros = vec![0; usize::try_from(LARGE).unwrap()];
    let sha256: [u8; 32] = Sha256::digest(zeros).into();
    let wanted = WantedFile {
        sha256: Some(sha256),
        ..by_url("https://models.example/large.gguf")
    };
    let download = |partial: Partial| async move {
        rig.downloads.fetch_add(1, Ordering::SeqCst);
        fs::File::create(partial.path())?.set_len(LARGE)?;
        Ok::<_, io::Error>(Received {
            sha256,
            bytes: LARGE,
            validator: None,
        })
    };
    let never = CancellationToken::new();
    let file = rig.cache.obtain(&wanted, &never, || {}, download).await;
    (wanted, file.unwrap())
}

impl Rig {
    fn record(&self, wanted: &WantedFile) -> PathBuf {
        self.path(&format!(".studio-worker/index/{}.json", wanted.key()))
    }

    fn recorded(&self, wanted: &WantedFile) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.record(wanted)).unwrap()).unwrap()
    }

    async fn settled(&self, wanted: &WantedFile) {
        while !self.recorded(wanted)["unsettled"].is_null() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// As the record stands when the machine went down before the file was on the disk.
    async fn machine_goes_down(&self, wanted: &WantedFile) {
        self.settled(wanted).await;
        let mut record = self.recorded(wanted);
        record["unsettled"] = "another start".into();
        fs::write(self.record(wanted), record.to_string()).unwrap();
    }
}

#[tokio::test]
async fn a_large_file_is_put_on_the_disk_later_and_hashed_again_after_a_crash_before_that() {
    let rig = Rig::new();
    let (wanted, file) = large(&rig).await;
    assert_eq!(file.size, LARGE);
    rig.settled(&wanted).await;
    large(&rig).await;
    assert_eq!(rig.downloads(), 1);
    // Whole all the same: once hashed, it is like any other.
    rig.machine_goes_down(&wanted).await;
    assert!(rig.cache.lookup(&wanted.key()).unwrap().is_some());
    assert!(rig.recorded(&wanted)["unsettled"].is_null());
    // Cut: of the same look, but with other bytes.
    rig.machine_goes_down(&wanted).await;
    let path = file.path.clone();
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let cut = fs::File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&cut, b"lost", LARGE / 2).unwrap();
    cut.set_modified(before).unwrap();
    drop((cut, file));
    large(&rig).await;
    assert_eq!(rig.downloads(), 2, "it was fetched again");
}

#[tokio::test]
async fn a_large_file_whose_worker_was_killed_is_put_on_the_disk_by_the_next_that_uses_it() {
    let rig = Rig::new();
    let (wanted, _) = large(&rig).await;
    rig.settled(&wanted).await;
    let start = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let mut record = rig.recorded(&wanted);
    record["unsettled"] = start.trim().into();
    fs::write(rig.record(&wanted), record.to_string()).unwrap();
    large(&rig).await;
    rig.settled(&wanted).await;
    assert_eq!(rig.downloads(), 1);
}
