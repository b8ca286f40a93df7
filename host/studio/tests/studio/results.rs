//! Uploads: into place, whole, once, and from nobody else.

use std::path::Path;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{Form, Rig, Worker, modern, raw};

fn files(rig: &Rig) -> Vec<String> {
    let folder = rig.dir.path().join("studio/results");
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

async fn running(rig: &Rig) -> (Worker, String) {
    let mut worker = rig.worker("i-1").await;
    rig.submit("x").await;
    let job = worker.accept().await;
    worker.beat_with(Some(&job)).await;
    (worker, job)
}

#[cfg(unix)]
fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn an_upload_finishes_the_job_and_brings_the_next_offer() {
    let rig = Rig::start().await;
    let (mut worker, job) = running(&rig).await;
    let next = rig.submit("next").await;
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
    let prompt = "ein 🐟 ".repeat(100);
    let response = rig
        .upload(worker.key(), &job, Form::of(&prompt, "webp", &bytes))
        .await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(worker.offer().await["jobId"], next.as_str());
    // A heartbeat that still names the finished job.
    worker.send(json!({"type": "accept", "jobId": next})).await;
    worker.expect_nothing(Some(&job)).await;

    let done = rig.job(&job).await;
    assert_eq!(done["state"], "done");
    assert_eq!(done["prompt"], prompt.as_str());
    assert_eq!(done["ext"], "webp");
    assert_eq!(done["mediaType"], "image/webp");
    assert_eq!(done["resultBytes"], 3_000_000);
    let result = rig
        .api(Method::GET, &format!("/jobs/{job}/result"))
        .send()
        .await
        .unwrap();
    assert_eq!(result.headers()["content-type"], "image/webp");
    assert_eq!(result.headers()["content-length"], "3000000");
    assert_eq!(result.bytes().await.unwrap(), bytes);
    assert_eq!(files(&rig), [format!("{job}.webp")]);
    #[cfg(unix)]
    {
        let studio = rig.dir.path().join("studio");
        assert_eq!(mode(&studio), 0o700);
        assert_eq!(mode(&studio.join("results")), 0o700);
        assert_eq!(mode(&studio.join("studio.sqlite")), 0o600);
        assert_eq!(mode(&studio.join("studio.sqlite-wal")), 0o600);
        assert_eq!(mode(&studio.join(format!("results/{job}.webp"))), 0o600);
    }
    // The list shows a preview of the prompt only.
    let list = rig.get("/jobs?state=done").await;
    assert_eq!(list[0]["prompt"].as_str().unwrap().chars().count(), 200);
    rig.end().await;
}

#[tokio::test]
async fn a_result_may_overtake_its_accept() {
    let rig = Rig::start().await;
    let mut worker = rig.worker_with("i-1", modern()).await;
    let job = rig.submit("x").await;
    worker.offer().await;
    let form = Form::of("p", "png", b"quick");
    let status = rig.upload(worker.key(), &job, form).await.status();
    assert_eq!(status, StatusCode::OK);
    worker.send(json!({"type": "accept", "jobId": job})).await;
    // Neither a violation nor a cancel: the next frame answers the heartbeat.
    worker.expect_nothing(Some(&job)).await;
    let next = rig.submit("next").await;
    assert_eq!(worker.accept().await, next);
    rig.end().await;
}

#[tokio::test]
async fn fields_come_in_any_order_and_unknown_ones_are_skipped() {
    let rig = Rig::start().await;
    let (worker, job) = running(&rig).await;
    let form = Form::new()
        .text("generationMeta", &"x".repeat(100_000))
        .file(b"RIFF....")
        .text("later", "1")
        .text("ext", "wav")
        .text("prompt", "p");
    assert_eq!(
        rig.upload(worker.key(), &job, form).await.status(),
        StatusCode::OK
    );
    assert_eq!(rig.job(&job).await["mediaType"], "audio/wav");
    assert_eq!(files(&rig), [format!("{job}.wav")]);
    rig.end().await;
}

#[tokio::test]
async fn what_is_no_upload_is_refused_and_leaves_nothing() {
    let rig = Rig::start().await;
    let (mut worker, job) = running(&rig).await;
    let cases = [
        ("no file", Form::new().text("ext", "png")),
        ("no ext", Form::new().text("prompt", "p").file(b"x")),
        ("two files", Form::of("p", "png", b"x").file(b"y")),
        ("two exts", Form::of("p", "png", b"x").text("ext", "jpg")),
        ("not multipart", Form::garbage(b"hello")),
        (
            "cut off",
            Form::garbage(
                b"--b0undary\r\nContent-Disposition: form-data; name=\"image\"\r\n\r\nxx",
            ),
        ),
        ("slash", Form::of("p", "../x", b"x")),
        ("dot", Form::of("p", "tar.gz", b"x")),
        ("empty ext", Form::of("p", "", b"x")),
        ("nul", Form::of("p", "a\0b", b"x")),
        ("long ext", Form::of("p", "abcdefghijklmnopq", b"x")),
        ("not ascii", Form::of("p", "é", b"x")),
    ];
    for (what, form) in cases {
        let status = rig.upload(worker.key(), &job, form).await.status();
        assert_eq!(status, StatusCode::BAD_REQUEST, "{what}");
        assert_eq!(files(&rig), Vec::<String>::new(), "{what}");
    }
    let plain = rig
        .http
        .post(rig.wire(&format!("/workers/{}/jobs/{job}/complete", worker.id)))
        .bearer_auth(&worker.token)
        .body("bytes")
        .send()
        .await
        .unwrap();
    assert_eq!(plain.status(), StatusCode::BAD_REQUEST);
    // The job is still its worker's.
    worker.beat_with(Some(&job)).await;
    let good = rig
        .upload(worker.key(), &job, Form::of("p", "PNG", b"x"))
        .await;
    assert_eq!(good.status(), StatusCode::OK);
    assert_eq!(rig.job(&job).await["mediaType"], "image/png");
    rig.end().await;
}

#[tokio::test]
async fn an_upload_needs_the_worker_the_token_and_the_claim() {
    let rig = Rig::start().await;
    let (worker, job) = running(&rig).await;
    let other = rig.worker("i-2").await;
    let form = || Form::of("p", "png", &[7; 2_000_000]);
    for (who, job, expected) in [
        (
            (worker.id.as_str(), "wrong"),
            job.as_str(),
            StatusCode::UNAUTHORIZED,
        ),
        (
            ("w-none", worker.token.as_str()),
            job.as_str(),
            StatusCode::NOT_FOUND,
        ),
        (
            (worker.id.as_str(), other.token.as_str()),
            job.as_str(),
            StatusCode::UNAUTHORIZED,
        ),
        (other.key(), job.as_str(), StatusCode::CONFLICT),
        (worker.key(), "job-none", StatusCode::CONFLICT),
        (worker.key(), "..%2F..%2Fx", StatusCode::CONFLICT),
    ] {
        let status = rig.upload(who, job, form()).await.status();
        assert_eq!(status, expected, "{job}");
    }
    assert_eq!(rig.job(&job).await["state"], "running");
    // Once it is here, the same worker's second post loses nothing; anybody else's is still refused.
    let status = rig.upload(worker.key(), &job, form()).await.status();
    assert_eq!(status, StatusCode::OK);
    let again = rig
        .upload(worker.key(), &job, Form::of("p", "png", b"other"))
        .await;
    assert_eq!(again.status(), StatusCode::OK);
    assert_eq!(rig.job(&job).await["resultBytes"], 2_000_000);
    assert_eq!(
        rig.upload(other.key(), &job, form()).await.status(),
        StatusCode::CONFLICT
    );
    rig.end().await;
}

#[tokio::test]
async fn an_upload_beyond_the_bound_is_refused() {
    let rig = Rig::with(|o| o.limits.upload_bytes = 1_500_000).await;
    let (worker, job) = running(&rig).await;
    let large = rig
        .upload(worker.key(), &job, Form::of("p", "mp4", &[0; 1_500_001]))
        .await;
    assert_eq!(large.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(files(&rig), Vec::<String>::new());
    let fits = rig
        .upload(worker.key(), &job, Form::of("p", "mp4", &[0; 1_500_000]))
        .await;
    assert_eq!(fits.status(), StatusCode::OK);
    rig.end().await;
}

#[tokio::test]
async fn the_history_is_bounded_with_its_results() {
    let rig = Rig::with(|o| o.limits.history = 2).await;
    let mut worker = rig.worker_with("i-1", modern()).await;
    let mut jobs = Vec::new();
    for n in 0..4u8 {
        rig.submit("x").await;
        let job = worker.accept().await;
        if n == 3 {
            worker.complete(&job, json!({"n": n})).await;
            assert_eq!(worker.frame().await["type"], "completeAck");
        } else {
            worker.beat_with(Some(&job)).await;
            let form = Form::of("p", "png", &[n]);
            assert_eq!(
                rig.upload(worker.key(), &job, form).await.status(),
                StatusCode::OK
            );
        }
        jobs.push(job);
    }
    for (job, there) in jobs.iter().zip([false, false, true, true]) {
        let path = format!("/jobs/{job}");
        let status = rig.api(Method::GET, &path).send().await.unwrap().status();
        assert_eq!(status == StatusCode::OK, there, "{job}");
    }
    let rig = rig.restart().await;
    assert_eq!(rig.get("/jobs").await.as_array().unwrap().len(), 2);
    assert_eq!(files(&rig), [format!("{}.png", jobs[2])]);
    assert_eq!(
        rig.get(&format!("/jobs/{}/result", jobs[3])).await,
        json!({"n": 3})
    );
    rig.end().await;
}

#[tokio::test]
async fn an_upload_that_stops_coming_is_given_up() {
    let rig = Rig::with(|o| o.timing.stall = Duration::from_millis(50)).await;
    let (mut worker, job) = running(&rig).await;
    let head = format!(
        "POST /graphics/api/workers/{}/jobs/{job}/complete HTTP/1.1\r\nHost: localhost\r\n\
         Authorization: Bearer {}\r\nContent-Type: {}\r\nContent-Length: 5000000\r\nConnection: close\r\n\r\n\
         --b0undary\r\nContent-Disposition: form-data; name=\"image\"\r\n\r\nsome bytes",
        worker.id,
        worker.token,
        Form::content_type()
    );
    assert_eq!(raw(&rig, &head).await, 408);
    assert_eq!(files(&rig), Vec::<String>::new());
    worker.expect_nothing(Some(&job)).await;
    assert_eq!(rig.job(&job).await["state"], "running");
    rig.end().await;
}
