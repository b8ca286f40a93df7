//! The five kinds through the studio inside, read by readers of other people's making.

use image::{ImageFormat, Rgb};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use worker_tests::{Home, media, offers};

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

fn hex16(text: &str) -> String {
    hex::encode(&digest(text)[..8])
}

/// The pattern, written anew from its description.
fn pixel(d: &[u8; 32], x: u32, y: u32) -> Rgb<u8> {
    let (fx, fy) = (x as f32, y as f32);
    let ring = (fx - 256.0).abs().max((fy - 256.0).abs()) / 256.0;
    let base = ((6.0 * ring).floor() as usize).min(3) * 3;
    let phase = ((fx / 24.0).sin() + (fy / 24.0).cos()) * 12.0;
    let channel =
        |index: usize, weight: f32| d[base + index].saturating_add((phase * weight) as i32 as u8);
    Rgb([channel(0, 1.0), channel(1, 0.7), channel(2, 1.3)])
}

#[tokio::test]
async fn all_five_kinds_from_a_persons_words() {
    let home = Home::new();
    let worker = home.start();
    let api = worker.connected().await;
    let submit = async |kind: &str, text: &str, options: Value| {
        api.submit(&json!({"kind": kind, "text": text, "model": "synthetic", "options": options}))
            .await
    };

    let id = submit("image", "a koi pond", json!({})).await;
    let bytes = api.result(&id).await;
    let (format, picture) = media::still(&bytes);
    assert_eq!(format, ImageFormat::WebP);
    let (picture, d) = (picture.to_rgb8(), digest("a koi pond"));
    assert_eq!(picture.dimensions(), (512, 512));
    let wrong = picture
        .enumerate_pixels()
        .filter(|(x, y, found)| **found != pixel(&d, *x, *y))
        .count();
    // The sine of another library may differ in the last bit, and with it a pixel where the product is nearly whole.
    assert!(wrong < 512 * 512 / 1000, "{wrong} pixels differ");

    let id = submit("llm", "say hi", json!({})).await;
    let answer: Value = serde_json::from_slice(&api.result(&id).await).unwrap();
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "synthetic-llm");
    assert_eq!(answer["choices"][0]["message"]["role"], "assistant");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let content = format!("[synthetic] reply to prompt #{}", hex16("user: say hi"));
    assert_eq!(answer["choices"][0]["message"]["content"], content);
    assert_eq!(
        answer["usage"],
        json!({"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11})
    );

    let url = "https://studio.example/in.wav";
    let id = submit("audio_stt", url, json!({})).await;
    let answer: Value = serde_json::from_slice(&api.result(&id).await).unwrap();
    let text = format!("[synthetic] transcript of {}", hex16(url));
    assert_eq!(
        answer,
        json!({"text": text, "language": "en", "duration": 1.0})
    );

    let id = submit("audio_tts", "good morning", json!({})).await;
    let (rate, channels, samples) = media::wav(&api.result(&id).await);
    assert_eq!((rate, channels, samples.len()), (22_050, 1, 22_050));
    let pitch = 220.0 + f32::from(digest("good morning")[0]) * 660.0 / 255.0;
    for (n, sample) in samples.iter().enumerate() {
        let wanted =
            (n as f32 / 22_050.0 * 2.0 * std::f32::consts::PI * pitch).sin() * 0.4 * 32_767.0;
        assert!(
            (f32::from(*sample) - wanted.trunc()).abs() <= 2.0,
            "sample {n}: {sample}, not {wanted}"
        );
    }

    let id = submit(
        "video",
        "waves",
        json!({"seconds": 1.0, "fps": 6, "width": 160, "height": 96}),
    )
    .await;
    let frames = media::frames(&api.result(&id).await);
    assert_eq!(frames.len(), 6);
    assert!(frames.iter().all(|frame| frame.dimensions() == (160, 96)));
    assert!(frames.windows(2).all(|pair| pair[0] != pair[1]), "it moves");
    worker.stop().await;
}

#[tokio::test]
async fn a_result_is_the_same_every_time() {
    let home = Home::new();
    let worker = home.start();
    let api = worker.connected().await;
    let first = api.offer(&offers::image("job-a", "twice")).await;
    let second = api.offer(&offers::image("job-b", "twice")).await;
    let (first, second) = (api.result(&first).await, api.result(&second).await);
    assert_eq!(media::still(&first).1, media::still(&second).1);
}

#[tokio::test]
async fn an_extension_that_was_asked_for_is_what_comes() {
    let home = Home::new();
    let worker = home.start();
    let api = worker.connected().await;
    let formats = [
        ("png", ImageFormat::Png),
        ("jpg", ImageFormat::Jpeg),
        ("bmp", ImageFormat::Bmp),
        ("webp", ImageFormat::WebP),
    ];
    for (ext, format) in formats {
        let mut claim = offers::image(&format!("job-{ext}"), "a fox");
        claim["task"]["ext"] = json!(ext);
        let id = api.offer(&claim).await;
        let bytes = api.result(&id).await;
        assert_eq!(media::still(&bytes).0, format, "{ext}");
        assert_eq!(api.job(&id).await["ext"], ext);
    }
}

/// Just under 64 million pixels in all, at the bound of 240 frames.
#[tokio::test]
async fn the_largest_video_is_whole() {
    let home = Home::new();
    let worker = home.start();
    let api = worker.connected().await;
    let id = api
        .offer(&offers::video("job-1", "the sea", 640, 416, 30.0, 8))
        .await;
    let frames = media::frames(&api.result(&id).await);
    assert_eq!(frames.len(), 240);
    assert!(frames.iter().all(|frame| frame.dimensions() == (640, 416)));
    assert_ne!(frames[0], frames[120]);
}

/// All 64 million pixels in one frame, and so in one step.
#[tokio::test]
async fn the_largest_frame_is_whole() {
    let home = Home::new();
    let worker = home.start();
    let api = worker.connected().await;
    let id = api
        .offer(&offers::video("job-1", "the sea", 8000, 8000, 0.125, 8))
        .await;
    let frames = media::frames(&api.result(&id).await);
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].dimensions(), (8000, 8000));
}

#[tokio::test]
async fn a_video_beyond_its_bounds_fails_for_good_and_names_them() {
    let home = Home::new();
    let worker = home.start();
    let api = worker.connected().await;
    let rows = [
        (offers::video("frames", "x", 64, 64, 31.0, 8), "240"),
        (offers::video("pixels", "x", 4096, 4096, 1.0, 8), "64"),
        (offers::video("none", "x", 64, 64, 0.0, 8), "task.seconds"),
    ];
    for (claim, named) in rows {
        let id = api.offer(&claim).await;
        let (error, retryable) = api.failure(&id).await;
        assert!(error.contains(named), "{error}");
        assert!(!retryable, "{error}");
    }
    let id = api.offer(&offers::chat("after", "hi")).await;
    api.result(&id).await;
}
