//! The scratch directories, on a real file system.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected has failed"
)]

mod permissions;

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use worker_files::{ScratchError, ScratchRoot, Walk, remove_tree, walk};

fn left(root: &ScratchRoot) -> Vec<PathBuf> {
    let entries = fs::read_dir(root.path()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.is_dir()).collect()
}

fn is_private(path: &Path) -> bool {
    fs::metadata(path).unwrap().permissions().mode() & 0o777 == 0o700
}

#[tokio::test]
async fn scratch_is_private_and_gone_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let root = ScratchRoot::open(&dir.path().join("a/scratch")).unwrap();
    assert!(is_private(root.path()));
    let scratch = root.job("../../e v\u{1b}il/job").unwrap();
    let path = scratch.path().to_owned();
    assert_eq!(path.parent(), Some(root.path()));
    assert!(
        path.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("job-eviljob-")
    );
    for dir in [path.clone(), scratch.home()] {
        assert!(is_private(&dir), "{}", dir.display());
    }
    // Two jobs of one name do not meet.
    let twin = root.job("../../e v\u{1b}il/job").unwrap();
    assert_ne!(twin.path(), path);
    // What a program closed to everybody goes too.
    let closed = path.join("home/closed/inner");
    fs::create_dir_all(&closed).unwrap();
    fs::set_permissions(closed.parent().unwrap(), fs::Permissions::from_mode(0o000)).unwrap();
    drop(scratch);
    assert_eq!(left(&root), [twin.path()]);
    twin.remove().await;
    assert!(left(&root).is_empty());
}

#[test]
fn leftovers_are_swept_and_a_second_worker_kept_out() {
    let temporary = tempfile::tempdir().unwrap();
    let root = ScratchRoot::open(&temporary.path().join("a/scratch")).unwrap();
    let dir = root.path().to_owned();
    let scratch = root.job("live").unwrap();
    assert!(matches!(
        ScratchRoot::open(&dir),
        Err(ScratchError::InUse { .. })
    ));
    assert!(scratch.path().exists());
    // As a crash leaves them.
    drop(root);
    fs::create_dir_all(dir.join("job-dead-0/made")).unwrap();
    fs::write(dir.join("job-file"), "").unwrap();
    fs::create_dir(dir.join("other")).unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("keep"), "").unwrap();
    symlink(outside.path(), dir.join("job-link")).unwrap();
    // A job's directory holds the lock as long as it lives.
    assert!(matches!(
        ScratchRoot::open(&dir),
        Err(ScratchError::InUse { .. })
    ));
    drop(scratch);
    let root = ScratchRoot::open(&dir).unwrap();
    assert_eq!(root.swept(), 1);
    assert!(
        dir.join("other").exists()
            && dir.join("job-file").exists()
            && outside.path().join("keep").exists()
    );
}

#[test]
fn a_root_that_is_a_link_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("real")).unwrap();
    symlink(dir.path().join("real"), dir.path().join("link")).unwrap();
    assert!(matches!(
        ScratchRoot::open(&dir.path().join("link")),
        Err(ScratchError::NotADirectory { .. })
    ));
    fs::write(dir.path().join("file"), "").unwrap();
    assert!(matches!(
        ScratchRoot::open(&dir.path().join("file")),
        Err(ScratchError::NotADirectory { .. })
    ));
}

/// Folders in folders below `dir`, so many of such names; the last.
fn nested(dir: &Path, count: usize, name: &str) -> OwnedFd {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let mut at = rustix::fs::openat(CWD, dir, flags, Mode::empty()).unwrap();
    for _ in 0..count {
        rustix::fs::mkdirat(&at, name, Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, name, flags, Mode::empty()).unwrap();
    }
    at
}

/// A folder that can be written and not be listed, with a file in it.
fn shut(at: &OwnedFd) {
    rustix::fs::mkdirat(at, "shut", Mode::WUSR | Mode::XUSR).unwrap();
    let flags = OFlags::CREATE | OFlags::WRONLY;
    rustix::fs::openat(at, "shut/hidden", flags, Mode::RUSR).unwrap();
}

fn all_of(dir: &Path) -> Walk {
    walk(dir, |_| std::ops::ControlFlow::Continue(()))
}

#[test]
fn what_no_path_leads_to_is_told_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("keep"), "").unwrap();
    // The second are more than a process may have descriptors.
    for (count, name) in [(25, "d".repeat(200)), (2_500, "d".to_owned())] {
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        assert_eq!(all_of(&tree), Walk::Whole);
        let deepest = nested(&tree.join("a/b"), count, &name);
        rustix::fs::symlinkat(outside.path(), &deepest, "link").unwrap();
        drop(deepest);
        assert!(matches!(all_of(&tree), Walk::Closed(_)), "{count}");
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }
    assert!(outside.path().join("keep").exists());
    remove_tree(&dir.path().join("tree")).expect("nothing there is no error");
}

#[test]
fn what_was_shut_is_told_and_goes() {
    if !permissions::hold("what_was_shut_is_told_and_goes") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    for (count, name) in [(0, ""), (25, "d".repeat(200).as_str())] {
        fs::create_dir(&tree).unwrap();
        shut(&nested(&tree, count, name));
        assert!(matches!(all_of(&tree), Walk::Closed(_)), "{count}");
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }
    // Nothing may be done in these, themselves included.
    for mode in [0o000, 0o100, 0o200, 0o400, 0o600] {
        fs::create_dir(&tree).unwrap();
        let inner = tree.join("inner");
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("file"), "").unwrap();
        for folder in [&inner, &tree] {
            fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
        }
        assert!(matches!(all_of(&tree), Walk::Closed(_)), "{mode:o}");
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }
}
