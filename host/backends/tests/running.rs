//! Real programs, run and ended.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected has failed"
)]

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, test_kill_process};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use worker_backends::{
    EnvironmentRefusal, Exit, Invocation, Marked, MemoryKeeper, RunError, SandboxPolicy, Stall,
    Stdin, mark, memory_keeper, run, start,
};

/// Longer than any machine is slow: a run that needs it has failed.
const LONG: Duration = Duration::from_secs(60);

struct Sh {
    dir: tempfile::TempDir,
    invocation: Invocation,
}

impl Sh {
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let args = ["-c", script].map(OsString::from).to_vec();
        let mut invocation = Invocation::new("/bin/sh".into(), args, dir.path().to_owned(), LONG);
        invocation.limits.grace = Duration::from_millis(300);
        Self { dir, invocation }
    }

    async fn run(&self) -> Exit {
        self.try_run(&CancellationToken::new()).await.unwrap()
    }

    async fn try_run(&self, cancel: &CancellationToken) -> Result<Exit, RunError> {
        run(&self.invocation, mpsc::channel(1).0, cancel).await
    }

    /// The number that the script wrote to a file, once it has.
    async fn pid(&self, file: &str) -> Pid {
        let path = self.dir.path().join(file);
        pid_in(&path).await
    }
}

async fn pid_in(path: &Path) -> Pid {
    for _ in 0..3000 {
        let text = fs::read_to_string(path).unwrap_or_default();
        if let Some(number) = text.strip_suffix('\n') {
            return Pid::from_raw(number.parse().unwrap()).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} was never written", path.display());
}

/// Waits until nothing runs under that number; one that is dead and waits for its parent counts as gone.
async fn assert_gone(pid: Pid) {
    for _ in 0..3000 {
        let stat =
            fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        let state = stat
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.chars().next());
        if test_kill_process(pid).is_err() || state == Some('Z') {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{pid:?} is still there");
}

#[tokio::test]
async fn codes_signals_and_tails() {
    let exit = Sh::new("echo out; echo err >&2; exit 3").run().await;
    assert_eq!((exit.code, exit.signal), (Some(3), None));
    assert_eq!(
        (exit.stdout_tail.as_str(), exit.stderr_tail.as_str()),
        ("out", "err")
    );
    let exit = Sh::new("printf 'no end'; kill -ABRT $$").run().await;
    assert_eq!((exit.code, exit.signal), (None, Some(6)));
    assert_eq!(exit.stdout_tail, "no end");
    let exit = Sh::new("kill -KILL $$").run().await;
    assert_eq!(
        (
            exit.signal,
            exit.out_of_memory,
            exit.timed_out,
            exit.cancelled
        ),
        (Some(9), false, false, false)
    );
}

#[tokio::test]
async fn a_program_sees_what_it_is_given_and_nothing_else() {
    let mut sh = Sh::new(
        "env | sort; pwd; cat; ls /proc/self/fd | tr '\\n' ' '; ulimit -c; cat /proc/self/oom_score_adj",
    );
    sh.invocation.env = vec![("GRANTED".into(), "yes".into())];
    sh.invocation.stdin = Some(Stdin::Bytes("fed\n".into()));
    // A descriptor that somebody forgot to close on exec.
    let file = fs::File::open("/dev/null").unwrap();
    let leaked = rustix::io::dup(&file).unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    let exit = sh.run().await;
    let dir = sh.dir.path().display();
    let lines: Vec<&str> = exit.stdout_tail.lines().collect();
    let expected = [
        "GGML_NO_BACKTRACE=1".to_owned(),
        "GRANTED=yes".to_owned(),
        format!("HOME={dir}"),
        "LANG=C.UTF-8".to_owned(),
        "PATH=/usr/bin:/bin".to_owned(),
        format!("PWD={dir}"),
        format!("TMPDIR={dir}"),
        dir.to_string(),
        "fed".to_owned(),
        "0 1 2 3 0".to_owned(),
        "500".to_owned(),
    ];
    let lines: Vec<&str> = lines
        .into_iter()
        .filter(|line| !line.starts_with("_=") && !line.starts_with("STUDIO_WORKER_JOB="))
        .collect();
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn what_cannot_be_run_is_refused_before_anything_is_spawned() {
    let sh = Sh::new("touch spawned");
    let refused = async |change: &dyn Fn(&mut Invocation)| {
        let mut invocation = sh.invocation.clone();
        change(&mut invocation);
        run(&invocation, mpsc::channel(1).0, &CancellationToken::new())
            .await
            .unwrap_err()
    };
    let error = refused(&|run| run.args.push("a\0b".into())).await;
    assert!(
        matches!(error, RunError::NulInArgument { index: 2 }),
        "{error:?}"
    );
    let error = refused(&|run| run.args.extend(vec![OsString::from("x"); 1023])).await;
    assert!(
        matches!(error, RunError::TooManyArguments { count: 1025, .. }),
        "{error:?}"
    );
    let error = refused(&|run| run.args.push("x".repeat(128 * 1024).into())).await;
    assert!(
        matches!(error, RunError::TooManyArguments { .. }),
        "{error:?}"
    );
    let error = refused(&|run| run.env.push(("LD_PRELOAD".into(), "/x.so".into()))).await;
    assert!(
        matches!(
            error,
            RunError::Environment(EnvironmentRefusal::Never { .. })
        ),
        "{error:?}"
    );
    let error = refused(&|run| run.program = "sh".into()).await;
    assert!(
        matches!(error, RunError::RelativeProgram { .. }),
        "{error:?}"
    );
    let error = refused(&|run| run.stdin = Some(Stdin::File("/dev/zero".into()))).await;
    assert!(matches!(error, RunError::File { .. }), "{error:?}");
    let error = refused(&|run| run.program = "/nowhere/program".into()).await;
    assert!(
        matches!(error, RunError::Spawn { .. }) && error.to_string().contains("install"),
        "{error}"
    );
    let text = sh.dir.path().join("text");
    fs::write(&text, "not a program").unwrap();
    let error = refused(&|run| run.program.clone_from(&text)).await;
    assert!(
        matches!(error, RunError::Spawn { .. }) && error.to_string().contains("executable"),
        "{error}"
    );
    fs::set_permissions(&text, fs::Permissions::from_mode(0o755)).unwrap();
    let error = refused(&|run| run.program.clone_from(&text)).await;
    assert!(
        error.to_string().contains("another kind of machine"),
        "{error}"
    );
    let cancel = CancellationToken::new();
    cancel.cancel();
    assert!(sh.try_run(&cancel).await.unwrap().cancelled);
    assert!(!sh.dir.path().join("spawned").exists());
}

#[tokio::test]
async fn time_is_up_for_one_that_heeds_and_one_that_does_not() {
    let mut sh = Sh::new("trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.01; done");
    sh.invocation.timeout = Duration::from_millis(500);
    sh.invocation.limits.grace = LONG;
    let exit = sh.run().await;
    assert_eq!(
        (exit.timed_out, exit.cancelled, exit.code),
        (true, false, Some(7))
    );
    assert_eq!(exit.stdout_tail, "up\nbye");

    let mut sh = Sh::new("trap '' TERM; echo up; while :; do sleep 0.01; done");
    sh.invocation.timeout = Duration::from_millis(500);
    let exit = sh.run().await;
    assert_eq!(
        (exit.timed_out, exit.signal, exit.out_of_memory),
        (true, Some(9), false)
    );
    assert_eq!(exit.stdout_tail, "up");
}

#[tokio::test]
async fn cancelling_ends_grandchildren_that_ignore_it() {
    let sh = Sh::new(
        "sh -c 'trap \"\" TERM; echo $$ > grandchild; while :; do sleep 0.01; done' & wait",
    );
    let cancel = CancellationToken::new();
    let stop = async {
        let pid = sh.pid("grandchild").await;
        cancel.cancel();
        pid
    };
    let (exit, pid) = tokio::join!(sh.try_run(&cancel), stop);
    assert!(exit.unwrap().cancelled);
    assert_gone(pid).await;
}

#[tokio::test]
async fn a_grandchild_that_holds_the_pipes_does_not_hold_us() {
    let sh = Sh::new(
        "sh -c 'echo $$ > grandchild; sleep 600' & while ! [ -s grandchild ]; do sleep 0.01; done; echo done",
    );
    let exit = sh.run().await;
    assert_eq!((exit.code, exit.stdout_tail.as_str()), (Some(0), "done"));
    assert_gone(sh.pid("grandchild").await).await;

    // One that leaves the group is found by its mark.
    let sh = Sh::new(
        "setsid sh -c 'echo $$ > grandchild; sleep 600' & while ! [ -s grandchild ]; do sleep 0.01; done; echo done",
    );
    let exit = sh.run().await;
    assert_eq!((exit.code, exit.stdout_tail.as_str()), (Some(0), "done"));
    assert_gone(sh.pid("grandchild").await).await;
}

#[tokio::test]
async fn a_grandchild_that_closed_its_pipes_ends_with_the_program() {
    let sh = Sh::new(
        "sh -c 'echo $$ > grandchild; exec sleep 600' >/dev/null 2>&1 & while ! [ -s grandchild ]; do sleep 0.01; done",
    );
    assert_eq!(sh.run().await.code, Some(0));
    assert_gone(sh.pid("grandchild").await).await;
}

#[tokio::test]
async fn a_program_that_closes_its_streams_is_waited_for() {
    let exit = Sh::new("exec >&- 2>&-; sleep 0.3; exit 5").run().await;
    assert_eq!(exit.code, Some(5));
}

#[tokio::test]
async fn a_flood_is_read_and_forgotten() {
    let exit = Sh::new("yes 'the same line' | head -c 42000000; echo last; echo last >&2")
        .run()
        .await;
    assert_eq!(exit.code, Some(0));
    assert!(
        exit.stdout_tail.ends_with("\nlast"),
        "{:?}",
        exit.stdout_tail.len()
    );
    assert!(exit.stdout_tail.len() <= 64 * 1024 && exit.stdout_tail.lines().count() == 200);
    assert_eq!(exit.stderr_tail, "last");
}

#[tokio::test]
async fn lines_arrive_while_it_runs() {
    // It goes on only when its bar, a line without end, was seen.
    let sh = Sh::new(
        "printf '\\r|=  | 1/3'; while ! [ -e seen ]; do sleep 0.01; done; printf '\\r|===| 3/3\\n'; echo e >&2",
    );
    let (sender, mut lines) = mpsc::channel::<Vec<String>>(16);
    let watch = async {
        let mut all = Vec::new();
        while let Some(batch) = lines.recv().await {
            if batch.iter().any(|line| line.contains("1/3")) {
                fs::write(sh.dir.path().join("seen"), "").unwrap();
            }
            all.extend(batch);
        }
        all.sort();
        all
    };
    let cancel = CancellationToken::new();
    let (exit, all) = tokio::join!(run(&sh.invocation, sender, &cancel), watch);
    assert_eq!(all, ["e", "|=  | 1/3", "|===| 3/3"]);
    assert_eq!(exit.unwrap().stdout_tail, "|===| 3/3");
}

#[tokio::test]
async fn nobody_taking_the_lines_holds_nothing_up() {
    let sh = Sh::new("yes | head -c 10000000; echo last");
    let (sender, _lines) = mpsc::channel(1);
    let exit = run(&sh.invocation, sender, &CancellationToken::new())
        .await
        .unwrap();
    assert!(exit.stdout_tail.ends_with("last"));
}

#[tokio::test]
async fn standard_output_goes_to_a_file_byte_for_byte_and_is_bounded() {
    let mut sh = Sh::new("printf 'a\\r\\033\\0\\377'; cat");
    let path = sh.dir.path().join("out.bin");
    let input = sh.dir.path().join("in");
    fs::write(&input, "from a file").unwrap();
    sh.invocation.stdin = Some(Stdin::File(input));
    sh.invocation.stdout_to = Some(path.clone());
    let exit = sh.run().await;
    assert_eq!((exit.code, exit.stdout_tail.as_str()), (Some(0), ""));
    assert_eq!(fs::read(&path).unwrap(), b"a\r\x1b\0\xfffrom a file");
    // Never over another file.
    assert!(matches!(
        sh.try_run(&CancellationToken::new()).await,
        Err(RunError::File { .. })
    ));

    let mut sh = Sh::new("exec yes");
    let path = sh.dir.path().join("out");
    sh.invocation.stdout_to = Some(path.clone());
    sh.invocation.limits.stdout_bytes = 1 << 20;
    let exit = sh.run().await;
    assert!(exit.too_much_output && exit.signal == Some(15), "{exit:?}");
    assert!(fs::metadata(&path).unwrap().len() <= 1 << 20);

    let mut sh = Sh::new("exec yes");
    sh.invocation.stdout_to = Some(PathBuf::from("/dev/full"));
    assert!(matches!(
        sh.try_run(&CancellationToken::new()).await,
        Err(RunError::File { .. })
    ));
}

#[tokio::test]
async fn input_that_is_not_read_is_no_error() {
    let mut sh = Sh::new("exit 4");
    sh.invocation.stdin = Some(Stdin::Bytes(vec![b'x'; 10_000_000].into()));
    assert_eq!(sh.run().await.code, Some(4));
}

#[tokio::test]
async fn a_run_that_is_dropped_leaves_nobody() {
    let sh = Sh::new(
        "trap '' TERM; echo $$ > head; sh -c 'echo $$ > grandchild; exec sleep 600' & wait; sleep 600",
    );
    let task = {
        let invocation = sh.invocation.clone();
        tokio::spawn(async move {
            run(&invocation, mpsc::channel(1).0, &CancellationToken::new()).await
        })
    };
    let pids = [sh.pid("head").await, sh.pid("grandchild").await];
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    for pid in pids {
        assert_gone(pid).await;
    }
}

#[tokio::test]
async fn many_at_once_are_all_reaped() {
    let runs = (0..40).map(|n| async move { Sh::new(&format!("exit {n}")).run().await.code });
    let mut tasks = tokio::task::JoinSet::new();
    for run in runs {
        tasks.spawn(run);
    }
    let mut codes: Vec<i32> = tasks.join_all().await.into_iter().flatten().collect();
    codes.sort_unstable();
    assert_eq!(codes, (0..40).collect::<Vec<_>>());
}

#[tokio::test]
async fn one_that_is_started_is_stopped_or_found_gone() {
    let sh = Sh::new(
        "echo $$ > head; echo up; trap 'echo bye; exit 7' TERM; while :; do sleep 0.01; done",
    );
    let running = start(&sh.invocation, mpsc::channel(1).0).await.unwrap();
    assert_eq!(sh.pid("head").await.as_raw_nonzero().get(), running.id());
    // The trap stands once the line after it was reached.
    let exit = running.stop(LONG).await.unwrap();
    assert!(exit.cancelled, "{exit:?}");
    assert!(exit.code == Some(7) || exit.signal == Some(15), "{exit:?}");

    let sh = Sh::new("exit 6");
    let mut running = start(&sh.invocation, mpsc::channel(1).0).await.unwrap();
    running.exited().await;
    let exit = running.stop(LONG).await.unwrap();
    assert_eq!((exit.code, exit.cancelled), (Some(6), false));

    // Dropped, nobody is left.
    let sh = Sh::new("echo $$ > head; exec sleep 600");
    let running = start(&sh.invocation, mpsc::channel(1).0).await.unwrap();
    let pid = sh.pid("head").await;
    drop(running);
    assert_gone(pid).await;
}

#[tokio::test]
async fn each_phase_has_its_bound() {
    let short = Some(Duration::from_millis(400));
    let talk = "while :; do echo on; sleep 0.05; done";

    let mut sh = Sh::new("exec sleep 600");
    sh.invocation.limits.silence = short;
    let exit = sh.run().await;
    assert_eq!((exit.stalled, exit.timed_out), (Some(Stall::Silent), false));

    // Words are no progress.
    let mut sh = Sh::new(talk);
    sh.invocation.limits.silence = Some(LONG);
    sh.invocation.limits.first_progress = short;
    assert_eq!(sh.run().await.stalled, Some(Stall::Starting));

    let mut sh = Sh::new(talk);
    sh.invocation.limits.first_progress = Some(LONG);
    sh.invocation.limits.next_progress = short;
    sh.invocation.progress.now();
    assert_eq!(sh.run().await.stalled, Some(Stall::Working));
}

#[tokio::test]
async fn what_it_writes_is_bounded_by_file_and_in_sum() {
    let mut sh = Sh::new("head -c 3000000 /dev/zero > big");
    sh.invocation.limits.file_bytes = Some(1 << 20);
    let exit = sh.run().await;
    // The shell lives on after its child was ended, so the size is what counts.
    assert_eq!(
        fs::metadata(sh.dir.path().join("big")).unwrap().len(),
        1 << 20,
        "{exit:?}"
    );
    let mut sh = Sh::new("exec head -c 3000000 /dev/zero > big");
    sh.invocation.limits.file_bytes = Some(1 << 20);
    let exit = sh.run().await;
    assert!(exit.too_much_disk && exit.signal == Some(25), "{exit:?}");

    let mut sh = Sh::new("n=0; while :; do n=$((n+1)); head -c 1000000 /dev/zero > part-$n; done");
    sh.invocation.limits.written_bytes = 8 << 20;
    sh.invocation.written = vec![sh.dir.path().to_owned()];
    let exit = sh.run().await;
    assert!(exit.too_much_disk && !exit.timed_out, "{exit:?}");
}

#[tokio::test]
async fn processes_are_counted_over_the_whole_group_and_end_at_once() {
    // Deaf to being asked, and with children that are.
    let mut sh = Sh::new(
        "trap '' TERM; echo $$ > head; n=0; while [ $n -lt 40 ]; do n=$((n+1)); sleep 600 & done; wait; wait",
    );
    sh.invocation.limits.tasks = 20;
    sh.invocation.limits.grace = LONG;
    let exit = sh.run().await;
    assert!(exit.too_many_tasks && exit.signal == Some(9), "{exit:?}");
    assert_gone(sh.pid("head").await).await;
    let mut sh = Sh::new("sleep 0.5 & sleep 0.5 & wait");
    sh.invocation.limits.tasks = 20;
    let exit = sh.run().await;
    assert_eq!(
        (exit.code, exit.too_many_tasks),
        (Some(0), false),
        "{exit:?}"
    );
}

#[tokio::test]
async fn memory_is_bounded_over_the_whole_group() {
    let mut sh = Sh::new("head -c 200000000 /dev/zero | tail | wc -c; sleep 600");
    sh.invocation.limits.memory_bytes = Some(50 << 20);
    let exit = sh.run().await;
    assert!(exit.out_of_memory && !exit.timed_out, "{exit:?}");
}

#[tokio::test]
async fn a_sandbox_of_what_is_not_there_starts_nothing() {
    let mut sh = Sh::new("touch spawned");
    sh.invocation.sandbox = Some(SandboxPolicy {
        program_dir: "/bin/sh".into(),
        scratch: sh.dir.path().to_owned(),
        readable: vec!["/nowhere/model".into()],
        ..SandboxPolicy::default()
    });
    let error = sh.try_run(&CancellationToken::new()).await.unwrap_err();
    assert!(
        matches!(error, RunError::Sandbox { .. }) && error.to_string().contains("/nowhere/model"),
        "{error}"
    );
    assert!(!sh.dir.path().join("spawned").exists());
}

/// What the test below runs in a process of its own: starts a program from a runtime whose threads end, and waits.
#[tokio::test]
#[ignore = "run by the next test, in a process that is killed"]
async fn helper_that_is_killed() {
    let Ok(dir) = std::env::var("RUN_AND_WAIT_IN") else {
        return;
    };
    let start = async |name: &str| {
        let args = ["-c", &format!("echo $$ > {name}; exec sleep 600")]
            .map(OsString::from)
            .to_vec();
        let invocation = Invocation::new("/bin/sh".into(), args, PathBuf::from(&dir), LONG);
        tokio::spawn(async move {
            run(&invocation, mpsc::channel(1).0, &CancellationToken::new()).await
        });
        pid_in(&Path::new(&dir).join(name)).await
    };
    start("first").await;
    std::future::pending().await
}

#[tokio::test]
async fn programs_die_with_the_worker() {
    let dir = tempfile::tempdir().unwrap();
    let mut worker = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "helper_that_is_killed",
            "--ignored",
            "--nocapture",
        ])
        .env("RUN_AND_WAIT_IN", dir.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let pid = pid_in(&dir.path().join("first")).await;
    assert!(test_kill_process(pid).is_ok());
    worker.kill().unwrap();
    worker.wait().unwrap();
    assert_gone(pid).await;
}

/// What the test below runs in a process of its own, since it is moved to another control group, and then killed.
#[tokio::test]
#[ignore = "run by the next test, in a process that is moved and killed"]
async fn helper_in_a_control_group() {
    let Some(dir) = std::env::var_os("MOVED_AND_WAITS_IN").map(PathBuf::from) else {
        return;
    };
    let marked = mark(&dir).unwrap();
    let MemoryKeeper::ControlGroup(base) = memory_keeper() else {
        fs::write(dir.join("not-here"), memory_keeper().to_string()).unwrap();
        return;
    };
    let id = fs::read_to_string(dir.join("programs.mark")).unwrap();
    let groups = || {
        let prefix = format!("studio-worker.{}.", id.trim());
        let entries = fs::read_dir(&base).unwrap().flatten();
        let named = entries.filter(|it| it.file_name().to_str().unwrap().starts_with(&prefix));
        named.map(|it| it.path()).collect::<Vec<_>>()
    };
    assert_eq!(
        groups(),
        Vec::<PathBuf>::new(),
        "those of the killed one are gone"
    );
    if dir.join("first").exists() {
        assert!(matches!(marked, Marked::Ended(_)), "{marked:?}");
        fs::write(dir.join("swept"), "").unwrap();
        return;
    }
    // The kernel ends all of it at the bound, in one blow.
    let mut greedy = Sh::new("sleep 600 & head -c 300000000 /dev/zero | tail | wc -c; sleep 600");
    greedy.invocation.limits.memory_bytes = Some(64 << 20);
    let exit = greedy.run().await;
    assert!(exit.out_of_memory && exit.signal == Some(9), "{exit:?}");
    // A KILL that has nothing to do with memory is not taken for that.
    let mut killed = Sh::new("kill -KILL $$");
    killed.invocation.limits.memory_bytes = Some(64 << 20);
    let exit = killed.run().await;
    assert!(!exit.out_of_memory && exit.signal == Some(9), "{exit:?}");
    // Beyond the number of its tasks the kernel gives it no more, where the hierarchy counts them.
    let mut many = Sh::new(
        "n=0; while [ $n -lt 40 ]; do n=$((n+1)); sleep 600 & done 2>/dev/null; echo all of them; sleep 5",
    );
    many.invocation.limits.memory_bytes = Some(64 << 20);
    many.invocation.limits.tasks = 20;
    let exit = many.run().await;
    let counted = fs::read_to_string(base.join("cgroup.subtree_control")).unwrap();
    if counted.contains("pids") {
        assert!(!exit.stdout_tail.contains("all of them"), "{exit:?}");
        assert!(!exit.too_many_tasks, "{exit:?}");
    } else {
        assert!(exit.too_many_tasks, "{exit:?}");
    }
    // What leaves the group and the session, with another environment, is in the control group still.
    let mut leaves = Sh::new(
        "env -i setsid sh -c 'trap \"\" TERM HUP; echo $$ > deaf; while :; do sleep 1; done' & while ! [ -s deaf ]; do sleep 0.02; done; cat /proc/self/cgroup",
    );
    leaves.invocation.limits.memory_bytes = Some(64 << 20);
    let exit = leaves.run().await;
    assert!(
        exit.stdout_tail
            .contains(&format!("studio-worker.{}.", id.trim())),
        "{exit:?}"
    );
    assert_gone(leaves.pid("deaf").await).await;
    assert_eq!(groups(), Vec::<PathBuf>::new(), "each went with its run");
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    assert!(own.contains("studio-worker.self"), "{own}");
    // One that is running when this process is killed, with a child that does not go with it.
    let script = format!(
        "env -i sh -c 'echo $$ > {0}/child; exec sleep 600' & echo $$ > {0}/first; sleep 600",
        dir.display()
    );
    let mut left = Sh::new(&script);
    left.invocation.limits.memory_bytes = Some(64 << 20);
    left.run().await;
}

/// A control group that is handed over to a process, made by root where the system has version 2 with memory; else what this
/// process was given, if anything.
struct HandedOver(Option<PathBuf>);

impl HandedOver {
    fn make() -> Self {
        let root = Path::new("/sys/fs/cgroup");
        let group = root.join(format!("worker-tests-{}", std::process::id()));
        // As a manager does it: memory is divided among groups, one of them is made, and marked.
        let put = |file: PathBuf, text: &str| {
            fs::OpenOptions::new()
                .write(true)
                .open(file)?
                .write_all(text.as_bytes())
        };
        let made = put(root.join("cgroup.subtree_control"), "+memory")
            .and_then(|()| fs::create_dir(&group));
        if made.is_err() {
            return Self(None);
        }
        let _ = put(root.join("cgroup.subtree_control"), "+pids");
        let flags = rustix::fs::XattrFlags::empty();
        let marked = rustix::fs::setxattr(&group, "user.delegate", b"1", flags);
        if marked.is_err() && Path::new("/run/systemd/system").is_dir() {
            let _ = fs::remove_dir(&group);
            return Self(None);
        }
        Self(Some(group))
    }

    /// A command that goes into it before it does anything.
    fn command(&self, program: &Path) -> std::process::Command {
        let Some(group) = &self.0 else {
            return std::process::Command::new(program);
        };
        let mut command = std::process::Command::new("/bin/sh");
        // A group that divides memory takes no process: the second one goes where the first had gone.
        let enter = "{ echo $$ > \"$0/studio-worker.self/cgroup.procs\" || echo $$ > \"$0/cgroup.procs\"; } 2>/dev/null; exec \"$@\"";
        command.args(["-c", enter]).arg(group).arg(program);
        command
    }
}

impl Drop for HandedOver {
    fn drop(&mut self) {
        if let Some(group) = &self.0 {
            let _ = fs::remove_dir(group.join("studio-worker.self"));
            let _ = fs::remove_dir(group);
        }
    }
}

/// Past the harness, which swallows what passing tests print, and into the list that a whole run ends with.
fn not_run(why: &str) {
    let line = format!("NOT RUN: programs in control groups: {why}\n");
    let _ = write!(std::io::stderr(), "\n{line}");
    if let Some(list) = std::env::var_os("WORKER_TESTS_NOT_RUN") {
        let list = fs::OpenOptions::new().append(true).create(true).open(list);
        list.and_then(|mut list| list.write_all(line.as_bytes()))
            .unwrap();
    }
}

/// With a control group that was handed over: one that this test makes where it can, else the one that it is in. Where the machine
/// has neither, this shows nothing, and says so.
#[tokio::test]
async fn a_control_group_holds_and_ends_programs_whatever_they_do() {
    let dir = tempfile::tempdir().unwrap();
    let group = HandedOver::make();
    let start = || {
        group
            .command(&std::env::current_exe().unwrap())
            .args([
                "--exact",
                "helper_in_a_control_group",
                "--ignored",
                "--nocapture",
            ])
            .env("MOVED_AND_WAITS_IN", dir.path())
            .spawn()
            .unwrap()
    };
    let mut worker = start();
    let child = dir.path().join("child");
    loop {
        if let Some(status) = worker.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            let why = fs::read_to_string(dir.path().join("not-here")).unwrap();
            // One that nobody can hand over cannot be installed; one that was must be used.
            assert!(group.0.is_none(), "it was handed a control group: {why}");
            not_run(&why);
            return;
        }
        if fs::read_to_string(&child).is_ok_and(|text| text.ends_with('\n')) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let child = pid_in(&child).await;
    worker.kill().unwrap();
    worker.wait().unwrap();
    assert!(
        test_kill_process(child).is_ok(),
        "it has neither mark nor parent"
    );
    assert!(start().wait().unwrap().success());
    assert!(dir.path().join("swept").exists());
    assert_gone(child).await;
}

#[test]
fn programs_outlive_the_thread_that_asked_for_them() {
    let sh = Sh::new("echo $$ > head; while ! [ -e go ]; do sleep 0.01; done; exit 9");
    let (sender, receiver) = std::sync::mpsc::channel();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let invocation = sh.invocation.clone();
    // Asked for by a thread that ends at once; waited for on another.
    let handle = runtime.handle().clone();
    std::thread::spawn(move || {
        let mut job = Box::pin(async move {
            run(&invocation, mpsc::channel(1).0, &CancellationToken::new()).await
        });
        let _guard = handle.enter();
        let waker = std::task::Waker::noop();
        assert!(
            job.as_mut()
                .poll(&mut std::task::Context::from_waker(waker))
                .is_pending()
        );
        sender.send(job).unwrap();
    })
    .join()
    .unwrap();
    let job = receiver.recv().unwrap();
    runtime.block_on(async {
        let go = async {
            sh.pid("head").await;
            fs::write(sh.dir.path().join("go"), "").unwrap();
        };
        let (exit, ()) = tokio::join!(job, go);
        assert_eq!(exit.unwrap().code, Some(9));
    });
}
