//! From an offer to its result, as the studio's clock sees it.
//!
//! The same scripted studio for both workers: it offers a job, notes when the result is there, and offers the next. Then
//! ours once more through the studio inside, from `POST /api/jobs` to `done`.

use std::time::{Duration, Instant};

use serde_json::Value;
use worker_tests::{Home, Peer, ScriptedStudio, Worker, offers};

use crate::{median, ms, ratio, reference};

const JOBS: usize = 200;

/// Makes the offer of a kind: job id and prompt in, claim out.
type Offer = fn(&str, &str) -> Value;

/// What is measured, and how its claim is made.
const KINDS: [(&str, Offer); 5] = [
    ("llm", offers::chat),
    ("audio_stt", offers::transcript),
    ("image", offers::image),
    ("image as png", png),
    ("audio_tts", offers::speech),
];

fn png(job: &str, words: &str) -> Value {
    let mut claim = offers::image(job, words);
    claim["task"]["ext"] = "png".into();
    claim
}

pub(crate) async fn measure() {
    // First: installing it takes minutes, in which nobody answers the workers.
    let reference = reference::program();
    let home = Home::new();
    let worker = home.start();
    worker.connected().await;
    let ours = Side::of(|home| home.start()).await;
    let theirs = match reference {
        Some(program) => {
            let start = |home: &Home| {
                home.configure("auto_update_enabled = false");
                reference::start(&program, home)
            };
            Some(Side::of(start).await)
        }
        None => None,
    };
    let (ours, theirs) = times(ours, theirs).await;
    for (index, (kind, claim)) in KINDS.iter().enumerate() {
        let inside = median(inside(&worker, *claim).await);
        let tail = format!("{} through the studio inside", ms(inside));
        match &theirs {
            Some(theirs) => println!(
                "{:5.2} x  {kind}: {} against the reference worker's {}; {tail}",
                ratio(ours[index], theirs[index]),
                ms(ours[index]),
                ms(theirs[index])
            ),
            None => println!("  ?   x  {kind}: {}; {tail}", ms(ours[index])),
        }
    }
}

/// A worker and its studio.
struct Side {
    studio: ScriptedStudio,
    peer: Peer,
    _worker: Worker,
    _home: Home,
    times: Vec<Vec<Duration>>,
}

impl Side {
    async fn of(start: impl FnOnce(&Home) -> Worker) -> Self {
        let studio = ScriptedStudio::start().await;
        let home = Home::approved(&studio.base());
        let worker = start(&home);
        Self {
            peer: studio.welcomed().await,
            studio,
            _worker: worker,
            _home: home,
            times: vec![Vec::new(); KINDS.len()],
        }
    }

    async fn job(&mut self, kind: usize, claim: &Value) {
        let took = one(&self.studio, &mut self.peer, claim).await;
        self.times[kind].push(took);
    }

    fn medians(self) -> Vec<Duration> {
        self.times.into_iter().map(median).collect()
    }
}

/// The median of each kind, of both. They take turns job by job, so that both meet the same machine.
async fn times(mut ours: Side, mut theirs: Option<Side>) -> (Vec<Duration>, Option<Vec<Duration>>) {
    for (kind, (_, claim)) in KINDS.into_iter().enumerate() {
        for number in 0..JOBS {
            let claim = claim(&format!("job-{kind}-{number}"), &format!("words {number}"));
            ours.job(kind, &claim).await;
            if let Some(theirs) = &mut theirs {
                theirs.job(kind, &claim).await;
            }
        }
    }
    (ours.medians(), theirs.map(Side::medians))
}

/// One job, offered again where the worker has not freed its slot yet; the time counts from the offer it took.
pub(crate) async fn one(studio: &ScriptedStudio, peer: &mut Peer, claim: &Value) -> Duration {
    let uploads = studio.count("complete");
    let is_media = !["llm", "audio_stt"]
        .iter()
        .any(|kind| claim["task"]["kind"] == *kind);
    loop {
        let started = Instant::now();
        peer.offer(claim).await;
        let answer = peer.next_but(&["heartbeat", "logBatch"]).await;
        if answer["type"] == "reject" {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        }
        assert_eq!(answer["type"], "accept", "{answer}");
        if is_media {
            studio.counted("complete", uploads + 1).await;
        } else {
            peer.expect("completeJson").await;
        }
        let took = started.elapsed();
        if !is_media {
            peer.send(serde_json::json!({"type": "completeAck", "jobId": claim["jobId"]}))
                .await;
        }
        return took;
    }
}

/// Through the API of the studio inside, with a long poll for the end.
async fn inside(worker: &Worker, claim: fn(&str, &str) -> Value) -> Vec<Duration> {
    let api = worker.api().await;
    let mut times = Vec::new();
    for number in 0..JOBS / 4 {
        let mut claim = claim("x", &format!("words {number}"));
        claim.as_object_mut().expect("an object").remove("jobId");
        let started = Instant::now();
        let id = api.offer(&claim).await;
        let mut version = 0;
        loop {
            let job = api
                .get(&format!("/api/jobs/{id}?after={version}&waitMs=20000"))
                .await;
            version = job["version"].as_u64().expect("a version");
            match job["state"].as_str() {
                Some("done") => break,
                Some("failed" | "cancelled") => panic!("{job}"),
                _ => {}
            }
        }
        times.push(started.elapsed());
    }
    times
}
