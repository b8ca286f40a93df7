//! Releases of the program before and after each change that bites: the same job, the argument list that each takes, and
//! the stand-in as strict as that release is. Nothing tells the plugin the release but the help text.

use serde_json::{Value, json};
use worker_tests::sd_cli::{argv, value_of};
use worker_tests::{Api, FileServer, Home, SdCli, Worker, built, media, offers};

/// A worker with one release of the program.
struct Rig {
    sd: SdCli,
    files: FileServer,
    api: Api,
    _home: Home,
    _worker: Worker,
}

impl Rig {
    async fn of(release: u32) -> Self {
        let (home, sd, files) = (Home::new(), SdCli::install(), FileServer::start().await);
        sd.release(release);
        let path = sd.path();
        let worker = home.start_with(&built::root().join("plugins"), &sd.env(&path));
        let api = worker.connected().await;
        Self {
            sd,
            files,
            api,
            _home: home,
            _worker: worker,
        }
    }

    fn file(&self, role: &str, name: &str) -> Value {
        offers::model_file(role, &self.files.put(name, "GGUF"), name)
    }

    /// A picture of a whole model: what came, the arguments, what the program understood.
    async fn draw(&self, job: &str, task: Value, defaults: Value) -> Drawn {
        self.draw_with(job, vec![self.file("model", "m.gguf")], task, defaults)
            .await
    }

    async fn draw_with(&self, job: &str, files: Vec<Value>, task: Value, defaults: Value) -> Drawn {
        let mut offer = offers::sd_image(job, files, &task);
        for (name, value) in defaults.as_object().unwrap() {
            offer["modelSource"]["cliDefaults"][name] = value.clone();
        }
        let id = self.api.offer(&offer).await;
        let bytes = self.api.result(&id).await;
        let events = self.sd.events();
        let understood = events.iter().rev().find(|line| line["event"] == "generate");
        Drawn {
            format: media::still(&bytes).0,
            size: {
                let picture = media::still(&bytes).1;
                (picture.width(), picture.height())
            },
            words: argv(self.sd.runs().last().unwrap()),
            understood: understood.unwrap()["detail"].clone(),
        }
    }

    async fn refused(&self, job: &str, task: Value, defaults: Value) -> String {
        let mut offer = offers::sd_image(job, vec![self.file("model", "m.gguf")], &task);
        for (name, value) in defaults.as_object().unwrap() {
            offer["modelSource"]["cliDefaults"][name] = value.clone();
        }
        let id = self.api.offer(&offer).await;
        let (error, retryable) = self.api.failure(&id).await;
        assert!(!retryable, "{error}");
        assert!(self.sd.runs().is_empty(), "{error}");
        error
    }
}

struct Drawn {
    format: image::ImageFormat,
    size: (u32, u32),
    words: Vec<String>,
    understood: Value,
}

impl Drawn {
    fn has(&self, option: &str) -> bool {
        self.words.iter().any(|word| word == option)
    }
}

/// Options that a job cannot do without: refused in one line that names them before, used after.
#[tokio::test]
async fn options_that_came_later_are_refused_before_and_used_after() {
    for (first, option, defaults) in [
        (263, "--offload-to-cpu", json!({"offloadToCpu": true})),
        (265, "--flow-shift", json!({"flowShift": 3.0})),
        (596, "--max-vram", json!({"maxVramGib": 4.0})),
    ] {
        let before = Rig::of(first - 1).await;
        let error = before.refused("before", json!({}), defaults.clone()).await;
        assert!(error.contains(option), "{first}: {error}");
        let after = Rig::of(first)
            .await
            .draw("after", json!({}), defaults)
            .await;
        assert!(after.has(option), "{first}: {:?}", after.words);
    }
}

/// Options that only help: left out before, used after.
#[tokio::test]
async fn options_that_only_help_are_left_out_before() {
    for (first, option, defaults) in [
        (451, "--mmap", json!({"mmap": true})),
        (547, "--disable-image-metadata", json!({})),
        (716, "--prompt-file", json!({})),
    ] {
        for (release, there) in [(first - 1, false), (first, true)] {
            let drawn = Rig::of(release)
                .await
                .draw("job", json!({}), defaults.clone())
                .await;
            assert_eq!(drawn.has(option), there, "{release}: {:?}", drawn.words);
            assert_eq!(drawn.understood["prompt"], "a fox");
        }
    }
}

#[tokio::test]
async fn the_language_model_goes_by_the_name_that_the_release_has() {
    for (release, encoder, vision) in [
        (323, "--qwen2vl", "--qwen2vl_vision"),
        (377, "--qwen2vl", "--qwen2vl_vision"),
        (378, "--llm", "--llm_vision"),
        (827, "--llm", "--llm_vision"),
    ] {
        let rig = Rig::of(release).await;
        let files = vec![
            rig.file("diffusion-model", "d.gguf"),
            rig.file("text-encoder", "qwen.gguf"),
            rig.file("text-encoder-vision", "mmproj.gguf"),
        ];
        let drawn = rig.draw_with("job", files, json!({}), json!({})).await;
        for (option, name) in [(encoder, "qwen.gguf"), (vision, "mmproj.gguf")] {
            let value = value_of(&drawn.words, option).unwrap_or_default();
            assert!(value.ends_with(name), "{release}: {:?}", drawn.words);
        }
    }
    // Before there was one at all.
    for (release, role, option) in [
        (317, "text-encoder", "--llm"),
        (322, "text-encoder-vision", "--llm_vision"),
    ] {
        let rig = Rig::of(release).await;
        let files = vec![rig.file("model", "d.gguf"), rig.file(role, "qwen.gguf")];
        let id = rig
            .api
            .offer(&offers::sd_image("job", files, &json!({})))
            .await;
        let (error, retryable) = rig.api.failure(&id).await;
        assert!(error.contains(option) && !retryable, "{release}: {error}");
    }
}

#[tokio::test]
async fn three_encoders_go_by_their_names_on_every_release() {
    for release in [212, 827] {
        let rig = Rig::of(release).await;
        let files = vec![
            rig.file("model", "sd3.gguf"),
            rig.file("text-encoder", "t5xxl_fp16.safetensors.gguf"),
            rig.file("text-encoder", "clip_l.gguf"),
            rig.file("text-encoder", "clip_g.gguf"),
        ];
        let drawn = rig.draw_with("job", files, json!({}), json!({})).await;
        for (option, name) in [
            ("--clip_l", "clip_l.gguf"),
            ("--clip_g", "clip_g.gguf"),
            ("--t5xxl", "t5xxl_fp16.safetensors.gguf"),
        ] {
            assert!(
                value_of(&drawn.words, option).unwrap().ends_with(name),
                "{:?}",
                drawn.words
            );
        }
    }
}

#[tokio::test]
async fn the_zero_time_step_is_a_flag_and_later_an_argument_of_the_model() {
    let wanted = json!({"zeroCondT": true});
    let error = Rig::of(443)
        .await
        .refused("job", json!({}), wanted.clone())
        .await;
    assert!(error.contains("--model-args"), "{error}");
    for (release, flag) in [(444, true), (764, true), (765, false), (827, false)] {
        let drawn = Rig::of(release)
            .await
            .draw("job", json!({}), wanted.clone())
            .await;
        assert_eq!(
            drawn.has("--qwen-image-zero-cond-t"),
            flag,
            "{release}: {:?}",
            drawn.words
        );
        let argument = value_of(&drawn.words, "--model-args");
        let expected = (!flag).then_some("qwen_image_zero_cond_t=true");
        assert_eq!(argument.as_deref(), expected, "{release}");
    }
}

/// Up to 239 the mode decides whether a picture is looked at; nothing says so when it is not.
#[tokio::test]
async fn the_mode_is_said_as_long_as_there_is_one() {
    for (release, modes) in [(212, true), (239, true), (240, false)] {
        let rig = Rig::of(release).await;
        let picture = rig.files.put("p.png", media::png(64, 64));
        let plain = rig.draw("plain", json!({}), json!({})).await;
        assert!(!plain.has("-M"), "{release}");
        let initial = rig
            .draw("initial", json!({"initImageUrl": picture}), json!({}))
            .await;
        assert_eq!(initial.understood["init"], json!([64, 64]), "{release}");
        let reference = rig
            .draw("reference", json!({"refImageUrl": picture}), json!({}))
            .await;
        assert_eq!(reference.understood["references"], 1, "{release}");
        assert_eq!(
            (initial.has("-M"), reference.has("-M")),
            (modes, modes),
            "{release}"
        );
    }
}

#[tokio::test]
async fn sizes_are_rounded_as_the_release_wants_and_nothing_is_drawn_where_it_may() {
    for (release, size) in [
        (249, (128, 128)),
        (262, (128, 128)),
        (263, (104, 72)),
        (827, (104, 72)),
    ] {
        let rig = Rig::of(release).await;
        let drawn = rig
            .draw("job", json!({"width": 100, "height": 70}), json!({}))
            .await;
        assert_eq!(drawn.size, size, "{release}");
    }
    for release in [390, 391, 413, 414] {
        let drawn = Rig::of(release)
            .await
            .draw("job", json!({"prompt": ""}), json!({}))
            .await;
        assert_eq!(
            drawn.understood["prompt"].as_str().map(str::trim),
            Some(""),
            "{release}"
        );
    }
}

#[tokio::test]
async fn what_was_asked_for_comes_whatever_the_release_writes() {
    for (release, wrote) in [
        (551, "png"),
        (552, "png"),
        (585, "png"),
        (586, "webp"),
        (827, "webp"),
    ] {
        let drawn = Rig::of(release)
            .await
            .draw("job", json!({"ext": "webp"}), json!({}))
            .await;
        assert_eq!(drawn.format, image::ImageFormat::WebP, "{release}");
        // Only where the help proves that WebP is WebP is it asked for; else PNG, which loses nothing.
        assert_eq!(drawn.understood["format"], wrote, "{release}");
        let output = value_of(&drawn.words, "-o").unwrap();
        assert!(
            !output.contains('/'),
            "no folder that could hold a %d: {output}"
        );
    }
}

/// Exit 0 and no picture, before 497; exit 1 after. A retry may find the disk less full.
#[tokio::test]
async fn a_picture_that_could_not_be_saved_is_a_failure_on_every_release() {
    for release in [496, 497] {
        let rig = Rig::of(release).await;
        rig.sd.mode("no-output");
        let offer = offers::sd_image("job", vec![rig.file("model", "m.gguf")], &json!({}));
        let id = rig.api.offer(&offer).await;
        let (error, _) = rig.api.failure(&id).await;
        assert!(error.contains("no picture"), "{release}: {error}");
    }
}

/// Samplers came one by one; a name that the release has not is refused before anything is downloaded.
#[tokio::test]
async fn samplers_are_checked_against_the_release() {
    let task = || json!({"samplingMethod": "lms"});
    let error = Rig::of(808).await.refused("job", task(), json!({})).await;
    assert!(error.contains("\"lms\""), "{error}");
    let drawn = Rig::of(809).await.draw("job", task(), json!({})).await;
    assert_eq!(drawn.understood["sampler"], "lms");
}
