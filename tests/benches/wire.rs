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
    let home = Home::new();
    let worker = home.start();
    worker.connected().await;
    let studio = ScriptedStudio::start().await;
    let ours_home = Home::approved(&studio.base());
    let ours = ours_home.start();
    let ours = times(&studio, ours).await;
    let theirs = match reference::program() {
        Some(program) => {
            let studio = ScriptedStudio::start().await;
            let home = Home::approved(&studio.base());
            home.configure("auto_update_enabled = false");
            Some(times(&studio, reference::start(&program, &home)).await)
        }
        None => None,
    };
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

/// The median of each kind.
async fn times(studio: &ScriptedStudio, worker: Worker) -> Vec<Duration> {
    let mut peer = studio.welcomed().await;
    let mut medians = Vec::new();
    let mut number = 0;
    for (_, claim) in KINDS {
        let mut times = Vec::new();
        for _ in 0..JOBS {
            number += 1;
            let claim = claim(&format!("job-{number}"), &format!("words {number}"));
            times.push(one(studio, &mut peer, &claim).await);
        }
        medians.push(median(times));
    }
    drop(worker);
    medians
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
