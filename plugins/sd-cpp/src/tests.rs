//! Whole jobs, step by step, as a host would see them.

use studio_plugin::{Effect, Exit, File, Finished, Next, Outcome, Output, Part, RawJob, executor};

use super::*;
use crate::testing::{NEWEST, OLD, backend, file, raw};

fn step(raw: &RawJob, history: &[Outcome]) -> Result<Next, Failure> {
    let job = Job::read(raw.clone())?;
    executor::step(history.to_vec(), |context| SdCpp::run(context, job))
}

fn effects(next: Result<Next, Failure>) -> Vec<Effect> {
    match next.unwrap() {
        Next::Perform(effects) => effects,
        Next::Finish(_) => panic!("finished too early"),
    }
}

fn finished(next: Result<Next, Failure>) -> Finished {
    match next.unwrap() {
        Next::Finish(finished) => finished,
        Next::Perform(effects) => panic!("wants more: {effects:?}"),
    }
}

fn exit(outputs: Vec<File>) -> Outcome {
    Outcome::Exited(Exit {
        code: Some(0),
        signal: None,
        timed_out: false,
        out_of_memory: false,
        stdout_tail: "[INFO ] s.cpp:1 - generate_image 104x72\n".to_owned(),
        stderr_tail: String::new(),
        wall_ms: 900,
        outputs: vec![outputs],
        extra: Vec::new(),
    })
}

const FILES: &[(&str, &str)] = &[("diffusion-model", "z.gguf"), ("vae", "ae.safetensors")];

#[test]
fn three_steps_with_everything_fetched_in_one_round() {
    let job = raw(
        r#""width":100,"height":70,"seed":5,"negativePrompt":"blur","initImageUrl":"https://a/i?x=1","maskUrl":"https://a/m""#,
        FILES,
    );
    let first = effects(step(&job, &[]));
    let (model, pictures) = match first.as_slice() {
        [
            Effect::Fetch(model),
            Effect::Fetch(pictures),
            Effect::Write((name, parts)),
            Effect::Write((negative, _)),
        ] => {
            assert_eq!(
                (name.as_str(), negative.as_str()),
                ("prompt.txt", "negative-prompt.txt")
            );
            assert_eq!(parts, &[Part::Bytes(b"a fox".to_vec())]);
            (model, pictures)
        }
        other => panic!("{other:?}"),
    };
    let cached: Vec<_> = model
        .iter()
        .map(|download| download.cache_as.as_deref())
        .collect();
    assert_eq!(cached, [Some("z.gguf"), Some("ae.safetensors")]);
    assert!(
        pictures
            .iter()
            .all(|download| download.cache_as.is_none() && download.max_bytes == Some(64 << 20))
    );
    assert_eq!(
        pictures.first().map(|download| download.url.as_str()),
        Some("https://a/i?x=1")
    );

    let mut history = vec![
        Outcome::Files(vec![file(1, "z.gguf", ""), file(2, "ae.safetensors", "")]),
        Outcome::Files(vec![file(3, "i", "image/jpeg"), file(4, "m", "image/png")]),
        Outcome::Files(vec![file(5, "prompt.txt", "text/plain")]),
        Outcome::Files(vec![file(6, "negative-prompt.txt", "text/plain")]),
    ];
    let second = effects(step(&job, &history));
    assert!(
        matches!(second.as_slice(), [Effect::Run(command)] if command.backend == "sd-cli" && command.environment.len() == 2)
    );

    history.push(exit(vec![file(7, "picture.webp", "image/webp")]));
    let done = finished(step(&job, &history));
    match done.output {
        Output::Media(media) => {
            assert_eq!((media.content, media.ext.as_str()), (Part::File(7), "webp"))
        }
        Output::Json(text) => panic!("{text}"),
    }
    let facts: Vec<_> = done
        .facts
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(
        facts,
        [
            ("seed", "5"),
            ("width", "104"),
            ("height", "72"),
            ("steps", "8"),
            ("cfg-scale", "1"),
            ("program", "sd-cli")
        ]
    );
}

#[test]
fn what_cannot_be_done_is_said_before_anything_is_fetched() {
    let mut other_kind = raw("", FILES);
    other_kind.kind = "llm".to_owned();
    let mut no_program = raw("", FILES);
    no_program.backends.clear();
    let mut no_source = raw("", FILES);
    no_source.model_source = "null".to_owned();
    for (job, said) in [
        (other_kind, "cannot serve llm tasks"),
        (no_program, "sd-cli is not on this machine"),
        (no_source, "the offer has no modelSource"),
        (raw(r#""seed":18446744073709551615"#, FILES), "task.seed"),
        (
            raw("", &[("diffusion-model", "z"), ("lora", "style.pt")]),
            "style.pt",
        ),
        (raw(r#""width":null"#, FILES), "task.width"),
    ] {
        let failure = step(&job, &[]).unwrap_err();
        assert!(failure.message.contains(said), "{}", failure.message);
    }
}

#[test]
fn a_failed_download_fails_the_job_and_says_of_what() {
    let job = raw(r#""initImageUrl":"https://a/i""#, FILES);
    let count = effects(step(&job, &[])).len();
    assert_eq!(count, 3);
    let gone = || Outcome::Failed(Failure::permanent("https://x answered 404"));
    let files = || Outcome::Files(vec![file(1, "z.gguf", ""), file(2, "v", "")]);
    let prompt = || Outcome::Files(vec![file(5, "prompt.txt", "")]);
    let pictures = || Outcome::Files(vec![file(3, "i.png", "image/png")]);
    for (history, said) in [
        (
            vec![gone(), pictures(), prompt()],
            "fetching the model: https://x answered 404",
        ),
        (
            vec![files(), gone(), prompt()],
            "fetching the task's pictures: https://x answered 404",
        ),
    ] {
        let failure = step(&job, &history).unwrap_err();
        assert_eq!(failure.message, said);
        assert!(!failure.retryable);
    }
    let page = Outcome::Files(vec![file(3, "i.png", "text/html")]);
    let failure = step(&job, &[files(), page, prompt()]).unwrap_err();
    assert!(failure.message.contains("the initial picture is text/html"));
}

#[test]
fn an_old_program_is_driven_with_what_it_has() {
    let mut job = raw(r#""ext":"webp""#, FILES);
    job.backends = vec![backend(OLD)];
    // No file for the prompt, and PNG, which is converted afterwards.
    assert_eq!(effects(step(&job, &[])).len(), 1);
    let history = [
        Outcome::Files(vec![file(1, "z.gguf", ""), file(2, "v", "")]),
        exit(vec![file(7, "picture.png", "image/png")]),
    ];
    match finished(step(&job, &history)).output {
        Output::Media(media) => assert_eq!(media.ext, "png"),
        Output::Json(text) => panic!("{text}"),
    }
}

#[test]
fn no_picture_is_a_failure_whatever_the_program_says() {
    let job = raw("", FILES);
    let fetched = [
        Outcome::Files(vec![file(1, "z.gguf", ""), file(2, "v", "")]),
        Outcome::Files(vec![file(5, "prompt.txt", "")]),
    ];
    let mut empty = file(7, "picture.webp", "");
    empty.size = 0;
    for outputs in [Vec::new(), vec![empty]] {
        let history: Vec<_> = fetched.iter().cloned().chain([exit(outputs)]).collect();
        let failure = step(&job, &history).unwrap_err();
        assert!(
            failure.message.contains("wrote no picture"),
            "{}",
            failure.message
        );
    }
}

#[test]
fn it_says_what_it_serves_and_needs() {
    let description = SdCpp::describe();
    assert_eq!(description.engines, ["sd-cpp"]);
    let kinds: Vec<_> = description
        .kinds
        .iter()
        .map(|kind| (kind.kind.as_str(), kind.models.as_slice()))
        .collect();
    assert_eq!(kinds, [("image", ["sd-cpp:*".to_owned()].as_slice())]);
    let [backend, old, server] = description.backends.as_slice() else {
        panic!("{description:?}")
    };
    assert!(server.optional && server.strict_options && server.serves.is_some());
    assert_eq!(server.release, backend.release);
    assert_eq!(
        (backend.program.as_str(), backend.release.as_deref()),
        ("sd-cli", Some(RELEASE))
    );
    // One thing by two names.
    assert_eq!((old.name.as_str(), old.program.as_str()), ("sd-cli", "sd"));
    assert_eq!(
        backend.overrides.path.as_deref(),
        Some("STUDIO_WORKER_SD_CLI")
    );
    assert_eq!(backend.probes, [["--help"], ["--version"]]);
    assert!(backend.strict_options && backend.serves.is_none() && !backend.optional);
    // The probe that tests use is not another program than the one that the plugin writes for.
    assert!(Probe::read(&crate::testing::backend(NEWEST)).knows("--diffusion-fa"));
}
