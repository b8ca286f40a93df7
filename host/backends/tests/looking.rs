//! Digests, probes and the machine, with real files and programs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected has failed"
)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use worker_backends::{
    DigestError, Gpu, Machine, ProbeError, ProbeLimits, Programs, RunError, Vulkan, gib,
    is_library_here, library, vulkan,
};

fn script(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

async fn probe(
    programs: &Programs,
    program: &Path,
    limits: &ProbeLimits,
) -> Result<String, ProbeError> {
    programs
        .probe(
            program,
            &["--help".to_owned()],
            limits,
            &CancellationToken::new(),
        )
        .await
}

#[tokio::test]
async fn a_program_is_asked_once_until_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let programs = Programs::new(dir.path().to_owned());
    let limits = ProbeLimits::default();
    let text = |word: &str| {
        format!("echo x >> \"${{0%/*}}/asked\"; echo \"{word} $1\"; echo '  --flag' >&2; exit 1")
    };
    let program = script(dir.path(), "engine", &text("usage"));
    let before = programs.digest(&program).await.unwrap();
    for _ in 0..3 {
        assert_eq!(
            probe(&programs, &program, &limits).await.unwrap(),
            "usage --help\n  --flag"
        );
    }
    let asked = || {
        fs::read_to_string(dir.path().join("asked"))
            .unwrap()
            .lines()
            .count()
    };
    assert_eq!(asked(), 1);
    // Another name for the same bytes is the same program.
    let copy = script(dir.path(), "copy", &text("usage"));
    assert_eq!(programs.digest(&copy).await.unwrap(), before);
    probe(&programs, &copy, &limits).await.unwrap();
    assert_eq!(asked(), 1);
    // The same length as before: told apart by content.
    script(dir.path(), "engine", &text("USAGE"));
    assert_ne!(programs.digest(&program).await.unwrap(), before);
    assert_eq!(
        probe(&programs, &program, &limits).await.unwrap(),
        "USAGE --help\n  --flag"
    );
    assert_eq!(asked(), 2);
}

#[tokio::test]
async fn a_digest_is_sha_256() {
    let dir = tempfile::tempdir().unwrap();
    let programs = Programs::new(dir.path().to_owned());
    let path = dir.path().join("empty");
    fs::write(&path, "").unwrap();
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(programs.digest(&path).await.unwrap(), empty);
    let missing = programs.digest(&dir.path().join("missing")).await;
    assert!(matches!(missing, Err(DigestError::Io { .. })));
}

#[tokio::test]
async fn programs_that_do_not_answer() {
    let dir = tempfile::tempdir().unwrap();
    let programs = Programs::new(dir.path().to_owned());
    let limits = ProbeLimits {
        timeout: Duration::from_secs(30),
        bytes: 1000,
        ..ProbeLimits::default()
    };
    let crash = script(dir.path(), "crash", "echo 'no driver' >&2; kill -SEGV $$");
    let error = probe(&programs, &crash, &limits).await.unwrap_err();
    assert!(
        matches!(&error, ProbeError::Crashed { signal: 11, said, .. } if said == "no driver"),
        "{error:?}"
    );
    let broken = script(
        dir.path(),
        "broken",
        "echo 'libx.so: cannot open' >&2; exit 127",
    );
    let error = probe(&programs, &broken, &limits).await.unwrap_err();
    assert!(
        matches!(&error, ProbeError::Broken { said, .. } if said == "libx.so: cannot open"),
        "{error:?}"
    );
    let long = script(dir.path(), "long", "yes | head -c 100000");
    let error = probe(&programs, &long, &limits).await.unwrap_err();
    assert!(
        matches!(error, ProbeError::TooLong { limit: 1000, .. }),
        "{error:?}"
    );
    let hang = script(dir.path(), "hang", "exec sleep 600");
    let quick = ProbeLimits {
        timeout: Duration::from_millis(100),
        ..limits
    };
    let error = probe(&programs, &hang, &quick).await.unwrap_err();
    assert!(
        matches!(&error, ProbeError::TimedOut { question, .. } if question == "--help"),
        "{error:?}"
    );
}

struct Rig {
    dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn machine(&self, smi: Option<&str>) -> Machine {
        let at = |part: &str| self.dir.path().join(part);
        let smi =
            smi.map(|text| script(self.dir.path(), "smi", &format!("echo x >> asked; {text}")));
        Machine::with_roots(smi, at("sys"), at("proc"), self.dir.path().to_owned())
    }

    fn asked(&self) -> usize {
        fs::read_to_string(self.dir.path().join("asked"))
            .unwrap_or_default()
            .lines()
            .count()
    }
}

#[tokio::test]
async fn the_largest_gpu_counts() {
    let here = Rig::new();
    here.put(
        "proc/meminfo",
        "MemTotal:       32000000 kB\nMemAvailable:   16777216 kB\n",
    );
    here.put(
        "sys/class/drm/card1/device/mem_info_vram_total",
        "17163091968\n",
    );
    here.put(
        "sys/class/drm/card1/device/mem_info_vram_used",
        "1073741824\n",
    );
    here.put(
        "sys/class/drm/card1-DP-1/device/mem_info_vram_total",
        "99999999999\n",
    );
    let machine = here.machine(Some(
        "echo 'NVIDIA GeForce RTX 3060, 12288, 11000'; echo 'A, big, one, 24576, [N/A]'",
    ));
    let state = machine.state(&CancellationToken::new()).await;
    assert_eq!(
        state.gpu,
        Some(Gpu {
            name: "A, big, one".into(),
            total: 24 << 30,
            free: None
        })
    );
    assert_eq!(state.host_available.map(gib), Some(16.0));
    // Asked again within the moment, it is the same answer, and nothing is run.
    assert_eq!(machine.state(&CancellationToken::new()).await, state);
    assert_eq!(here.asked(), 1);

    let state = here.machine(None).state(&CancellationToken::new()).await;
    let amd = Gpu {
        name: "AMD GPU".into(),
        total: 17_163_091_968,
        free: Some(16_089_350_144),
    };
    assert_eq!(state.gpu, Some(amd));
}

#[tokio::test]
async fn what_cannot_be_asked_is_unknown_and_not_zero() {
    let here = Rig::new();
    for smi in [
        "echo 'Failed to initialize NVML' ; exit 9",
        "echo garbage",
        "echo 'X, many, few'",
    ] {
        let state = here
            .machine(Some(smi))
            .state(&CancellationToken::new())
            .await;
        assert_eq!((state.gpu, state.host_available), (None, None), "{smi}");
    }
}

#[tokio::test]
async fn a_control_group_leaves_less_than_the_machine_has() {
    let here = Rig::new();
    here.put("proc/meminfo", "MemAvailable:   16777216 kB\n");
    here.put("proc/self/cgroup", "0::/user.slice/worker.scope\n");
    let available = async || {
        here.machine(None)
            .state(&CancellationToken::new())
            .await
            .host_available
            .map(gib)
    };
    assert_eq!(available().await, Some(16.0), "no limit is known");
    here.put("sys/fs/cgroup/user.slice/worker.scope/memory.max", "max\n");
    here.put(
        "sys/fs/cgroup/user.slice/memory.max",
        &format!("{}\n", 8_u64 << 30),
    );
    here.put(
        "sys/fs/cgroup/user.slice/memory.stat",
        &format!("anon {}\nfile 99999999999\n", 2_u64 << 30),
    );
    assert_eq!(available().await, Some(6.0), "the group around it counts");
    here.put(
        "sys/fs/cgroup/user.slice/worker.scope/memory.max",
        &format!("{}\n", 1_u64 << 30),
    );
    here.put(
        "sys/fs/cgroup/user.slice/worker.scope/memory.stat",
        &format!("anon {}\n", 2_u64 << 30),
    );
    assert_eq!(available().await, Some(0.0));
    here.put("proc/self/cgroup", "0::/../elsewhere\n");
    assert_eq!(available().await, Some(16.0), "a group that cannot be seen");
}

#[test]
fn a_vulkan_loader_and_its_drivers() {
    let here = Rig::new();
    assert_eq!(vulkan(here.dir.path()), Vulkan::default());
    here.put("usr/lib/x86_64-linux-gnu/libvulkan.so.1", "");
    here.put("usr/share/vulkan/icd.d/radeon_icd.json", "{}");
    here.put("etc/vulkan/icd.d/nvidia_icd.json", "{}");
    here.put("etc/vulkan/icd.d/README", "");
    let found = vulkan(here.dir.path());
    assert!(
        found
            .loader
            .unwrap()
            .ends_with("usr/lib/x86_64-linux-gnu/libvulkan.so.1")
    );
    assert_eq!(found.drivers, ["nvidia_icd", "radeon_icd"]);
}

#[test]
fn a_library_is_looked_for_where_the_systems_loader_looks() {
    let here = Rig::new();
    let root = here.dir.path();
    assert_eq!(library(root, "libx.so.1"), None);
    // A folder that the operator told the loader of.
    here.put(
        "etc/ld.so.cache",
        "glibc-ld.so.cache1.1\0libx.so.1\0/opt/vendor/libx.so.1\0",
    );
    assert_eq!(
        library(root, "libx.so.1"),
        None,
        "the cache alone is no file"
    );
    here.put("opt/vendor/libx.so.1", "");
    assert_eq!(
        library(root, "libx.so.1"),
        Some(root.join("opt/vendor/libx.so.1"))
    );
    assert_eq!(library(root, "x.so.1"), None);
    here.put("usr/lib64/liby.so", "");
    assert_eq!(
        library(root, "liby.so"),
        Some(root.join("usr/lib64/liby.so"))
    );
    assert!(is_library_here("libx.so.1") == cfg!(all(unix, not(target_os = "macos"))));
    assert!(is_library_here("x.dll") == cfg!(windows));
}

#[tokio::test]
async fn answers_outlive_the_worker_and_a_broken_one_is_asked_for_again() {
    let dir = tempfile::tempdir().unwrap();
    let (kept, limits) = (dir.path().join("answers"), ProbeLimits::default());
    let program = script(
        dir.path(),
        "engine",
        "echo x >> \"${0%/*}/asked\"; echo \"usage $1\"",
    );
    let asked = || {
        fs::read_to_string(dir.path().join("asked"))
            .unwrap()
            .lines()
            .count()
    };
    for _ in 0..2 {
        // As after a restart: nothing is in memory.
        let programs = Programs::with_answers(dir.path().to_owned(), Some(kept.clone()));
        assert_eq!(
            probe(&programs, &program, &limits).await.unwrap(),
            "usage --help"
        );
        assert_eq!(asked(), 1);
    }
    // A program tells of more than itself: after a day it is asked again.
    let entry = fs::read_dir(&kept).unwrap().next().unwrap().unwrap();
    let old = std::time::SystemTime::now() - Duration::from_secs(25 * 60 * 60);
    let file = fs::File::options().write(true).open(entry.path()).unwrap();
    file.set_modified(old).unwrap();
    let programs = Programs::with_answers(dir.path().to_owned(), Some(kept.clone()));
    probe(&programs, &program, &limits).await.unwrap();
    assert_eq!(asked(), 2);
    fs::remove_file(dir.path().join("asked")).unwrap();
    fs::write(dir.path().join("asked"), "x\n").unwrap();
    for entry in fs::read_dir(&kept).unwrap().flatten() {
        fs::write(entry.path(), [0xff, 0xfe]).unwrap();
    }
    let programs = Programs::with_answers(dir.path().to_owned(), Some(kept.clone()));
    assert_eq!(
        probe(&programs, &program, &limits).await.unwrap(),
        "usage --help"
    );
    assert_eq!(asked(), 2);
    // Another program with another answer.
    let other = script(
        dir.path(),
        "other",
        "echo x >> \"${0%/*}/asked\"; echo \"other $1\"",
    );
    assert_eq!(
        probe(&programs, &other, &limits).await.unwrap(),
        "other --help"
    );
    assert_eq!((asked(), fs::read_dir(&kept).unwrap().count()), (3, 2));
}

/// A program that does not answer its daily question beside a job that keeps the machine busy is the program that it was.
#[tokio::test]
async fn what_a_program_answered_before_counts_on_where_asking_again_fails() {
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("answers");
    // Its digest stays while what it does changes.
    let program = script(dir.path(), "engine", ". \"${0%/*}/does\"");
    let does = |text: &str| fs::write(dir.path().join("does"), text).unwrap();
    let limits = ProbeLimits::default();
    let quick = ProbeLimits {
        timeout: Duration::from_millis(100),
        ..limits.clone()
    };
    let again = |limits: &ProbeLimits| {
        // As after a restart: nothing is in memory.
        let programs = Programs::with_answers(dir.path().to_owned(), Some(kept.clone()));
        let (program, limits) = (program.clone(), limits.clone());
        async move { probe(&programs, &program, &limits).await }
    };
    does("exec sleep 600");
    let never = again(&quick).await.unwrap_err();
    assert!(never.is_passing(), "{never:?}");
    does("echo usage");
    assert_eq!(again(&limits).await.unwrap(), "usage");
    grow_old(&kept);
    does("exec sleep 600");
    assert_eq!(again(&quick).await.unwrap(), "usage");
    does("kill -SEGV $$");
    assert_eq!(again(&limits).await.unwrap(), "usage");
    // It cannot run here any more, whatever the moment.
    does("echo 'libx.so: cannot open' >&2; exit 127");
    let broken = again(&limits).await.unwrap_err();
    assert!(matches!(broken, ProbeError::Broken { .. }), "{broken:?}");
    does("echo 'more than before'");
    assert_eq!(again(&limits).await.unwrap(), "more than before");
}

/// Has the answers in this folder be three days old, so that each is due again.
fn grow_old(kept: &Path) {
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(3 * 24 * 60 * 60);
    for entry in fs::read_dir(kept).unwrap().flatten() {
        let file = fs::File::options().write(true).open(entry.path()).unwrap();
        file.set_modified(long_ago).unwrap();
    }
}

/// Its file is the same, and no job could run it: what it answered before is no reason to offer it.
#[tokio::test]
async fn what_a_program_answered_before_counts_no_more_where_its_interpreter_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("answers");
    let (interpreter, program) = (dir.path().join("sh"), dir.path().join("engine"));
    symlink("/bin/sh", &interpreter).unwrap();
    fs::write(
        &program,
        format!("#!{}\necho usage\n", interpreter.display()),
    )
    .unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let again = || {
        // As after a restart: nothing is in memory.
        let programs = Programs::with_answers(dir.path().to_owned(), Some(kept.clone()));
        let program = program.clone();
        async move { probe(&programs, &program, &ProbeLimits::default()).await }
    };
    assert_eq!(again().await.unwrap(), "usage");
    grow_old(&kept);
    fs::remove_file(&interpreter).unwrap();
    let gone = again().await.unwrap_err();
    assert!(
        matches!(gone, ProbeError::Run(RunError::Spawn { .. })) && !gone.is_passing(),
        "{gone:?}"
    );
    // It is the same program when that is there again.
    symlink("/bin/sh", &interpreter).unwrap();
    assert_eq!(again().await.unwrap(), "usage");
}
