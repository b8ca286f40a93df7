//! The spool and the aside by themselves.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "helpers of tests fail like tests"
)]

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use worker_delivery::{
    Aside, AsideError, AsideLimits, KeepError, Kept, MediaContent, Payload, Product, Spool,
};
use worker_wire::JobId;

fn product(job: &str, payload: Payload) -> Product {
    Product {
        job_id: JobId::parse(job).unwrap(),
        kind: "k".into(),
        model: "m".into(),
        prompt: "p".into(),
        studio: "http://studio".into(),
        worker_id: "w".into(),
        session: 1,
        finished_at: SystemTime::now(),
        payload,
    }
}

fn media(content: MediaContent, ext: &str) -> Payload {
    Payload::Media {
        content,
        ext: ext.into(),
        media_type: None,
    }
}

fn bytes(size: usize) -> Payload {
    media(MediaContent::Bytes(vec![7; size].into()), "bin")
}

async fn keep_aside(root: &Path, limits: AsideLimits, job: &str, payload: Payload) -> Kept {
    let spool = Spool::open_with_limits(&root.join("spool"), &root.join("aside"), limits).unwrap();
    let kept = spool.keep(product(job, payload)).await.unwrap();
    let http = {
        let _ = rustls::crypto::ring::default_provider().install_default();
        reqwest::Client::new()
    };
    let delivery = worker_delivery::Delivery::new(spool, http, std::sync::Arc::new(|_| {}));
    delivery.keep_aside(&kept, "no").await;
    kept
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_owner_can_look() {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().unwrap();
    let (dir, aside) = (root.path().join("spool"), root.path().join("aside"));
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    let made = root.path().join("made");
    fs::write(&made, "x").unwrap();
    fs::set_permissions(&made, fs::Permissions::from_mode(0o644)).unwrap();
    let spool = Spool::open(&dir, &aside).unwrap();
    spool
        .keep(product("j", media(MediaContent::File(made), "bin")))
        .await
        .unwrap();
    spool.keep(product("j", bytes(1))).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir), mode(&aside)), (0o700, 0o700));
    // A row and its media, and one that is kept in place.
    for (dir, files) in [(dir, 2), (root.path().join("spool-in-place"), 1)] {
        assert_eq!(mode(&dir), 0o700);
        let entries = fs::read_dir(&dir).unwrap();
        let modes: Vec<u32> = entries.map(|entry| mode(&entry.unwrap().path())).collect();
        assert_eq!(modes, vec![0o600; files]);
    }
}

#[tokio::test]
async fn what_is_no_product_is_refused_and_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("spool");
    let spool = Spool::open(&dir, &root.path().join("aside")).unwrap();
    let missing = || MediaContent::File(root.path().join("missing"));
    assert!(matches!(
        spool
            .keep(product("j", Payload::Json("{\"a\":".into())))
            .await,
        Err(KeepError::NotJson { .. })
    ));
    for ext in [
        "",
        "../x",
        "a b",
        "tar.gz",
        "e\"x",
        "abcdefghijklmnopq",
        "é",
    ] {
        let refused = spool
            .keep(product("j", media(MediaContent::Bytes("x".into()), ext)))
            .await;
        assert!(matches!(refused, Err(KeepError::Extension { .. })), "{ext}");
    }
    assert!(matches!(
        spool.keep(product("j", media(missing(), "bin"))).await,
        Err(KeepError::Disk { .. })
    ));
    #[cfg(unix)]
    {
        let link = root.path().join("link");
        std::os::unix::fs::symlink("/etc/hostname", &link).unwrap();
        let refused = spool
            .keep(product("j", media(MediaContent::File(link.clone()), "bin")))
            .await;
        assert!(matches!(refused, Err(KeepError::Disk { .. })));
        assert!(link.is_symlink(), "it is where it was");
    }
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
}

#[tokio::test]
async fn the_oldest_make_room() {
    let root = tempfile::tempdir().unwrap();
    let limits = AsideLimits {
        entries: 3,
        bytes: 1 << 20,
    };
    for job in 0..5 {
        keep_aside(root.path(), limits, &format!("job-{job}"), bytes(10)).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let jobs = |aside: &Aside| -> Vec<String> {
        aside.list().unwrap().into_iter().map(|e| e.job).collect()
    };
    let aside = Aside::at(&root.path().join("aside"));
    assert_eq!(jobs(&aside), ["job-2", "job-3", "job-4"]);
    // One that fills the rest on its own.
    keep_aside(root.path(), limits, "large", bytes((1 << 20) - 500)).await;
    assert_eq!(jobs(&aside), ["large"]);
    let files = fs::read_dir(root.path().join("aside")).unwrap().count();
    assert_eq!(files, 2);
}

#[tokio::test]
async fn one_is_found_by_its_id_or_by_its_job() {
    let root = tempfile::tempdir().unwrap();
    let limits = AsideLimits::default();
    let one = keep_aside(root.path(), limits, "one", bytes(1)).await;
    let twice = keep_aside(root.path(), limits, "twice", Payload::Json("{}".into())).await;
    keep_aside(root.path(), limits, "twice", bytes(1)).await;
    let aside = Aside::at(&root.path().join("aside"));
    assert_eq!(aside.find("one").unwrap().id, *one.id());
    assert_eq!(aside.find(twice.id().as_str()).unwrap().job, "twice");
    assert!(matches!(
        aside.find("twice"),
        Err(AsideError::Several { count: 2, .. })
    ));
    assert!(matches!(aside.find("../one"), Err(AsideError::None { .. })));
    assert!(aside.remove(one.id()).unwrap());
    assert!(!aside.remove(one.id()).unwrap(), "gone already");
    assert!(matches!(aside.find("one"), Err(AsideError::None { .. })));
}

#[tokio::test]
async fn writing_out_is_all_or_nothing() {
    let root = tempfile::tempdir().unwrap();
    keep_aside(root.path(), AsideLimits::default(), "one", bytes(9)).await;
    let aside = Aside::at(&root.path().join("aside"));
    let entry = aside.find("one").unwrap();
    let out = root.path().join("out");
    fs::create_dir(&out).unwrap();
    let file = out.join("file.bin");
    aside.write_out(&entry, &file).unwrap();
    assert_eq!(fs::read(&file).unwrap(), [7; 9]);
    aside.remove(&entry.id).unwrap();
    assert!(matches!(
        aside.write_out(&entry, &file),
        Err(AsideError::Disk(_))
    ));
    assert_eq!(fs::read(&file).unwrap(), [7; 9], "as it was");
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
}

#[test]
fn an_aside_that_is_not_there_is_empty() {
    let root = tempfile::tempdir().unwrap();
    let aside = Aside::at(&root.path().join("never"));
    assert!(aside.list().unwrap().is_empty());
    assert!(!root.path().join("never").exists());
}
