//! Image jobs through a program as strict as the real one about its command line.

use serde_json::{Value, json};
use worker_tests::sd_cli::{argv, value_of};
use worker_tests::{Api, FileServer, Home, PluginFolder, SdCli, Worker, built, media, offers};

/// A worker with the stand-in, the studio inside, and a server with one model.
struct Rig {
    home: Home,
    sd: SdCli,
    files: FileServer,
    model: Value,
    worker: Worker,
    api: Api,
}

impl Rig {
    async fn start() -> Self {
        let (home, sd, files) = (Home::new(), SdCli::install(), FileServer::start().await);
        let url = files.put("z_image_turbo-Q4_K.gguf", "GGUF weights");
        let model = offers::model_file("diffusion-model", &url, "z_image_turbo-Q4_K.gguf");
        let path = sd.path();
        let worker = home.start_with(&built::root().join("plugins"), &sd.env(&path));
        let api = worker.connected().await;
        Self {
            home,
            sd,
            files,
            model,
            worker,
            api,
        }
    }

    async fn offer(&self, job: &str, task: Value) -> String {
        self.api
            .offer(&offers::sd_image(job, vec![self.model.clone()], &task))
            .await
    }
}

/// What the program understood, of its last run.
fn understood(sd: &SdCli) -> Value {
    let events = sd.events();
    events
        .iter()
        .rev()
        .find(|line| line["event"] == "generate")
        .expect("a run that generated")["detail"]
        .clone()
}

#[tokio::test]
async fn a_picture_by_the_programs_own_rules() {
    let rig = Rig::start().await;
    let id = rig
        .offer(
            "job-1",
            json!({"prompt": "a fox", "negativePrompt": "blur", "width": 96, "height": 64}),
        )
        .await;
    let bytes = rig.api.result(&id).await;
    let (format, picture) = media::still(&bytes);
    assert_eq!(format, image::ImageFormat::Png);
    assert_eq!((picture.width(), picture.height()), (96, 64));
    assert!(
        !media::holds(&bytes, "parameters"),
        "the program's own metadata is gone"
    );
    assert!(
        media::holds(&bytes, "z-image-turbo-q4_k_m.gguf"),
        "the model is named instead"
    );

    let runs = rig.sd.runs();
    assert_eq!(runs.len(), 1);
    let words = argv(&runs[0]);
    let model = value_of(&words, "--diffusion-model").unwrap();
    assert_eq!(
        model.rsplit('/').next(),
        Some("z_image_turbo-Q4_K.gguf"),
        "shown under its own name"
    );
    for (option, value) in [
        ("--cfg-scale", "1"),
        ("--steps", "2"),
        ("--seed", "7"),
        ("--sampling-method", "euler"),
    ] {
        assert_eq!(
            value_of(&words, option).as_deref(),
            Some(value),
            "{option}: {words:?}"
        );
    }
    assert_eq!(
        (
            value_of(&words, "-W").as_deref(),
            value_of(&words, "-H").as_deref()
        ),
        (Some("96"), Some("64"))
    );
    assert_eq!(
        words.last().map(String::as_str),
        Some("--diffusion-fa"),
        "{words:?}"
    );
    let told = understood(&rig.sd);
    assert_eq!(told["prompt"], "a fox");
    assert_eq!(told["loras"], json!([]));
    // The prompt is not for every user of the machine to read.
    assert!(
        words.iter().all(|word| !word.contains("a fox")),
        "{words:?}"
    );
}

#[tokio::test]
async fn the_programs_environment_is_empty_of_the_operators() {
    let (home, sd, files) = (Home::new(), SdCli::install(), FileServer::start().await);
    let path = sd.path();
    let mut command = home.command(&["run", "--plugins"]);
    command.arg(built::root().join("plugins"));
    command
        .envs(sd.env(&path))
        .env("AWS_SECRET_ACCESS_KEY", "s3cret")
        .env("LD_PRELOAD", "");
    let worker = Worker::start(command, &home.path("local-api.json"));
    let api = worker.connected().await;
    let model = offers::model_file("model", &files.put("m.gguf", "GGUF"), "m.gguf");
    let id = api
        .offer(&offers::sd_image("job-1", vec![model], &json!({})))
        .await;
    api.result(&id).await;
    let run = &sd.runs()[0];
    let names: Vec<&str> = run["environment"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    for name in [
        "AWS_SECRET_ACCESS_KEY",
        "LD_PRELOAD",
        "STUDIO_WORKER_SD_CLI",
    ] {
        assert!(!names.contains(&name), "{names:?}");
    }
    let cwd = run["cwd"].as_str().unwrap();
    assert!(
        cwd.starts_with(home.path("state/scratch").to_str().unwrap()),
        "{cwd}"
    );
}

#[tokio::test]
async fn prompts_that_look_like_flags_are_prompts() {
    let rig = Rig::start().await;
    let prompts = [
        "--help",
        "-o /tmp/x.png",
        "--prompt-file=/etc/passwd",
        "-",
        "@file",
        "$(id) `id` ; rm -rf ~ | cat",
        "%s %n",
    ];
    for (number, prompt) in prompts.iter().enumerate() {
        let id = rig
            .offer(&format!("job-{number}"), json!({"prompt": prompt}))
            .await;
        rig.api.result(&id).await;
        assert_eq!(understood(&rig.sd)["prompt"], *prompt);
    }
}

#[tokio::test]
async fn a_prompt_of_a_megabyte_arrives_whole() {
    let rig = Rig::start().await;
    let prompt: String = "fähre 漢 "
        .chars()
        .cycle()
        .take(800_000)
        .collect::<String>()
        .trim_end()
        .to_owned();
    assert!(prompt.len() > 1 << 20);
    let id = rig.offer("job-1", json!({"prompt": prompt})).await;
    rig.api.result(&id).await;
    assert_eq!(understood(&rig.sd)["prompt"], prompt.as_str());
    assert_eq!(rig.api.job(&id).await["prompt"], prompt.as_str());
}

#[tokio::test]
async fn a_model_is_downloaded_once() {
    let rig = Rig::start().await;
    for job in ["job-1", "job-2"] {
        let id = rig.offer(job, json!({})).await;
        rig.api.result(&id).await;
    }
    assert_eq!(rig.files.asked("z_image_turbo-Q4_K.gguf"), 1);
}

#[tokio::test]
async fn downloads_that_fail_say_which_and_whether_to_try_again() {
    let rig = Rig::start().await;
    let at = |url: String| vec![offers::model_file("diffusion-model", &url, "m.gguf")];
    let with_digest = |url: String, digest: &str| {
        let mut file = offers::model_file("diffusion-model", &url, "m.gguf");
        file["sha256"] = json!(digest);
        vec![file]
    };
    let rows = [
        (
            "gone",
            at(rig.files.answer("gone.gguf", 404, "")),
            "404",
            false,
        ),
        (
            "gated",
            at(rig.files.answer("gated.gguf?token=abc", 401, "")),
            "401",
            false,
        ),
        (
            "wrong",
            with_digest(rig.files.put("wrong.gguf", "GGUF x"), &"ab".repeat(32)),
            "SHA-256",
            true,
        ),
        (
            "metadata",
            at("http://169.254.169.254/latest".to_owned()),
            "169.254.169.254",
            false,
        ),
        ("file", at("file:///etc/passwd".to_owned()), "https", false),
    ];
    for (job, files, named, _retry) in rows {
        let id = rig
            .api
            .offer(&offers::sd_image(job, files, &json!({})))
            .await;
        let (error, _) = rig.api.failure(&id).await;
        assert!(error.contains(named), "{job}: {error}");
        assert!(!error.contains("abc"), "a query may hold a secret: {error}");
    }
    assert!(rig.sd.runs().is_empty(), "nothing was started");
    let id = rig.offer("after", json!({})).await;
    rig.api.result(&id).await;
}

/// The program has one exit code for everything: its words and its ending decide what the studio hears.
#[tokio::test]
async fn failures_are_said_in_the_jobs_terms() {
    let rig = Rig::start().await;
    let rows = [
        ("oom-gpu", "memory"),
        ("abort", "memory"),
        ("no-output", "no picture"),
        ("black", "every pixel"),
        ("truncated", "broken"),
        ("exit 3", "code 3"),
        ("killed", "SIGKILL"),
    ];
    for (mode, named) in rows {
        rig.sd.mode(mode);
        let before = rig.sd.runs().len();
        let job = mode.replace(' ', "-");
        let id = rig.offer(&job, json!({})).await;
        let (error, retryable) = rig.api.failure(&id).await;
        assert!(error.contains(named), "{mode}: {error}");
        assert!(
            !error.contains('\n') && !error.contains(rig.home.path("").to_str().unwrap()),
            "{mode}: {error}"
        );
        // What may pass is tried three times by this studio, what cannot is not.
        let tries = rig.sd.runs().len() - before;
        assert_eq!(tries, if retryable { 3 } else { 1 }, "{mode}: {error}");
    }
    rig.sd.mode("mislabelled");
    let id = rig.offer("mislabelled", json!({"ext": "webp"})).await;
    assert_eq!(
        media::still(&rig.api.result(&id).await).0,
        image::ImageFormat::WebP,
        "what was asked for, whatever came"
    );
    rig.sd.mode("flood 8");
    let id = rig.offer("flood", json!({})).await;
    rig.api.result(&id).await;
    rig.sd.mode("ok");
    let id = rig.offer("after", json!({})).await;
    rig.api.result(&id).await;
    drop(rig.worker);
}

#[tokio::test]
async fn a_black_picture_is_delivered_where_the_operator_allows_it() {
    let (home, sd, files) = (Home::new(), SdCli::install(), FileServer::start().await);
    sd.mode("black");
    let folder = PluginFolder::first_party();
    let text = std::fs::read_to_string(folder.path().join("plugins.toml")).unwrap();
    let allowed = text.replace(
        "allow-uniform = []",
        "allow-uniform = [\"z-image-turbo-q4_k_m.gguf\"]",
    );
    assert_ne!(text, allowed, "plugins.toml has the setting");
    let folder = folder.file("plugins.toml", allowed);
    let path = sd.path();
    let worker = home.start_with(folder.path(), &sd.env(&path));
    let api = worker.connected().await;
    let model = offers::model_file("model", &files.put("m.gguf", "GGUF"), "m.gguf");
    let id = api
        .offer(&offers::sd_image("job-1", vec![model], &json!({})))
        .await;
    media::still(&api.result(&id).await);
}
