//! Releases downloaded from a server on loopback: honest ones, hostile ones, and ones that changed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected has failed"
)]

#[path = "../../../tests/src/archive.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "shared with the whole-program tests"
)]
mod archive;

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use archive::{Entry, file, special, zip};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use worker_backends::{Archive, ArchiveError, ArchiveLimits, ProvisionError, Releases};
use worker_egress::{Egress, Policy};

/// A program's first bytes.
const ELF: &[u8] = b"\x7fELF and the rest";

#[derive(Default)]
struct Shelf {
    files: Mutex<HashMap<String, Vec<u8>>>,
    asked: Mutex<usize>,
}

struct Server {
    base: String,
    shelf: Arc<Shelf>,
    /// Answers wait for a permit.
    gate: Arc<Semaphore>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start() -> Self {
        let (shelf, gate) = (
            Arc::<Shelf>::default(),
            Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new()
            .fallback(serve)
            .with_state((shelf.clone(), gate.clone()));
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            base,
            shelf,
            gate,
            task,
        }
    }

    fn put(&self, name: &str, content: Vec<u8>) -> Archive {
        self.shelf
            .files
            .lock()
            .unwrap()
            .insert(format!("/{name}"), content);
        Archive {
            url: format!("{}/{name}", self.base),
            sha256: None,
            release: Some("r1".to_owned()),
        }
    }

    fn asked(&self) -> usize {
        *self.shelf.asked.lock().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(State((shelf, gate)): State<(Arc<Shelf>, Arc<Semaphore>)>, uri: Uri) -> Response {
    *shelf.asked.lock().unwrap() += 1;
    let _permit = gate.acquire().await.unwrap();
    let found = shelf.files.lock().unwrap().get(uri.path()).cloned();
    match found {
        Some(content) => Body::from(content).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

struct Rig {
    dir: tempfile::TempDir,
    server: Server,
    releases: Releases,
    egress: Egress,
}

impl Rig {
    async fn start() -> Self {
        Self::with_limits(ArchiveLimits::default()).await
    }

    async fn with_limits(limits: ArchiveLimits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let policy = Policy {
            allow_http_loopback: true,
            attempts: 1,
            outage: Duration::ZERO,
            ..Policy::default()
        };
        Self {
            releases: Releases::with_limits(dir.path().join("programs"), limits),
            dir,
            server: Server::start().await,
            egress: Egress::new(policy).unwrap(),
        }
    }

    async fn provide(&self, archive: &Archive) -> Result<PathBuf, ProvisionError> {
        let cancel = CancellationToken::new();
        self.releases
            .provide(archive, "engine", &self.egress, &|_, _| {}, &cancel)
            .await
    }

    /// Everything below the folder of programs but its record: what a refusal must not leave.
    fn left(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for part in ["releases", "staging"] {
            let entries = fs::read_dir(self.dir.path().join("programs").join(part));
            found.extend(
                entries
                    .into_iter()
                    .flatten()
                    .flatten()
                    .map(|entry| entry.path()),
            );
        }
        found
    }

    async fn refused(&self, content: Vec<u8>) -> ArchiveError {
        let archive = self.server.put("hostile.zip", content);
        let error = self.provide(&archive).await.unwrap_err();
        assert!(!error.retryable(), "{error}");
        assert_eq!(
            self.left(),
            Vec::<PathBuf>::new(),
            "nothing is left behind: {error}"
        );
        assert!(
            self.releases.known().unwrap().is_empty(),
            "nor trusted: {error}"
        );
        let ProvisionError::Archive { why, .. } = error else {
            panic!("{error:?}")
        };
        why
    }
}

fn digest(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn two_releases_side_by_side_each_downloaded_once() {
    let rig = Rig::start().await;
    let first = zip(&[
        file("build/bin/engine", ELF),
        file("build/bin/libengine.so", ELF),
        special("build/bin/README", "read me", 0o100_755),
    ]);
    let a = rig.server.put("a.zip", first.clone());
    let b = rig
        .server
        .put("b.zip", zip(&[file("engine", [ELF, b"2"].concat())]));
    assert_eq!(rig.releases.installed(&a, "engine").unwrap(), None);
    let (path_a, path_b) = (
        rig.provide(&a).await.unwrap(),
        rig.provide(&b).await.unwrap(),
    );
    assert_ne!(path_a, path_b);
    assert!(
        path_a.starts_with(
            rig.dir
                .path()
                .join("programs/releases")
                .join(digest(&first))
        )
    );
    assert_eq!(fs::read(&path_a).unwrap(), ELF);
    // Code may be executed, whatever the archive says of anything.
    let beside = |name: &str| path_a.parent().unwrap().join(name);
    assert_eq!(
        [
            mode(&path_a),
            mode(&beside("libengine.so")),
            mode(&beside("README"))
        ],
        [0o755, 0o755, 0o644]
    );
    assert_eq!(rig.releases.installed(&a, "engine").unwrap(), Some(path_a));
    rig.provide(&a).await.unwrap();
    assert_eq!(rig.server.asked(), 2);
    let staging = rig.dir.path().join("programs/staging");
    assert_eq!(fs::read_dir(staging).unwrap().count(), 0);
    // A worker that starts anew finds them.
    let again = Releases::new(rig.dir.path().join("programs"));
    assert_eq!(again.installed(&b, "engine").unwrap(), Some(path_b));
}

#[tokio::test]
async fn two_jobs_share_one_download() {
    let rig = Rig::start().await;
    let archive = rig.server.put("a.zip", zip(&[file("engine", ELF)]));
    rig.server.gate.forget_permits(Semaphore::MAX_PERMITS);
    let (first, second, ()) = tokio::join!(rig.provide(&archive), rig.provide(&archive), async {
        while rig.server.asked() == 0 {
            tokio::task::yield_now().await;
        }
        // Both are under way; whichever would ask a second time has had its chance to.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        rig.server.gate.add_permits(1);
    });
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(rig.server.asked(), 1);
}

#[tokio::test]
async fn one_that_waits_for_another_can_be_cancelled() {
    let rig = Rig::start().await;
    let archive = rig.server.put("a.zip", zip(&[file("engine", ELF)]));
    rig.server.gate.forget_permits(Semaphore::MAX_PERMITS);
    let cancel = CancellationToken::new();
    let waiting = rig
        .releases
        .provide(&archive, "engine", &rig.egress, &|_, _| {}, &cancel);
    let (first, second, ()) = tokio::join!(rig.provide(&archive), waiting, async {
        while rig.server.asked() == 0 {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
        rig.server.gate.add_permits(1);
    });
    first.unwrap();
    assert!(
        matches!(second, Err(ProvisionError::Cancelled)),
        "{second:?}"
    );
}

#[tokio::test]
async fn names_that_lead_out_hide_or_collide() {
    let rig = Rig::start().await;
    let names: [&[u8]; 12] = [
        b"/etc/engine",
        b"../engine",
        b"a/../../engine",
        b"a/./engine",
        b"a//engine",
        b"a\\..\\engine",
        b"C:engine",
        b"en\0gine",
        b"en\x1b[2Jgine",
        b"\xff\xfe",
        b"",
        b"..",
    ];
    for name in names {
        let why = rig
            .refused(zip(&[file("engine", ELF), file(name, "x")]))
            .await;
        assert!(
            matches!(why, ArchiveError::Name { .. }),
            "{name:?}: {why:?}"
        );
        assert!(!why.to_string().chars().any(char::is_control), "{why}");
    }
    let deep = "a/".repeat(40) + "engine";
    for pair in [
        ["engine", "ENGINE"],
        ["Bin/engine", "bin/other"],
        ["bin", "bin/engine"],
        ["bin/engine", "BIN"],
        ["engine", deep.as_str()],
    ] {
        let why = rig.refused(zip(&pair.map(|name| file(name, ELF)))).await;
        assert!(
            matches!(why, ArchiveError::Name { .. }),
            "{pair:?}: {why:?}"
        );
    }
    let why = rig
        .refused(zip(&[file("engine", ELF), file("engine", "other")]))
        .await;
    assert!(matches!(why, ArchiveError::Malformed(_)), "{why:?}");
}

#[tokio::test]
async fn links_and_special_files() {
    let rig = Rig::start().await;
    for (name, content, mode) in [
        ("link", "/etc/passwd", 0o120_777),
        ("link", "engine", 0o120_777),
        ("pipe", "", 0o010_644),
        ("device", "", 0o020_644),
        ("disk", "", 0o060_644),
        ("socket", "", 0o140_644),
        ("folder", "", 0o040_755),
    ] {
        let why = rig
            .refused(zip(&[file("engine", ELF), special(name, content, mode)]))
            .await;
        assert!(
            matches!(why, ArchiveError::Special { .. }),
            "{name} {mode:o}: {why:?}"
        );
    }
}

#[tokio::test]
async fn bombs_lies_and_what_is_no_archive() {
    let rig = Rig::with_limits(ArchiveLimits {
        entries: 20,
        file_bytes: 4 << 20,
        total_bytes: 6 << 20,
        ratio: 100,
    })
    .await;
    let many: Vec<Entry> = (0..21).map(|n| file(format!("f{n}"), "")).collect();
    let why = rig.refused(zip(&many)).await;
    assert!(
        matches!(why, ArchiveError::TooManyEntries { .. }),
        "{why:?}"
    );
    // Three megabytes of zeros in three kilobytes.
    let mut bomb = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let deflated = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Deflated);
    bomb.start_file("engine", deflated).unwrap();
    bomb.write_all(&vec![0; 3 << 20]).unwrap();
    let bomb = bomb.finish().unwrap().into_inner();
    assert!(bomb.len() < 10_000);
    let why = rig.refused(bomb).await;
    assert!(
        matches!(&why, ArchiveError::TooLarge { why, .. } if why.contains("bomb")),
        "{why:?}"
    );
    let large = vec![7; 5 << 20];
    let why = rig.refused(zip(&[file("engine", large)])).await;
    assert!(matches!(why, ArchiveError::TooLarge { .. }), "{why:?}");
    let half = vec![7; 7 << 19];
    let why = rig
        .refused(zip(&[file("engine", half.clone()), file("other", half)]))
        .await;
    assert!(matches!(why, ArchiveError::TooLarge { .. }), "{why:?}");
    // It says two bytes and holds more; and the other way round.
    for claimed in [2, 1 << 20] {
        let liar = Entry {
            claimed: Some(claimed),
            ..file("engine", ELF)
        };
        rig.refused(zip(&[liar])).await;
    }
    let whole = zip(&[file("engine", ELF)]);
    for broken in [
        Vec::new(),
        b"MZ no archive".to_vec(),
        whole[..whole.len() / 2].to_vec(),
        zip(&[]),
    ] {
        let why = rig.refused(broken).await;
        assert!(matches!(why, ArchiveError::Malformed(_)), "{why:?}");
    }
    let mut flipped = whole;
    let at = flipped
        .windows(4)
        .position(|bytes| bytes == b"\x7fELF")
        .unwrap();
    flipped[at] ^= 1;
    rig.refused(flipped).await;
}

#[tokio::test]
async fn an_archive_without_the_program_or_with_two() {
    let rig = Rig::start().await;
    let none = rig.server.put("none.zip", zip(&[file("other", ELF)]));
    let two = rig.server.put(
        "two.zip",
        zip(&[file("a/engine", ELF), file("b/engine", ELF)]),
    );
    for (archive, expected) in [(none, 0), (two, 2)] {
        let error = rig.provide(&archive).await.unwrap_err();
        let ProvisionError::Program { count, .. } = error else {
            panic!("{error:?}")
        };
        assert_eq!(count, expected);
        assert!(!error.retryable());
    }
}

#[tokio::test]
async fn a_pinned_archive_is_that_one_or_none() {
    let rig = Rig::start().await;
    let content = zip(&[file("engine", ELF)]);
    let pinned = |sha256: String| Archive {
        sha256: Some(sha256),
        ..rig.server.put("a.zip", content.clone())
    };
    let error = rig.provide(&pinned(digest(b"other"))).await.unwrap_err();
    assert!(
        matches!(error, ProvisionError::Download(_)) && !error.retryable(),
        "{error:?}"
    );
    assert!(rig.left().is_empty());
    let error = rig.provide(&pinned("short".to_owned())).await.unwrap_err();
    assert!(matches!(error, ProvisionError::Pin { .. }), "{error:?}");
    rig.provide(&pinned(digest(&content).to_uppercase()))
        .await
        .unwrap();
}

#[tokio::test]
async fn an_archive_that_changed_waits_for_the_operator() {
    let rig = Rig::start().await;
    let (old, new) = (
        zip(&[file("engine", ELF)]),
        zip(&[file("engine", [ELF, b"2"].concat())]),
    );
    let archive = rig.server.put("a.zip?token=planted", old.clone());
    rig.server.put("a.zip", old.clone());
    let path = rig.provide(&archive).await.unwrap();
    let record = fs::read_to_string(rig.dir.path().join("programs/archives.json")).unwrap();
    assert!(!record.contains("planted"), "{record}");

    rig.server.put("a.zip", new.clone());
    assert_eq!(
        rig.provide(&archive).await.unwrap(),
        path,
        "what is there is used"
    );
    fs::remove_dir_all(rig.dir.path().join("programs/releases")).unwrap();
    for asked in [2, 2] {
        let error = rig.provide(&archive).await.unwrap_err();
        assert!(
            matches!(&error, ProvisionError::Changed { known, found, .. }
            if *known == digest(&old) && *found == digest(&new)),
            "{error:?}"
        );
        assert!(!error.retryable() && error.to_string().contains("programs accept"));
        assert!(!error.to_string().contains("planted"), "{error}");
        assert_eq!(
            rig.server.asked(),
            asked,
            "the refused one is not asked for again"
        );
        assert!(rig.left().is_empty());
    }
    assert!(rig.releases.installed(&archive, "engine").is_err());
    assert!(rig.releases.accept(&digest(b"never seen")).is_err());
    assert_eq!(rig.releases.accept(&digest(&new)).unwrap().len(), 1);
    let path = rig.provide(&archive).await.unwrap();
    assert_eq!(fs::read(path).unwrap(), [ELF, b"2"].concat());
}

#[tokio::test]
async fn what_was_interrupted_is_swept() {
    let rig = Rig::start().await;
    let staging = rig.dir.path().join("programs/staging/release-left");
    fs::create_dir_all(&staging).unwrap();
    fs::write(staging.join("archive"), "half").unwrap();
    rig.releases.sweep().unwrap();
    assert!(!staging.exists());
    rig.releases.sweep().unwrap();

    // A job that is cancelled while the archive comes leaves nothing either.
    let archive = rig.server.put("a.zip", zip(&[file("engine", ELF)]));
    rig.server.gate.forget_permits(Semaphore::MAX_PERMITS);
    let cancel = CancellationToken::new();
    let provided = rig
        .releases
        .provide(&archive, "engine", &rig.egress, &|_, _| {}, &cancel);
    let (ended, ()) = tokio::join!(provided, async {
        while rig.server.asked() == 0 {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    });
    assert!(matches!(ended, Err(ProvisionError::Cancelled)), "{ended:?}");
    assert!(rig.left().is_empty());
}

#[tokio::test]
async fn a_missing_archive_is_said_and_not_tried_again() {
    let rig = Rig::start().await;
    let archive = Archive {
        url: format!("{}/nothing.zip", rig.server.base),
        sha256: None,
        release: None,
    };
    let error = rig.provide(&archive).await.unwrap_err();
    assert!(
        matches!(error, ProvisionError::Download(_)) && !error.retryable(),
        "{error:?}"
    );
    assert!(error.to_string().contains("404"), "{error}");
}
