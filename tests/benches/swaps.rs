//! From the rename of a new version of sd-cpp to the first job on it, while a studio offers one job after the other.
//!
//! Which version a job was done by stands in its journal. What is counted is the moment at which that job was taken, on the
//! studio's clock: it could not have been taken on the new version before the one in hand was over, so the time holds the rest of
//! that one too.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::oneshot;
use worker_tests::versions::{another, digest};
use worker_tests::{FileServer, Home, Peer, PluginFolder, ScriptedStudio, SdCli, offers};

use crate::{median, ms, p95};

/// Swaps to versions that nobody has compiled.
const COLD: usize = 25;
/// Swaps to versions whose compiled form is kept.
const CACHED: usize = 60;
/// Jobs before the first swap: as many as a comparison looks at.
const BEFORE: usize = 25;

pub(crate) async fn measure() {
    let (studio, sd, files) = (
        ScriptedStudio::start().await,
        SdCli::install(),
        FileServer::start().await,
    );
    let home = Home::approved(&studio.base());
    let folder = PluginFolder::first_party();
    let path = sd.path();
    let worker = home.start_with(folder.path(), &sd.env(&path));
    let peer = studio.welcomed().await;
    let log = Arc::new(Mutex::new(Vec::new()));
    let (stop, stopped) = oneshot::channel();
    let url = files.put("m.gguf", "GGUF weights");
    let offering = tokio::spawn(offer(studio, peer, url, log.clone(), stopped));
    until(|| log.lock().expect("no panic").len() >= BEFORE).await;

    let own = std::fs::read(folder.path().join("sd-cpp.wasm")).expect("the plugin");
    let run = Run {
        folder: folder.path(),
        journals: home.path("state/journal"),
        log: &log,
    };
    let mut cold = Vec::new();
    for number in 0..COLD {
        cold.push(run.swap(&another(&own, &format!("cold {number}"))).await);
    }
    let versions = [another(&own, "cold 0"), another(&own, "cold 1")];
    let mut cached = Vec::new();
    for number in 0..CACHED {
        cached.push(run.swap(&versions[number % 2]).await);
    }
    // A studio that hears no more.
    let _ = stop.send(());
    offering.await.expect("the studio");
    worker.stop().await;
    told("compiled anew", "under 1500 ms", &cold);
    told("compiled before", "under 60 ms", &cached);
    let all: Vec<Duration> = log
        .lock()
        .expect("no panic")
        .iter()
        .map(|job| job.answered)
        .collect();
    let during: Vec<Duration> = cold.iter().flat_map(|swap| swap.answers.clone()).collect();
    println!(
        "{:5.2} x  an offer's answer while a version is compiled, {} at p95, against {} in all; {} jobs were done on the version before during {COLD} compilations (never waits)",
        p95(during.clone()).as_secs_f64() / p95(all.clone()).as_secs_f64(),
        ms(p95(during.clone())),
        ms(p95(all)),
        during.len()
    );
}

fn told(how: &str, aim: &str, swaps: &[Swap]) {
    let times: Vec<Duration> = swaps.iter().map(|swap| swap.took).collect();
    println!(
        "{}  from rename to the first job on the new version at p95, {how}; {} at p50 ({aim} at p95)",
        ms(p95(times.clone())),
        ms(median(times))
    );
}

/// A job as its studio saw it.
#[derive(Clone)]
struct Seen {
    id: String,
    taken: Instant,
    /// From the offer to its answer.
    answered: Duration,
}

struct Swap {
    took: Duration,
    /// Of the offers that were answered meanwhile.
    answers: Vec<Duration>,
}

struct Run<'a> {
    folder: &'a Path,
    journals: PathBuf,
    log: &'a Mutex<Vec<Seen>>,
}

impl Run<'_> {
    async fn swap(&self, bytes: &[u8]) -> Swap {
        let wanted = digest(bytes);
        let from = self.log.lock().expect("no panic").len();
        let partial = self.folder.join("sd-cpp.wasm.part");
        std::fs::write(&partial, bytes).expect("a file");
        let renamed = Instant::now();
        std::fs::rename(partial, self.folder.join("sd-cpp.wasm")).expect("a rename");
        let mut at = from;
        let mut answers = Vec::new();
        loop {
            let next = self.log.lock().expect("no panic").get(at).cloned();
            let Some(job) = next else {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            };
            at += 1;
            if self.version_of(&job.id) == wanted {
                let took = job.taken.saturating_duration_since(renamed);
                return Swap { took, answers };
            }
            answers.push(job.answered);
            assert!(
                renamed.elapsed() < Duration::from_secs(60),
                "it never served"
            );
        }
    }

    /// The line of a journal that says what was offered, once it is there.
    fn offered(&self, end: &str) -> Option<String> {
        let found = std::fs::read_dir(&self.journals)
            .expect("journals")
            .flatten()
            .find(|entry| entry.file_name().to_string_lossy().ends_with(end))?;
        let text = std::fs::read_to_string(found.path()).expect("a journal");
        let whole = text.rsplit_once('\n')?.0;
        whole
            .lines()
            .find(|line| line.contains("\"event\":\"offered\""))
            .map(str::to_owned)
    }

    /// The digest of the engine that did a job.
    fn version_of(&self, job: &str) -> String {
        let end = format!("-{job}.jsonl");
        // A thread writes it, some milliseconds behind the job.
        let since = Instant::now();
        let offered = loop {
            if let Some(offered) = self.offered(&end) {
                break offered;
            }
            assert!(since.elapsed() < Duration::from_secs(10), "no journal");
            std::thread::sleep(Duration::from_millis(1));
        };
        let offered: Value = serde_json::from_str(&offered).expect("JSON");
        let plugins = offered["body"]["plugins"].as_array().expect("plugins");
        let named: HashMap<&str, &str> = plugins
            .iter()
            .filter_map(|one| Some((one["name"].as_str()?, one["sha256"].as_str()?)))
            .collect();
        named["sd-cpp"].to_owned()
    }
}

/// Offers one job after the other, and notes each once it is done.
async fn offer(
    studio: ScriptedStudio,
    mut peer: Peer,
    url: String,
    log: Arc<Mutex<Vec<Seen>>>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut number = 0;
    while stopped.try_recv().is_err() {
        number += 1;
        let id = format!("job-{number}");
        let model = offers::model_file("diffusion-model", &url, "m.gguf");
        let claim = offers::sd_image(&id, vec![model], &json!({"steps": 1}));
        let offered = Instant::now();
        peer.offer(&claim).await;
        let answer = peer.next_but(&["heartbeat", "logBatch"]).await;
        assert_eq!(answer["type"], "accept", "{answer}");
        let taken = Instant::now();
        studio.counted("complete", number).await;
        let seen = Seen {
            id,
            taken,
            answered: taken - offered,
        };
        log.lock().expect("no panic").push(seen);
    }
}

async fn until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
