//! What reaches the studio: the form of an upload, the frame of a JSON result.

use serde_json::json;
use worker_tests::{Home, ScriptedStudio, media, offers};

#[tokio::test]
async fn an_upload_has_three_fields_in_order_and_the_whole_prompt() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let _worker = home.start();
    let mut peer = studio.welcomed().await;
    let prompt = offers::long_prompt();
    assert!(prompt.chars().count() == 300 && prompt.len() > 300);
    peer.accepted(&offers::image("job-1", &prompt)).await;
    let call = studio.called("complete", 1).await.remove(0);
    assert_eq!(call.path, "w-1/job-1");
    assert_eq!(call.header("authorization"), Some("Bearer tok"));
    let length: usize = call
        .header("content-length")
        .expect("a length is announced")
        .parse()
        .unwrap();
    assert_eq!(length, call.body.len());
    let form = call.form();
    let names: Vec<&str> = form.iter().map(|field| field.name.as_str()).collect();
    assert_eq!(names, ["prompt", "ext", "image"]);
    assert_eq!(form[0].text().as_bytes(), prompt.as_bytes());
    assert_eq!(form[1].text(), "webp");
    assert_eq!(form[2].filename.as_deref(), Some("job-1.webp"));
    assert_eq!(form[2].content_type.as_deref(), Some("image/webp"));
    media::still(&form[2].content);
    assert!(
        !media::holds(&form[2].content, &prompt),
        "the file itself carries no prompt"
    );
}

#[tokio::test]
async fn each_kind_of_media_names_its_type() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let _worker = home.start();
    let mut peer = studio.welcomed().await;
    let png = {
        let mut claim = offers::image("job-1", "x");
        claim["task"]["ext"] = json!("png");
        claim
    };
    let rows = [
        (png, "png", "image/png", "x"),
        (
            offers::speech("job-2", "some words"),
            "wav",
            "audio/wav",
            "some words",
        ),
        (
            offers::video("job-3", "waves", 64, 64, 0.5, 4),
            "webp",
            "image/webp",
            "waves",
        ),
    ];
    for (count, (claim, ext, media_type, prompt)) in rows.into_iter().enumerate() {
        peer.accepted(&claim).await;
        let call = studio.called("complete", count + 1).await.remove(count);
        let form = call.form();
        assert_eq!(form[0].text(), prompt);
        assert_eq!(form[1].text(), ext);
        assert_eq!(form[2].content_type.as_deref(), Some(media_type));
        let name = format!("{}.{ext}", claim["jobId"].as_str().unwrap());
        assert_eq!(form[2].filename.as_deref(), Some(name.as_str()));
    }
}

#[tokio::test]
async fn a_json_result_carries_the_text_that_people_know_it_by() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let _worker = home.start();
    let mut peer = studio.welcomed().await;
    let words = offers::long_prompt();
    peer.accepted(&offers::chat("job-1", &words)).await;
    let result = peer.expect_result().await;
    assert_eq!(result["prompt"], words, "the last message, whole");
    assert_eq!(result["result"]["object"], "chat.completion");
    let none = {
        let mut claim = offers::chat("job-2", "x");
        claim["task"]["messages"] = json!([]);
        claim
    };
    peer.accepted(&none).await;
    assert_eq!(peer.expect_result().await["prompt"], "");
    peer.accepted(&offers::transcript("job-3", "https://h.example/a.wav?x=1"))
        .await;
    assert_eq!(
        peer.expect_result().await["prompt"],
        "https://h.example/a.wav?x=1"
    );
    assert!(studio.calls("complete").is_empty());
}

/// The studio's next offer may come before the answer to the upload has been read.
#[tokio::test]
async fn an_offer_right_behind_a_result_is_taken() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let _worker = home.start();
    let mut peer = studio.welcomed().await;
    for number in 0..10 {
        peer.accepted(&offers::image(&format!("job-{number}"), "x"))
            .await;
        studio.called("complete", number + 1).await;
    }
    for number in 10..20 {
        peer.accepted(&offers::chat(&format!("job-{number}"), "x"))
            .await;
        peer.expect("completeJson").await;
    }
}

#[tokio::test]
async fn what_a_job_leaves_behind() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let worker = home.start();
    let mut peer = studio.welcomed().await;
    peer.accepted(&offers::video("job-1", "waves", 64, 64, 1.0, 4))
        .await;
    studio.called("complete", 1).await;
    worker
        .status("an idle worker", |status| status["busy"] == false)
        .await;
    let left = |folder: &str| {
        std::fs::read_dir(home.path(folder))
            .unwrap()
            .flatten()
            .map(|e| e.path())
            .collect::<Vec<_>>()
    };
    worker_tests::wait::until("an empty scratch folder", || {
        home.scratch_folders().is_empty().then_some(())
    })
    .await;
    assert!(
        left("state/spool")
            .iter()
            .all(|path| path.is_dir() || path.ends_with(".lock")),
        "{:?}",
        left("state/spool")
    );
    for place in left("state/spool-in-place") {
        let bytes = std::fs::read(&place).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0), "{place:?}");
    }
    let mut journals = left("state/journal");
    // Beside the journals lies the folder of what they name by digest.
    journals.retain(|path| path.is_file());
    assert_eq!(journals.len(), 1);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(
        journals[0].metadata().unwrap().permissions().mode() & 0o777,
        0o600
    );
    // Nothing waits for the journal, so its last lines may come after all else.
    let journal = worker_tests::wait::until("a whole journal", || {
        let journal = std::fs::read_to_string(&journals[0]).unwrap();
        journal.contains("\"delivered\"").then_some(journal)
    })
    .await;
    let events: Vec<serde_json::Value> = journal
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let names: Vec<&str> = events
        .iter()
        .map(|event| event["event"].as_str().unwrap())
        .collect();
    assert!(names.contains(&"offered"), "{names:?}");
    assert!(names.contains(&"delivered"), "{names:?}");
}
