//! Cancels and signals: exactly one answer, no process left, nothing lost.

use std::path::Path;

use serde_json::{Value, json};
use worker_tests::wait::until;
use worker_tests::{FileServer, Home, Peer, ScriptedStudio, SdCli, Worker, built, offers};

/// A scripted studio, a worker, and one job in the stand-in.
struct Rig {
    home: Home,
    sd: SdCli,
    worker: Worker,
    peer: Peer,
    studio: ScriptedStudio,
    _files: FileServer,
}

impl Rig {
    /// Starts a job while the program behaves as told, and waits until it runs.
    async fn running(mode: &str, extensions: &[&str], config: &str) -> Self {
        let (studio, sd, files) = (
            ScriptedStudio::start().await,
            SdCli::install(),
            FileServer::start().await,
        );
        sd.mode(mode);
        let home = Home::approved(&studio.base());
        home.configure(config);
        let path = sd.path();
        let worker = home.start_with(&built::root().join("plugins"), &sd.env(&path));
        let mut peer = studio.welcomed_with(extensions).await;
        let model = offers::model_file("diffusion-model", &files.put("m.gguf", "GGUF"), "m.gguf");
        peer.accepted(&offers::sd_image("job-1", vec![model], &json!({})))
            .await;
        until("the program's start", || {
            sd.events()
                .iter()
                .find(|e| e["event"] == "generate")
                .cloned()
        })
        .await;
        Self {
            home,
            sd,
            worker,
            peer,
            studio,
            _files: files,
        }
    }

    /// Waits until every process that the program ever was is gone.
    async fn programs_gone(&self) {
        for run in self.sd.runs() {
            gone(&run["pid"]).await;
        }
    }
}

async fn gone(pid: &Value) {
    let path = format!("/proc/{pid}");
    until(&format!("the end of process {pid}"), || {
        (!Path::new(&path).exists()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_job_ends_its_program_and_fails_for_good() {
    for mode in ["hang", "ignore-term"] {
        let mut rig = Rig::running(mode, &["jobCancel"], "").await;
        rig.peer
            .send(json!({"type": "jobCancel", "jobId": "somebody-elses"}))
            .await;
        rig.peer
            .send(json!({"type": "jobCancel", "jobId": "job-1"}))
            .await;
        let (error, retryable) = rig.peer.expect_fail().await;
        assert!(error.contains("cancel") && !retryable, "{error}");
        rig.programs_gone().await;
        // The slot is free.
        rig.peer.accepted(&offers::chat("job-2", "hi")).await;
        rig.peer.expect_result().await;
        assert!(rig.studio.calls("complete").is_empty());
    }
}

#[tokio::test]
async fn a_program_that_leaves_a_child_behind_is_ended_with_it() {
    let mut rig = Rig::running("grandchild", &[], "").await;
    rig.studio.called("complete", 1).await;
    let group = || {
        let pid = rig.sd.runs()[0]["pid"].as_u64().unwrap().to_string();
        processes_of_group(&pid)
    };
    until("an empty process group", || {
        group().is_empty().then_some(())
    })
    .await;
    rig.peer.accepted(&offers::chat("job-2", "hi")).await;
}

/// Processes whose group is that of `leader`.
fn processes_of_group(leader: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // After the name in parentheses: state, parent, group.
        let Some((_, rest)) = stat.rsplit_once(") ") else {
            continue;
        };
        let fields: Vec<&str> = rest.split(' ').collect();
        if fields.get(2) == Some(&leader) && fields.first() != Some(&"Z") {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found
}

#[tokio::test]
async fn the_first_signal_finishes_the_job_in_hand() {
    let mut rig = Rig::running("slow 4000", &[], "").await;
    rig.worker.terminate();
    rig.worker.line("finishing the job in hand").await;
    let (code, reason) = rig.peer.rejected(&offers::chat("job-2", "hi")).await;
    assert_eq!(code, "busy", "{reason}");
    let call = rig.studio.called("complete", 1).await.remove(0);
    assert_eq!(call.path, "w-1/job-1");
    rig.peer.closed_with("session ended").await;
    assert!(rig.worker.ended().await.success());
}

#[tokio::test]
async fn a_second_signal_cancels_it_and_says_so() {
    let mut rig = Rig::running("ignore-term", &[], "").await;
    rig.worker.interrupt();
    rig.worker.line("finishing the job in hand").await;
    rig.worker.terminate();
    let (error, retryable) = rig.peer.expect_fail().await;
    assert!(error.contains("stopping") && retryable, "{error}");
    rig.peer.closed_with("session ended").await;
    assert!(rig.worker.ended().await.success());
    rig.programs_gone().await;
    assert!(rig.studio.calls("complete").is_empty());
}

#[tokio::test]
async fn a_drain_that_takes_too_long_cancels_the_job() {
    let mut rig = Rig::running("hang", &[], "drain_timeout_secs = 1").await;
    rig.worker.terminate();
    let (error, retryable) = rig.peer.expect_fail().await;
    assert!(error.contains("stopping") && retryable, "{error}");
    assert!(rig.worker.ended().await.success());
    rig.programs_gone().await;
}

#[tokio::test]
async fn a_worker_that_is_killed_takes_its_programs_along() {
    let mut rig = Rig::running("hang", &[], "").await;
    rig.worker.kill().await;
    rig.programs_gone().await;
    // What it left lying about is swept at the next start.
    let left = || rig.home.scratch_folders().len();
    assert_ne!(left(), 0, "a killed worker cannot clean up");
    let _again = rig.home.start();
    rig.studio.welcomed().await;
    assert_eq!(left(), 0);
}

#[tokio::test]
async fn a_session_that_ends_for_good_lets_the_job_finish_and_its_product_goes_with_the_next_start()
{
    let mut rig = Rig::running("slow 2000", &[], "").await;
    rig.peer.error("internal_error").await;
    assert_eq!(rig.worker.ended().await.code(), Some(1));
    rig.programs_gone().await;
    assert!(rig.studio.calls("complete").is_empty());
    let _again = rig.home.start();
    let _peer = rig.studio.welcomed().await;
    let call = rig.studio.called("complete", 1).await.remove(0);
    assert_eq!(call.path, "w-1/job-1");
}

#[tokio::test]
async fn a_refused_session_ends_a_job_that_takes_too_long_with_the_worker() {
    let mut rig = Rig::running("hang", &[], "drain_timeout_secs = 1").await;
    rig.peer.error("auth_failed").await;
    assert_eq!(rig.worker.ended().await.code(), Some(1));
    rig.programs_gone().await;
}

#[tokio::test]
async fn progress_goes_only_to_a_studio_that_listed_it() {
    let mut rig = Rig::running("slow 2000", &["progress"], "").await;
    let progress = rig.peer.expect("progress").await;
    assert_eq!(progress["jobId"], "job-1");
    assert!(
        progress["done"].is_u64() && progress["total"].is_u64(),
        "{progress}"
    );

    let mut rig = Rig::running("slow 2000", &[], "").await;
    rig.studio.called("complete", 1).await;
    rig.worker.terminate();
    let (frames, _) = rig.peer.end().await;
    assert!(
        frames.iter().all(|frame| frame["type"] != "progress"),
        "{frames:?}"
    );
}

#[tokio::test]
async fn the_studio_inside_cancels_queued_and_running_jobs() {
    let (home, sd, files) = (Home::new(), SdCli::install(), FileServer::start().await);
    sd.mode("hang");
    let path = sd.path();
    let worker = home.start_with(&built::root().join("plugins"), &sd.env(&path));
    let api = worker.connected().await;
    let model = offers::model_file("diffusion-model", &files.put("m.gguf", "GGUF"), "m.gguf");
    let running = api
        .offer(&offers::sd_image("running", vec![model], &json!({})))
        .await;
    until("the program's start", || sd.runs().first().cloned()).await;
    let queued = api.offer(&offers::chat("queued", "hi")).await;
    home.run(&["cancel", &queued]).await.ok();
    home.run(&["cancel", &running]).await.ok();
    assert_eq!(api.over(&queued).await["state"], "cancelled");
    assert_eq!(api.over(&running).await["state"], "cancelled");
    gone(&sd.runs()[0]["pid"]).await;
    let error = home.run(&["cancel", "never-was"]).await.error();
    assert!(error.contains("no such job"), "{error}");
    let id = api.offer(&offers::chat("after", "hi")).await;
    api.result(&id).await;
}

/// Too little memory is the usual cause of an end without a word, and nobody but the host can say what there was.
#[tokio::test]
async fn an_unexplained_end_tells_what_memory_there_was() {
    let rows = [("abort", true), ("killed", true), ("fail-generate", false)];
    for (mode, told) in rows {
        let mut rig = Rig::running(mode, &[], "").await;
        let (error, _) = rig.peer.expect_fail().await;
        assert_eq!(
            error.contains("GiB of main memory left"),
            told,
            "{mode}: {error}"
        );
        let gpu = error.contains("no GPU memory can be measured") || error.contains(" of its ");
        assert_eq!(gpu, told, "{mode}: {error}");
    }
}
