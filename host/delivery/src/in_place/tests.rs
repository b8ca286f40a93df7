use std::fs;
use std::path::Path;

use bytes::Bytes;

use worker_wire::JobId;

use super::*;
use crate::crash_tests;
use crate::product::{MediaContent, Payload, Product};
use crate::record::HEAD;
use crate::spool::Spool;

fn product(job: &str, payload: Payload) -> Product {
    Product {
        job_id: JobId::parse(job).unwrap(),
        prompt: "a secret garden".into(),
        ..crash_tests::product(payload)
    }
}

fn picture(bytes: &[u8]) -> Payload {
    crash_tests::media(MediaContent::Bytes(Bytes::copy_from_slice(bytes)))
}

fn open(root: &Path) -> Spool {
    crash_tests::open_with(root, FILES, Steps::default())
}

fn keep(spool: &Spool, job: &str, bytes: &[u8]) -> Kept {
    spool.keep_here(product(job, picture(bytes))).unwrap()
}

/// The contents of the files in place.
fn lying(root: &Path) -> Vec<Vec<u8>> {
    let dir = root.join("spool-in-place");
    let names = disk::names(&dir).unwrap();
    names
        .iter()
        .map(|name| fs::read(dir.join(name)).unwrap())
        .collect()
}

fn has_words(bytes: &[u8], words: &str) -> bool {
    bytes
        .windows(words.len())
        .any(|window| window == words.as_bytes())
}

#[test]
fn one_file_serves_one_product_after_another_and_is_wiped() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let mut spool = open(root);
    for bytes in ["a long picture", "short", "", "the longest picture of all"] {
        let kept = keep(&spool, "job-1", bytes.as_bytes());
        assert_eq!(spool.waiting(), Some(1));
        let loaded = spool.load(kept.id()).unwrap().unwrap();
        assert_eq!(loaded.bytes.as_deref(), Some(bytes.as_bytes()));
        assert!(has_words(&lying(root).concat(), "a secret garden"));
        // Another process finds the same.
        drop(spool);
        spool = open(root);
        let again = spool.load(kept.id()).unwrap().unwrap();
        assert_eq!(again.bytes.as_deref(), Some(bytes.as_bytes()));
        assert_eq!(again.row.prompt, "a secret garden");
        spool.remove(kept.id()).unwrap();
        assert_eq!(spool.waiting(), Some(0));
        assert!(lying(root).concat().iter().all(|byte| *byte == 0));
    }
    assert_eq!(lying(root).len(), 1);
    assert!(disk::names(&root.join("spool")).unwrap().is_empty());
}

#[test]
fn what_does_not_fit_gets_files_of_its_own() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let spool = open(root);
    let most = vec![7; usize::try_from(LONGEST_MEDIA).unwrap()];
    let more = vec![7; most.len() + 1];
    keep(&spool, "job-1", &most);
    assert_eq!(spool.rows().unwrap().len(), 0);
    keep(&spool, "job-2", &more);
    assert_eq!(spool.rows().unwrap().len(), 1);
    let json = format!("\"{}\"", "x".repeat(usize::try_from(LONGEST_ROW).unwrap()));
    let long = product("job-3", Payload::Json(json));
    spool.keep_here(long).unwrap();
    assert_eq!(spool.rows().unwrap().len(), 2);
    // And what there is no file for.
    for number in 0..FILES {
        keep(&spool, &format!("job-4-{number}"), b"small");
    }
    assert_eq!(spool.rows().unwrap().len(), 3);
    let kept = spool.entries().unwrap();
    assert_eq!(kept.len(), FILES + 3);
    assert!(kept.is_sorted(), "oldest first, wherever they are");
    drop(spool);
    assert_eq!(open(root).entries().unwrap(), kept);
}

/// What a power cut left of a product was not answered for; what is whole is.
#[test]
fn a_product_that_is_not_whole_is_none_and_is_wiped() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let file = root.join("spool-in-place/0");
    let spool = open(root);
    keep(&spool, "job-1", b"pixels");
    drop(spool);
    let whole = fs::read(&file).unwrap();
    for place in [0, 9, HEAD - 1, HEAD, whole.len() - 1] {
        let mut spoiled = whole.clone();
        spoiled[place] ^= 1;
        fs::write(&file, &spoiled).unwrap();
        let found = open(root).recovered();
        assert_eq!((found.waiting, found.swept), (0, 1), "{place}");
        assert!(lying(root).concat().iter().all(|byte| *byte == 0));
    }
    for length in [0, 3, HEAD, whole.len() - 1] {
        fs::write(&file, &whole[..length]).unwrap();
        assert_eq!(open(root).waiting(), Some(0), "{length}");
    }
    fs::write(&file, &whole).unwrap();
    assert_eq!(open(root).waiting(), Some(1));
}

#[test]
fn somebody_who_tidies_up_costs_no_product() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let spool = open(root);
    let kept = keep(&spool, "job-1", b"pixels");
    spool.remove(kept.id()).unwrap();
    fs::remove_dir_all(root.join("spool-in-place")).unwrap();
    keep(&spool, "job-2", b"pixels");
    drop(spool);
    let spool = open(root);
    assert_eq!(spool.waiting(), Some(1), "it is where it can be found");
    assert!(spool.rows().unwrap().is_empty());
}

#[test]
fn what_a_killed_process_was_writing_is_wiped() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    drop(keep(&open(root), "job-1", b"pixels"));
    let file = root.join("spool-in-place/0");
    let mut without_head = fs::read(&file).unwrap();
    without_head[..HEAD].fill(0);
    fs::write(&file, without_head).unwrap();
    let found = open(root).recovered();
    assert_eq!((found.waiting, found.swept), (0, 0));
    assert!(lying(root).concat().iter().all(|byte| *byte == 0));
}

#[test]
fn what_another_version_wrote_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let file = root.join("spool-in-place/0");
    drop(keep(&open(root), "job-1", b"pixels"));
    let mut later = fs::read(&file).unwrap();
    later[7] += 1;
    let mut longer = later.clone();
    longer.resize(1 << 20, 0);
    for foreign in [later, longer] {
        fs::write(&file, &foreign).unwrap();
        let spool = open(root);
        assert_eq!(spool.waiting(), Some(0));
        let kept = keep(&spool, "job-2", b"more");
        assert!(spool.rows().unwrap().is_empty(), "there are other places");
        spool.remove(kept.id()).unwrap();
        assert_eq!(fs::read(&file).unwrap(), foreign);
    }
}

/// Written whole, and not to be understood: its operator is asked.
#[test]
fn a_whole_record_that_makes_no_sense_is_kept_aside() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let spool = open(root);
    let kept = keep(&spool, "job-1", b"pixels");
    spool.remove(kept.id()).unwrap();
    drop(spool);
    let row = &b"{\"version\":999}"[..];
    for (media, left) in [(&b"pixels"[..], &b"pixels"[..]), (b"", row)] {
        let head = Head::of(kept.id(), row, media).unwrap();
        let record = [&head[..], row, media].concat();
        fs::write(root.join("spool-in-place/0"), record).unwrap();
        let spool = open(root);
        assert_eq!(spool.recovered().set_aside, 1);
        assert_eq!(spool.waiting(), Some(0));
        let entry = spool.aside().list().unwrap().pop().unwrap();
        let copy = root.join("copy");
        spool.aside().write_out(&entry, &copy).unwrap();
        assert_eq!(fs::read(copy).unwrap(), left);
        spool.aside().remove(&entry.id).unwrap();
        assert!(lying(root).concat().iter().all(|byte| *byte == 0));
    }
}

#[test]
fn trouble_with_the_places_costs_no_product() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let places = root.join("spool-in-place");
    fs::create_dir_all(places.join("0")).unwrap();
    std::os::unix::fs::symlink("/nowhere", places.join("1")).unwrap();
    let spool = open(root);
    keep(&spool, "job-1", b"pixels");
    assert!(spool.rows().unwrap().is_empty());
    assert!(places.join("2").is_file());
    drop(spool);
    fs::remove_dir_all(&places).unwrap();
    fs::write(&places, "a file").unwrap();
    let spool = open(root);
    keep(&spool, "job-2", b"pixels");
    assert_eq!(spool.rows().unwrap().len(), 1, "in files of its own");
}

/// The aside's names reached the disk before what they name.
#[test]
fn a_name_in_the_aside_is_no_product() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let spool = open(root);
    let kept = keep(&spool, "job-1", b"pixels");
    drop(spool);
    for (row, media) in [(&b""[..], &b""[..]), (b"{}", b"pixels")] {
        let path = |ending: &str| root.join(format!("aside/{}.{ending}", kept.id()));
        fs::write(path("row"), row).unwrap();
        fs::write(path("media"), media).unwrap();
        let spool = open(root);
        let found = spool.load(kept.id()).unwrap().unwrap();
        assert_eq!(found.bytes.as_deref(), Some(&b"pixels"[..]));
        assert!(!path("row").exists() && !path("media").exists());
    }
}

#[cfg(unix)]
#[test]
fn nobody_else_may_read_them() {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    keep(&open(root), "job-1", b"pixels");
    for (path, mode) in [("spool-in-place", 0o700), ("spool-in-place/0", 0o600)] {
        let found = fs::metadata(root.join(path)).unwrap().permissions().mode();
        assert_eq!(found & 0o777, mode, "{path}");
    }
}

/// The same where the product had files of its own: its media, which were moved, come back.
#[test]
fn a_name_in_the_aside_takes_no_file_from_the_spool() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let spool = open(root);
    let large = vec![7; usize::try_from(LONGEST_MEDIA).unwrap() + 1];
    let kept = keep(&spool, "job-1", &large);
    let path = |folder: &str, ending: &str| root.join(format!("{folder}/{}.{ending}", kept.id()));
    fs::rename(path("spool", "media"), path("aside", "media")).unwrap();
    fs::write(path("aside", "row"), "").unwrap();
    let spool = open(root);
    assert_eq!((spool.waiting(), spool.recovered().set_aside), (Some(1), 0));
    assert_eq!(fs::read(path("spool", "media")).unwrap(), large);
    assert!(!path("aside", "row").exists());
}
