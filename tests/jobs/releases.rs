//! Releases of the program before and after each change that bites: the same job, the argument list that each takes, and
//! the stand-in as strict as that release is. Nothing tells the plugin the release but the help text.
//!
//! Each change of the program that bites a driver, and the test that drives it on both sides of it:
//!
//! | Release | Change | Test |
//! |---|---|---|
//! | 1, 7, 41, 65 | the first; `--init-img`, `--sampling-method`, `--vae` come | `options_of_the_first_months` |
//! | 134, 166, 175, 212 | `--diffusion-model`, `--diffusion-fa`, `--mask`, `-r` come | `options_from_before_the_reference_picture` |
//! | 240 | `-M` loses its words for pictures | `the_mode_is_said_as_long_as_there_is_one` |
//! | 250 | any size | `sizes_are_rounded_…` |
//! | 263, 265, 596 | `--offload-to-cpu`, `--flow-shift`, `--max-vram` come | `options_that_came_later_…` |
//! | 318, 323, 378 | `--qwen2vl`, `--qwen2vl_vision`, then `--llm`, `--llm_vision` | `the_language_model_goes_by_…` |
//! | 391 | a prompt may be empty | `sizes_are_rounded_…` |
//! | 405, 411 | `--version`; `sd` becomes `sd-cli`, `sd-server` comes | `the_program_is_found_by_…`, `changes_that_touch_…` |
//! | 444, 765 | `--qwen-image-zero-cond-t`, then `--model-args` | `the_zero_time_step_…` |
//! | 451, 547, 716 | `--mmap`, `--disable-image-metadata`, `--prompt-file` come | `options_that_only_help_…` |
//! | 497 | nothing saved is exit 1 | `a_picture_that_could_not_be_saved_…` |
//! | 548, 691 | loading no longer looks like steps | `loading_and_tiles_are_…` |
//! | 552 | `.webp` is WebP | `what_was_asked_for_comes_…` |
//! | 809 | the sampler `lms` comes, as others before | `samplers_are_checked_…` |
//! | 262, 263, 272, 293, 301, 374, 438, 483, 507, 529, 674, 697, 713 and others | what no job of ours uses, or what it must not depend on | `changes_that_touch_…` |

use serde_json::{Value, json};
use worker_tests::sd_cli::{argv, value_of};
use worker_tests::{Api, FileServer, Home, ScriptedStudio, SdCli, Worker, built, media, offers};

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
        let (home, mut sd, files) = (Home::new(), SdCli::install(), FileServer::start().await);
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

/// Up to 410 the program is `sd`. It is found by the name that the release has, without a word of its operator's: on the PATH by
/// the name of today, in the models' `bin` by either.
#[tokio::test]
async fn the_program_is_found_by_the_name_that_the_release_has() {
    for (release, name, on_path) in [
        (410, "sd", false),
        (411, "sd-cli", true),
        (411, "sd-cli", false),
    ] {
        let (home, mut sd, files) = (Home::new(), SdCli::install(), FileServer::start().await);
        sd.release(release);
        assert_eq!(sd.path().file_name().unwrap(), name);
        let mut path = std::ffi::OsString::from("/usr/bin:/bin");
        if on_path {
            path = sd.folder().into();
        } else {
            std::os::unix::fs::symlink(sd.folder(), home.path("models/bin")).unwrap();
        }
        let mut command = home.command(&["run", "--plugins"]);
        command
            .arg(built::root().join("plugins"))
            .env("PATH", path)
            .env("STUDIO_WORKER_PROGRAM_WRITABLE", sd.folder());
        let worker = Worker::start(command, &home.path("local-api.json"));
        let api = worker.connected().await;
        let model = offers::model_file("model", &files.put("m.gguf", "GGUF"), "m.gguf");
        let id = api
            .offer(&offers::sd_image("job", vec![model], &json!({})))
            .await;
        media::still(&api.result(&id).await);
        assert_eq!(sd.runs().len(), 1, "{release}");
    }
}

/// `sd` on the PATH is Debian's, which finds and replaces text: the engine is not offered with it.
#[tokio::test]
async fn another_program_of_the_former_name_is_not_taken() {
    let (home, mut sd) = (Home::new(), SdCli::install());
    sd.release(410);
    let mut command = home.command(&["run", "--plugins"]);
    command
        .arg(built::root().join("plugins"))
        .env("PATH", sd.folder())
        .env("STUDIO_WORKER_PROGRAM_WRITABLE", sd.folder());
    let worker = Worker::start(command, &home.path("local-api.json"));
    let api = worker.connected().await;
    let status = api.get("/daemon/status").await;
    let plugins = status["plugins"].as_array().unwrap();
    let plugin = plugins.iter().find(|it| it["name"] == "sd-cpp").unwrap();
    assert_eq!(plugin["serves"], false, "{plugin}");
    assert!(sd.events().is_empty(), "it was run");
}

/// The first releases had no number in their names and nobody has their builds. They are driven like all others as far as they go:
/// what they lack is named before anything is started, and the first one draws.
#[tokio::test]
async fn options_of_the_first_months() {
    // Else the model names one.
    let no_sampler = || json!({"samplingMethod": ""});
    let plain = Rig::of(1)
        .await
        .draw("plain", json!({}), no_sampler())
        .await;
    assert_eq!(plain.understood["prompt"], "a fox");
    assert!(!plain.has("-M"), "{:?}", plain.words);
    for (first, option) in [(7, "--init-img"), (41, "--sampling-method"), (65, "--vae")] {
        for release in [first - 1, first] {
            let rig = Rig::of(release).await;
            let picture = rig.files.put("p.png", media::png(64, 64));
            let mut files = vec![rig.file("model", "m.gguf")];
            let task = match option {
                "--init-img" => json!({"initImageUrl": picture}),
                "--sampling-method" => json!({"samplingMethod": "euler"}),
                _ => {
                    files.push(rig.file("vae", "v.gguf"));
                    json!({})
                }
            };
            if release < first {
                let offer = offers::sd_image("before", files, &task);
                let id = rig.api.offer(&offer).await;
                let (error, retryable) = rig.api.failure(&id).await;
                assert!(error.contains(option) && !retryable, "{release}: {error}");
                assert!(rig.sd.runs().is_empty(), "{release}");
            } else {
                let drawn = rig.draw_with("after", files, task, no_sampler()).await;
                assert!(drawn.has(option), "{release}: {:?}", drawn.words);
            }
        }
    }
}

/// Before 212 there are no reference pictures, and this plugin was not written for such releases: they are driven as far as
/// they go, and what they lack is named.
#[tokio::test]
async fn options_from_before_the_reference_picture() {
    let rig = Rig::of(133).await;
    let files = vec![rig.file("diffusion-model", "d.gguf")];
    let id = rig
        .api
        .offer(&offers::sd_image("job", files, &json!({})))
        .await;
    let (error, _) = rig.api.failure(&id).await;
    assert!(error.contains("--diffusion-model"), "{error}");
    let rig = Rig::of(134).await;
    let files = vec![rig.file("diffusion-model", "d.gguf")];
    let drawn = rig.draw_with("job", files, json!({}), json!({})).await;
    assert!(drawn.has("--diffusion-model"), "{:?}", drawn.words);
    for (release, there) in [(165, false), (166, true)] {
        let drawn = Rig::of(release)
            .await
            .draw("job", json!({}), json!({}))
            .await;
        assert_eq!(drawn.has("--diffusion-fa"), there, "{:?}", drawn.words);
    }
    for (first, option, fields) in [
        (175, "--mask", &["initImageUrl", "maskUrl"][..]),
        (212, "-r", &["refImageUrl"][..]),
    ] {
        let task = |rig: &Rig| {
            let picture = rig.files.put("p.png", media::png(64, 64));
            let fields = fields
                .iter()
                .map(|name| ((*name).to_owned(), json!(picture)));
            Value::Object(fields.collect())
        };
        let before = Rig::of(first - 1).await;
        let error = before.refused("job", task(&before), json!({})).await;
        assert!(
            error.contains(option) || error.contains("--ref-image"),
            "{error}"
        );
        let after = Rig::of(first).await;
        let drawn = after.draw("job", task(&after), json!({})).await;
        assert!(drawn.has(option), "{:?}", drawn.words);
    }
}

/// A loading bar up to 547 differs from one of steps in nothing but where it stands, and the decoder's tiles do on every release:
/// whatever counts as a step on its way to the studio is one.
#[tokio::test]
async fn loading_and_tiles_are_never_taken_for_steps() {
    for release in [547, 548, 690, 691] {
        let (mut sd, files, studio) = (
            SdCli::install(),
            FileServer::start().await,
            ScriptedStudio::start().await,
        );
        sd.release(release);
        sd.mode("slow 1400");
        let home = Home::approved(&studio.base());
        let path = sd.path();
        let worker = home.start_with(&built::root().join("plugins"), &sd.env(&path));
        let mut peer = studio.welcomed_with(&["progress"]).await;
        let model = offers::model_file("model", &files.put("m.gguf", "GGUF"), "m.gguf");
        let offer = offers::sd_image("job-1", vec![model], &json!({"steps": 7}));
        peer.accepted(&offer).await;
        studio.called("complete", 1).await;
        worker.terminate();
        let (frames, _) = peer.end().await;
        let steps: Vec<_> = frames
            .iter()
            .filter(|frame| frame["type"] == "progress" && frame["note"].is_null())
            .map(|frame| (frame["done"].as_u64().unwrap(), &frame["total"]))
            .collect();
        assert!(steps.len() >= 2, "{release}: {frames:?}");
        assert!(
            steps.iter().all(|(_, total)| *total == 7) && steps.is_sorted_by_key(|(done, _)| *done),
            "{release}: {steps:?}"
        );
    }
}

/// Options that were renamed, dropped or given another meaning and that no job of ours uses, and what is no option at all: a
/// job with everything that releases on both sides have goes through, with the size that was asked for.
#[tokio::test]
async fn changes_that_touch_no_job_of_ours() {
    for first in [
        262, 263, 272, 293, 301, 316, 374, 405, 411, 438, 483, 507, 529, 674, 697, 713,
    ] {
        for release in [first - 1, first] {
            let rig = Rig::of(release).await;
            let picture = rig.files.put("p.png", media::png(128, 64));
            let task = json!({
                "initImageUrl": picture, "strength": 0.5, "negativePrompt": "blur", "cfgScale": 3.5,
                "width": 64, "height": 128, "samplingMethod": "euler_a", "seed": 11,
            });
            let drawn = rig.draw("job", task, json!({})).await;
            assert_eq!(drawn.size, (64, 128), "{release}: {:?}", drawn.words);
            assert_eq!(drawn.understood["init"], json!([128, 64]), "{release}");
            let twice = drawn.words.iter().filter(|it| it.starts_with("--"));
            let once: std::collections::HashSet<_> = twice.clone().collect();
            assert_eq!(twice.count(), once.len(), "{release}: {:?}", drawn.words);
        }
    }
}
