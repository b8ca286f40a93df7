use std::collections::HashMap;
use std::io::Cursor;

use image::AnimationDecoder;
use image::codecs::webp::WebPDecoder;
use studio_plugin::executor::step;
use studio_plugin::{Effect, Fields, Next, Outcome, Output, Task};

use super::*;

fn task(text: &str) -> VideoTask {
    VideoTask::read("video", Fields::parse("task", text).unwrap())
        .unwrap()
        .unwrap()
}

/// Plays the host: the clip's bytes, and how many steps it took.
fn play(text: &str) -> Result<(Vec<u8>, usize), Failure> {
    let task = task(text);
    let (mut history, mut files, mut steps) = (Vec::new(), HashMap::<u32, Vec<u8>>::new(), 0);
    loop {
        steps += 1;
        let next = step(history.clone(), |context| {
            let task = task.clone();
            async move { make(&context, &task).await }
        })?;
        let effects = match next {
            Next::Perform(effects) => effects,
            Next::Finish(finished) => {
                let Output::Media(media) = finished.output else {
                    panic!("not a file");
                };
                let Part::File(id) = media.content else {
                    panic!("bytes of the plugin's");
                };
                assert_eq!(media.ext, "webp");
                return Ok((files.remove(&id).unwrap(), steps));
            }
        };
        for effect in effects {
            let Effect::Write((name, parts)) = effect else {
                panic!("only writes are expected");
            };
            let mut bytes = Vec::new();
            for part in parts {
                match part {
                    Part::Bytes(part) => bytes.extend(part),
                    Part::File(id) => bytes.extend(&files[&id]),
                    Part::Base64(_) => panic!("not asked for"),
                }
            }
            let id = u32::try_from(files.len()).unwrap();
            let size = bytes.len() as u64;
            files.insert(id, bytes);
            history.push(Outcome::Files(vec![File {
                id,
                name,
                size,
                media_type: None,
            }]));
        }
    }
}

#[test]
fn a_clip_has_the_frames_size_and_pace_asked_for() {
    let (bytes, _) =
        play(r#"{"prompt":"waves","seconds":1.5,"fps":6,"width":65,"height":40}"#).unwrap();
    let decoder = WebPDecoder::new(Cursor::new(&bytes)).unwrap();
    assert!(decoder.has_animation());
    let frames = decoder.into_frames().collect_frames().unwrap();
    assert_eq!(frames.len(), 9);
    let mut last = None;
    let mut milliseconds = 0;
    for frame in frames {
        assert_eq!(frame.buffer().dimensions(), (65, 40));
        milliseconds += frame.delay().numer_denom_ms().0;
        let pixels = frame.into_buffer();
        assert_ne!(Some(&pixels), last.as_ref(), "it does not move");
        last = Some(pixels);
    }
    assert_eq!(milliseconds, 1500);
}

#[test]
fn the_wires_defaults_make_two_seconds_of_eight_frames() {
    let plan = Plan::of(&task(r#"{"prompt":"p"}"#)).unwrap();
    let expected = Plan {
        width: 512,
        height: 512,
        frames: 16,
        fps: 8,
    };
    assert_eq!(plan, expected);
    let short = Plan::of(&task(r#"{"prompt":"p","seconds":0.01}"#)).unwrap();
    assert_eq!(short.frames, 1);
}

#[test]
fn every_clip_within_bounds_needs_few_steps() {
    for (frames, width, height) in [
        (240, 1, 1),
        (240, 512, 512),
        (1, 16_383, 3_906),
        (15, 2060, 2060),
    ] {
        let plan = Plan {
            width,
            height,
            frames,
            fps: 8,
        };
        assert!(frames.div_ceil(plan.frames_per_step()) <= 32, "{plan:?}");
    }
    let (_, steps) =
        play(r#"{"prompt":"p","fps":3,"seconds":2,"width":1500,"height":1500}"#).unwrap();
    assert_eq!(steps, 6 + 1 + 1, "each frame, the joining, the end");
}

#[test]
fn beyond_the_bounds_it_fails_for_good_and_names_them() {
    for (text, named) in [
        (r#"{"prompt":"p","seconds":30.2}"#, "240 frames"),
        (
            r#"{"prompt":"p","seconds":3e38,"fps":4294967295}"#,
            "240 frames",
        ),
        (
            r#"{"prompt":"p","seconds":30,"width":513,"height":520}"#,
            "at most 64000000",
        ),
        (r#"{"prompt":"p","width":16384}"#, "16383 pixels"),
        (r#"{"prompt":"p","seconds":0}"#, "more than 0"),
        (r#"{"prompt":"p","fps":0}"#, "more than 0"),
    ] {
        let failure = play(text).unwrap_err();
        assert!(!failure.retryable);
        assert!(failure.message.contains(named), "{}", failure.message);
    }
    let largest = task(r#"{"prompt":"p","seconds":30,"width":512,"height":512}"#);
    assert_eq!(Plan::of(&largest).unwrap().frames, 240);
}
