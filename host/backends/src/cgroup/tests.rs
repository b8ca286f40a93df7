use super::*;

/// A `/proc` of a process in `group`, of a hierarchy of which `root` is mounted at `place`.
fn proc(group: &str, root: &str, place: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("self")).unwrap();
    fs::write(dir.path().join("self/cgroup"), group).unwrap();
    let mounts = format!(
        "24 1 0:22 / /sys/fs/cgroup/memory rw shared:8 - cgroup cgroup rw,memory\n\
         25 1 0:23 {root} {} rw,nosuid shared:9 - cgroup2 cgroup2 rw\n",
        place.display()
    );
    fs::write(dir.path().join("self/mountinfo"), mounts).unwrap();
    dir
}

#[test]
fn the_own_group_is_found_where_the_hierarchy_is_mounted() {
    let at = Path::new("/sys/fs/cgroup");
    for (group, root, found) in [
        ("0::/a/b\n", "/", Some("/sys/fs/cgroup/a/b")),
        ("4:memory:/x\n0::/a/b\n", "/a", Some("/sys/fs/cgroup/b")),
        ("0::/\n", "/", Some("/sys/fs/cgroup")),
        ("0::/../b\n", "/", None),
        ("0::/b\n", "/a", None),
        ("4:memory:/x\n", "/", None),
    ] {
        let proc = proc(group, root, at);
        assert_eq!(
            own(proc.path()),
            found.map(PathBuf::from),
            "{group:?} {root}"
        );
    }
}

#[test]
fn a_run_without_a_group_is_held_by_looking() {
    let base = tempfile::tempdir().unwrap();
    let gone = base.path().join("gone");
    assert!(RunGroup::below(&gone, "a.b", 1 << 30, 64).is_none());
    // As in a group that does not divide memory any more: the files of the limit are not there.
    assert!(RunGroup::below(base.path(), "a.b", 1 << 30, 64).is_none());
    assert!(!base.path().join("studio-worker.a.b").exists());
}

#[test]
fn a_division_that_comes_to_nothing_is_undone() {
    let base = tempfile::tempdir().unwrap();
    let put = |name: &str| fs::write(base.path().join(name), "").unwrap();
    let got = |name: &str| fs::read_to_string(base.path().join(name)).unwrap();
    // A leaf that can be entered, and no files of a limit in what is made beside it.
    fs::create_dir(base.path().join(leaf_name())).unwrap();
    let leaf = format!("{}/cgroup.procs", leaf_name());
    for name in ["cgroup.procs", "cgroup.subtree_control", &leaf] {
        put(name);
    }
    let refused = divide(base.path());
    assert!(
        matches!(&refused, Err(NotDelegated::Refused { why, .. }) if why.starts_with("making a group with a limit")),
        "{refused:?}"
    );
    let own = std::process::id().to_string();
    assert_eq!(got(&leaf), own, "it was in the leaf");
    assert_eq!(got("cgroup.procs"), own, "and is back");
    // A file of the system's takes each word for itself; this one has the last over the first.
    assert!(got("cgroup.subtree_control").starts_with("-pids"));
    let probe = format!("{NAME}.probe.{}", std::process::id());
    assert!(!base.path().join(probe).exists());

    // What an earlier start divided stays so: others may be in it.
    fs::write(base.path().join("cgroup.subtree_control"), "memory pids\n").unwrap();
    assert!(divide(base.path()).is_err());
    assert!(!got("cgroup.subtree_control").contains('-'));
}

#[test]
fn a_group_of_a_managers_is_ours_by_its_mark_only() {
    let outer = tempfile::tempdir().unwrap();
    let group = outer.path().join("app.service");
    fs::create_dir(&group).unwrap();
    // Ours, in one that is ours too, as those of a user's own manager are.
    assert!(!is_marked(&group) && !is_given(&group));
    let flags = rustix::fs::XattrFlags::empty();
    match rustix::fs::setxattr(&group, "user.delegate", b"1", flags) {
        Ok(()) => assert!(is_marked(&group)),
        Err(error) => eprintln!("NOT TESTED: no marks on this file system: {error}"),
    }
}

#[test]
fn only_a_group_of_our_own_with_memory_is_taken() {
    let group = tempfile::tempdir().unwrap();
    let path = group.path().to_owned();
    let proc = proc("0::/\n", "/", &path);
    let put = |name: &str, text: &str| fs::write(path.join(name), text).unwrap();
    put("cgroup.controllers", "cpu memory.x pids\n");
    assert_eq!(
        base(proc.path()),
        Err(NotDelegated::NoMemory {
            group: path.clone()
        })
    );
    put("cgroup.controllers", "cpu memory pids\n");
    assert_eq!(
        base(proc.path()),
        Err(NotDelegated::Foreign {
            group: path.clone()
        }),
        "there is nothing to write to"
    );
    let own = format!("{}\n", std::process::id());
    for (name, text) in [
        ("cgroup.procs", own.as_str()),
        ("cgroup.subtree_control", ""),
        ("cgroup.type", "domain\n"),
    ] {
        put(name, text);
    }
    if !is_handed_over(&path) {
        eprintln!("NOT TESTED: this is root under a manager, and the group has no mark of it");
        return;
    }
    assert_eq!(base(proc.path()), Ok(path.clone()));
    put("cgroup.procs", &format!("{own}1\n"));
    assert_eq!(
        base(proc.path()),
        Err(NotDelegated::Company {
            group: path.clone()
        })
    );
    // As after a first start: the worker is in its leaf, and whoever looks finds the group above.
    put("cgroup.procs", "");
    let leaf = path.join(leaf_name());
    fs::create_dir(&leaf).unwrap();
    let proc = self::proc(&format!("0::/{}\n", leaf_name()), "/", &path);
    assert_eq!(base(proc.path()), Ok(path));
}
