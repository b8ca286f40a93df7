//! Programs that misbehave: each ends as specified, with the slot free, no process left and the disk clean.

use std::fs;

use serde_json::json;
use worker_tests::wait::until;

use crate::rig::{Rig, command, gone, pids, said};

/// Where shell scripts of these tests leave word, although a sandbox is around them.
fn open_folder() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "program_writable = {:?}\nprograms_without_sandbox = true",
        folder.path()
    );
    (folder, config)
}

fn message(outcome: &serde_json::Value) -> (&str, bool) {
    let failed = &outcome["Failed"];
    let message = failed["message"].as_str();
    (
        message.unwrap_or_else(|| panic!("not a failure: {outcome}")),
        failed["retryable"].as_bool().unwrap(),
    )
}

#[tokio::test]
async fn what_it_writes_is_bounded_while_it_runs() {
    let rig = Rig::start("program_written_mib = 64").await;
    let rows: [(&str, &[&str]); 5] = [
        ("one-file", &["fill", "big", "10240"]),
        ("a-hole", &["hole", "big", "10240"]),
        ("many-files", &["many", ".", "10240"]),
        ("no-name", &["nameless", "big", "10240"]),
        ("buried", &["bury", "10240"]),
    ];
    for (job, words) in rows {
        let outcome = rig.run(job, words).await;
        let (why, retryable) = message(&outcome);
        assert!(why.contains("64 MiB") && !retryable, "{job}: {why}");
    }
    let outcome = rig.run("fits", &["fill", "small", "8"]).await;
    assert_eq!(said(&outcome), "did", "what fits is left alone: {outcome}");
    rig.is_well("after").await;
}

/// What nobody can list is as bounded, and is gone afterwards; a start of the worker finds nothing that it cannot remove.
#[tokio::test]
async fn what_it_hides_is_too_much() {
    let config = "program_written_mib = 64\nprograms_without_sandbox = true";
    let Some(rig) = Rig::held_by_permissions(config).await else {
        return;
    };
    for (job, words) in [
        ("shut", ["shut", "10240"]),
        ("both", ["bury-shut", "10240"]),
    ] {
        let outcome = rig.run(job, &words).await;
        let (why, retryable) = message(&outcome);
        assert!(
            why.contains("nobody can look into") && !retryable,
            "{job}: {why}"
        );
    }
    rig.is_well("after").await;
}

#[tokio::test]
async fn silence_and_time_have_their_bounds() {
    let rig = Rig::start("program_silence_secs = 2\nprogram_step_secs = 3\n").await;
    let outcome = rig
        .run("silent", &["shell", "echo up; exec sleep 600"])
        .await;
    let (why, retryable) = message(&outcome);
    assert!(
        why.contains("printed nothing for 2 s") && retryable,
        "{why}"
    );
    // It goes on printing, but its work does not go on.
    let stuck = "echo progress 1/9; while :; do echo thinking; sleep 0.1; done";
    let outcome = rig.run("stuck", &["shell", stuck]).await;
    let (why, retryable) = message(&outcome);
    assert!(
        why.contains("no further progress for 3 s") && retryable,
        "{why}"
    );
    let mut hurried = command(&[
        "shell",
        "trap '' TERM; while :; do echo on; sleep 0.1; done",
    ]);
    hurried["run"]["timeout_ms"] = json!(700);
    let outcome = rig.history("endless", json!([hurried])).await;
    assert_eq!(outcome[0]["Exited"]["timed_out"], true, "{outcome:?}");
    assert_eq!(outcome[0]["Exited"]["signal"], 9, "{outcome:?}");
    rig.is_well("after").await;
}

#[tokio::test]
async fn descendants_end_with_the_program_wherever_they_went() {
    let (folder, config) = open_folder();
    let list = folder.path().join("pids");
    let list = list.to_str().unwrap();
    // Sandboxed it cannot leave its group; without, it is found by its mark.
    for (sandbox, config) in [
        (true, config.clone()),
        (false, format!("program_sandbox = false\n{config}")),
    ] {
        let rig = Rig::start(&config).await;
        let deaf = format!("trap '' TERM HUP; echo $$ >> {list}; while :; do sleep 0.05; done");
        fs::write(folder.path().join("deaf"), &deaf).unwrap();
        let deaf = folder.path().join("deaf");
        let deaf = deaf.display();
        let script = format!(
            "sh {deaf} & sh {deaf} >/dev/null 2>&1 & (sh {deaf} >/dev/null 2>&1 &) ; \
             setsid sh {deaf} >/dev/null 2>&1 & \
             while [ $(wc -l < {list}) -lt {} ]; do sleep 0.02; done; echo left; exit 0",
            if sandbox { 3 } else { 4 }
        );
        fs::write(list, "").unwrap();
        let outcome = rig.run("leaves", &["shell", &script]).await;
        assert_eq!(said(&outcome), "left", "{outcome}");
        let processes = pids(std::path::Path::new(list), if sandbox { 3 } else { 4 }).await;
        gone(&processes).await;
        rig.is_well("after").await;
    }
}

#[tokio::test]
async fn floods_closed_streams_and_aborts_are_told_as_they_are() {
    let rig = Rig::start("programs_without_sandbox = true").await;
    let outcome = rig
        .run(
            "flood",
            &[
                "shell",
                "yes the same line | head -c 60000000; echo; echo last",
            ],
        )
        .await;
    assert_eq!(said(&outcome), "last");
    let outcome = rig
        .run("closed", &["shell", "exec >&- 2>&-; sleep 0.3; exit 5"])
        .await;
    assert_eq!(outcome["Exited"]["code"], 5, "{outcome}");
    let outcome = rig.run("abort", &["abort"]).await;
    assert_eq!(
        (
            &outcome["Exited"]["signal"],
            &outcome["Exited"]["out_of_memory"]
        ),
        (&json!(6), &json!(false)),
        "{outcome}"
    );
    rig.is_well("after").await;
}

#[tokio::test]
async fn memory_beyond_the_bound_is_told_as_such() {
    let rig = Rig::start("program_memory_gb = 1").await;
    let outcome = rig.run("greedy", &["hold", "4096"]).await;
    assert_eq!(outcome["Exited"]["out_of_memory"], true, "{outcome}");
    let modest = "program_memory_gb leaves what fits";
    let outcome = rig.run("modest", &["nothing", modest]).await;
    assert_eq!(said(&outcome), "did");
    rig.is_well("after").await;
}

/// More processes and threads than a program may have: it is ended, or gets no more where the kernel holds it to them. Either way
/// others may start theirs.
#[tokio::test]
async fn a_program_that_multiplies_is_held_to_a_number() {
    let rig = Rig::start("").await;
    let outcome = rig.run("bomb", &["many-tasks", "30", "100"]).await;
    if rig
        .worker
        .lines()
        .iter()
        .any(|line| line.contains("a control group per run"))
    {
        assert!(said(&outcome).starts_with("refused: "), "{outcome}");
    } else {
        let (why, retryable) = message(&outcome);
        assert!(why.contains("processes and threads") && !retryable, "{why}");
    }
    rig.is_well("after").await;
}

/// A worker that is killed takes its program with it; what the program left behind ends at the next start.
#[tokio::test]
async fn nothing_outlives_a_killed_worker_and_the_next_start() {
    let (folder, config) = open_folder();
    let list = folder.path().join("pids");
    for sandbox in ["program_sandbox = true", "program_sandbox = false"] {
        let mut rig = Rig::start(&format!("{sandbox}\n{config}")).await;
        fs::write(&list, "").unwrap();
        let deaf = format!(
            "trap '' TERM HUP; echo $$ >> {}; while :; do sleep 0.05; done",
            list.display()
        );
        fs::write(folder.path().join("deaf"), deaf).unwrap();
        let deaf = folder.path().join("deaf");
        let script = format!(
            "sh {0} >/dev/null 2>&1 & (sh {0} >/dev/null 2>&1 &) ; exec sh {0}",
            deaf.display()
        );
        rig.offer("left-alone", json!([command(&["shell", &script])]))
            .await;
        let processes = pids(&list, 3).await;
        rig.worker.kill().await;
        let left = until("the program's own end", || {
            let left = processes.iter().filter(|path| path.exists()).count();
            (left < 3).then_some(left)
        })
        .await;
        // Were there none, the start would have nothing to do, and this test would not show that it does it.
        assert_eq!(left, 2, "its children are left");
        rig.again().await;
        gone(&processes).await;
    }
}
