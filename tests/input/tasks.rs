//! Tasks with what does not belong there.

use serde_json::{Value, json};
use worker_tests::{Home, ScriptedStudio, media, offers};

#[tokio::test]
async fn a_wrong_type_fails_the_job_for_good_and_names_the_field() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let _worker = home.start();
    let mut peer = studio.welcomed().await;
    let with = |mut claim: Value, field: &str, value: Value| {
        claim["task"][field] = value;
        claim
    };
    let image = || offers::image("job-1", "x");
    let video = || offers::video("job-1", "x", 64, 64, 1.0, 4);
    let rows = [
        (with(image(), "prompt", Value::Null), "prompt"),
        (with(image(), "prompt", json!(7)), "prompt"),
        (with(image(), "width", Value::Null), "width"),
        (with(image(), "width", json!("wide")), "width"),
        (with(image(), "width", json!(-1)), "width"),
        (with(image(), "steps", Value::Null), "steps"),
        (with(image(), "steps", json!(1.5)), "steps"),
        (with(image(), "ext", Value::Null), "ext"),
        (with(video(), "seconds", Value::Null), "seconds"),
        (with(video(), "height", json!([])), "height"),
        (
            with(offers::speech("job-1", "x"), "text", Value::Null),
            "text",
        ),
        (
            with(offers::transcript("job-1", "x"), "inputUrl", Value::Null),
            "inputUrl",
        ),
        (
            with(offers::chat("job-1", "x"), "messages", Value::Null),
            "messages",
        ),
        (
            with(offers::chat("job-1", "x"), "messages", json!([{"role": 5}])),
            "messages",
        ),
        (
            with(offers::chat("job-1", "x"), "maxTokens", Value::Null),
            "maxTokens",
        ),
    ];
    for (claim, field) in rows {
        peer.accepted(&claim).await;
        let (error, retryable) = peer.expect_fail().await;
        assert!(error.contains(field) && !retryable, "{field}: {error}");
        assert!(!error.contains('\n'), "one line: {error}");
    }
    // Null for what is optional is nothing.
    let mut claim = image();
    for field in [
        "negativePrompt",
        "initImageUrl",
        "seed",
        "cfgScale",
        "samplingMethod",
    ] {
        claim["task"][field] = Value::Null;
    }
    peer.accepted(&claim).await;
    studio.called("complete", 1).await;
}

#[tokio::test]
async fn prompts_of_a_megabyte_go_through_whole() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let _worker = home.start();
    let mut peer = studio.welcomed().await;
    let words: String = "größe 漢字 🦊 ".chars().cycle().take(900_000).collect();
    assert!(words.len() > 1 << 20);
    peer.accepted(&offers::image("job-1", &words)).await;
    let form = studio.called("complete", 1).await.remove(0).form();
    assert_eq!(form[0].text().len(), words.len());
    assert!(form[0].text() == words);
    media::still(&form[2].content);
    peer.accepted(&offers::chat("job-2", &words)).await;
    let result = peer.expect_result().await;
    assert!(result["prompt"].as_str() == Some(words.as_str()));
    // Log lines stay lines that can be read.
    peer.accepted(&offers::speech("job-3", &words)).await;
    studio.called("complete", 2).await;
}

#[tokio::test]
async fn odd_texts_are_texts() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let _worker = home.start();
    let mut peer = studio.welcomed().await;
    let texts = [
        "",
        " ",
        "\u{0}",
        "\u{1b}[2J",
        "a\r\nb: c\r\n\r\n--boundary--",
        "\u{202e}rtl",
        "{{}}",
        "'; drop table jobs; --",
        "\u{feff}x",
    ];
    for (number, text) in texts.iter().enumerate() {
        peer.accepted(&offers::image(&format!("job-{number}"), text))
            .await;
        let form = studio
            .called("complete", number + 1)
            .await
            .remove(number)
            .form();
        assert_eq!(form[0].text(), *text);
    }
}

#[tokio::test]
async fn deep_and_wide_tasks_are_answered() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let _worker = home.start();
    let mut peer = studio.welcomed().await;
    let task = format!(
        "{{\"kind\":\"llm\",\"messages\":[{{\"role\":\"user\",\"content\":\"hi\"}}],\"extra\":{}{}}}",
        "[".repeat(20_000),
        "]".repeat(20_000)
    );
    let source = offers::source("synthetic");
    let claim = format!(
        "{{\"jobId\":\"deep\",\"model\":\"m\",\"vramGbEstimate\":1,\"task\":{task},\"modelSource\":{source}}}"
    );
    peer.text(&format!("{{\"type\":\"offer\",\"claim\":{claim}}}"))
        .await;
    // Taken, failed or refused: an answer, and the session lives.
    loop {
        let frame = peer.frame().await;
        if ["reject", "completeJson", "fail"]
            .iter()
            .any(|kind| frame["type"] == *kind)
        {
            break;
        }
    }
    let mut wide = offers::chat("wide", "hi");
    wide["task"]["extra"] = json!(vec![0; 200_000]);
    peer.accepted(&wide).await;
    peer.expect_result().await;
    assert_eq!(studio.calls("connect").len(), 1);
}
