//! Programs that are downloaded for the first job that needs them.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use worker_tests::archive::{self, Entry};
use worker_tests::component;
use worker_tests::wait::until;
use worker_tests::{Api, FileServer, Home, PluginFolder, Worker, built, media, offers};

/// An archive as upstream makes them, holding the stand-in as one release of it.
fn release(number: u32) -> Vec<u8> {
    archive::zip(&release_entries(number))
}

fn release_entries(number: u32) -> Vec<Entry> {
    let mut program = fs::read(built::fake_sd()).unwrap();
    // As with the real ones, no two releases are the same bytes; what follows an executable's end is not looked at.
    program.extend(number.to_le_bytes());
    vec![
        archive::file(
            if number < 411 {
                "build/bin/sd"
            } else {
                "build/bin/sd-cli"
            },
            program,
        ),
        archive::file("build/bin/fake-sd.release", number.to_string()),
    ]
}

struct Rig {
    home: Home,
    files: FileServer,
    model: Value,
}

impl Rig {
    async fn new() -> Self {
        let (home, files) = (Home::new(), FileServer::start().await);
        let url = files.put("m.gguf", "GGUF weights");
        let model = offers::model_file("diffusion-model", &url, "m.gguf");
        Self { home, files, model }
    }

    /// A worker whose operator names this archive.
    async fn start(&self, url: &str, release: &str) -> (Worker, Api) {
        let env = [
            ("STUDIO_WORKER_SDCPP_URL", Path::new(url)),
            ("STUDIO_WORKER_SDCPP_RELEASE", Path::new(release)),
        ];
        let worker = self.home.start_with(&built::root().join("plugins"), &env);
        let api = worker.connected().await;
        (worker, api)
    }

    /// A job that takes an option which changed its name between the releases.
    async fn offer(&self, api: &Api, job: &str) -> String {
        let mut claim = offers::sd_image(job, vec![self.model.clone()], &json!({}));
        claim["modelSource"]["cliDefaults"]["zeroCondT"] = json!(true);
        api.offer(&claim).await
    }

    /// What the plugin asked to have run, as the job's journal has it.
    fn journal(&self, job: &str) -> String {
        let entries = fs::read_dir(self.home.path("state/journal")).unwrap();
        let path = entries
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.to_string_lossy().ends_with(&format!("-{job}.jsonl")))
            .unwrap();
        fs::read_to_string(path).unwrap()
    }

    fn unpacked(&self) -> usize {
        let entries = fs::read_dir(self.home.path("state/programs/releases"));
        entries.map_or(0, |entries| entries.count())
    }

    fn nothing_half_done(&self) {
        let staging = self.home.path("state/programs/staging");
        let left = fs::read_dir(staging).map_or(0, |entries| entries.count());
        assert_eq!(left, 0, "nothing half-done is left");
    }
}

async fn sd(api: &Api) -> Value {
    let status = api.get("/daemon/status").await;
    let plugins = status["plugins"].as_array().unwrap().clone();
    plugins
        .into_iter()
        .find(|plugin| plugin["name"] == "sd-cpp")
        .unwrap()
}

#[tokio::test]
async fn two_releases_side_by_side_each_with_its_own_command_line() {
    let rig = Rig::new().await;
    // The newest in which the program still has its first name.
    let first = rig.files.put("sd-410.zip", release(410));
    let (worker, api) = rig.start(&first, "master-410-5865b5e").await;
    let claim = offers::sd_image("job-0", vec![rig.model.clone()], &json!({}));
    let id = api.offer(&claim).await;
    media::still(&api.result(&id).await);
    worker.stop().await;
    assert_eq!(rig.files.asked("sd-410.zip"), 1);
    fs::remove_dir_all(rig.home.path("state/programs/releases")).unwrap();

    let old = rig.files.put("sd-764.zip", release(764));
    let new = rig.files.put("sd-827.zip", release(827));

    // As a worker leaves it that is killed while an archive comes.
    let left = rig.home.path("state/programs/staging/release-left");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("archive"), "half").unwrap();

    // What nothing used for months, and what was used lately.
    let long_ago = SystemTime::now() - Duration::from_secs(100 * 24 * 60 * 60);
    let unused = [
        "state/programs/releases/00",
        "state/program-cache/sd-cpp-00",
    ];
    let unused = unused.map(|name| rig.home.path(name));
    let lately = rig.home.path("state/program-cache/sd-cpp-01");
    for folder in unused.iter().chain([&lately]) {
        fs::create_dir_all(folder).unwrap();
    }
    for folder in &unused {
        let folder = fs::File::open(folder).unwrap();
        folder.set_modified(long_ago).unwrap();
    }

    let (worker, api) = rig.start(&old, "master-764-e22272e").await;
    assert!(!left.exists(), "swept at start");
    until("the end of what nothing used", || {
        unused.iter().all(|folder| !folder.exists()).then_some(())
    })
    .await;
    assert!(lately.exists());
    let plugin = sd(&api).await;
    assert_eq!(plugin["serves"], true, "{plugin}");
    let to_come = plugin["toDownload"][0].as_str().unwrap();
    assert!(to_come.contains("master-764-e22272e"), "{to_come}");
    assert_eq!(
        rig.files.asked("sd-764.zip"),
        0,
        "not before a job needs it"
    );
    for job in ["job-1", "job-2"] {
        let id = rig.offer(&api, job).await;
        media::still(&api.result(&id).await);
    }
    assert_eq!(rig.files.asked("sd-764.zip"), 1);
    let words = rig.journal("job-1");
    assert!(words.contains("--qwen-image-zero-cond-t") && !words.contains("--model-args"));
    assert!(words.contains("provisioning"), "a stage of its own");
    assert!(
        !rig.journal("job-2").contains("provisioning"),
        "but only once"
    );
    assert_eq!(sd(&api).await["toDownload"], json!([]));
    worker.stop().await;

    let (worker, api) = rig.start(&new, "master-827-97d2990").await;
    let id = rig.offer(&api, "job-3").await;
    media::still(&api.result(&id).await);
    let words = rig.journal("job-3");
    assert!(words.contains("--model-args") && !words.contains("--qwen-image-zero-cond-t"));
    worker.stop().await;
    assert_eq!(rig.unpacked(), 2, "side by side");

    // Back to the first: it is still there.
    let (worker, api) = rig.start(&old, "master-764-e22272e").await;
    let id = rig.offer(&api, "job-4").await;
    media::still(&api.result(&id).await);
    assert!(rig.journal("job-4").contains("--qwen-image-zero-cond-t"));
    worker.stop().await;
    assert_eq!(rig.files.asked("sd-764.zip"), 1);
    assert_eq!(rig.files.asked("sd-827.zip"), 1);
    rig.nothing_half_done();
}

/// A build that needs what this system has not got is not downloaded, and its engine is offered to nobody; where the system has it,
/// or where it is another kind of system's, it is. Nothing here ever asks for a download.
#[tokio::test]
async fn an_engine_whose_builds_lack_a_library_is_not_advertised() {
    let plugin = fs::read(built::root().join("plugins/sd-cpp.wasm")).unwrap();
    let section = br#""system-libraries":["libvulkan.so.1"]"#;
    assert!(plugin.windows(section.len()).any(|it| it == section));
    for (library, serves) in [
        ("libno-such-thing.so.1", false),
        ("libc.so.6", true),
        ("libno-such-thing.dylib", true),
    ] {
        let asked = json!({
            "programs": ["sd-cli", "sd", "sd-server"],
            "build-urls": ["https://github.com/leejet/stable-diffusion.cpp/releases/download/"],
            "system-libraries": [library],
            "environment": ["GGML_NO_BACKTRACE", "OMP_WAIT_POLICY"],
        });
        let plugins =
            PluginFolder::first_party().file("sd-cpp.wasm", component::asking(&plugin, &asked));
        let home = Home::new();
        let release = Path::new("master-827-97d2990");
        let env = [("STUDIO_WORKER_SDCPP_RELEASE", release)];
        let worker = home.start_with(plugins.path(), &env);
        let api = worker.connected().await;
        let plugin = sd(&api).await;
        assert_eq!(plugin["serves"], serves, "{library}: {plugin}");
        let missing = plugin["missing"].to_string();
        assert_eq!(missing.contains(library), !serves, "{library}: {plugin}");
        let said = |line: &String| line.contains("not served") && line.contains(library);
        assert_eq!(worker.lines().iter().any(said), !serves, "{library}");
        // The operator's own archive needs whatever it needs.
        worker.stop().await;
        let own = [(
            "STUDIO_WORKER_SDCPP_URL",
            Path::new("http://127.0.0.1:9/sd.zip"),
        )];
        let worker = home.start_with(plugins.path(), &own);
        let api = worker.connected().await;
        assert_eq!(sd(&api).await["serves"], true, "{library}");
        worker.stop().await;
    }
}

#[tokio::test]
async fn an_archive_that_changed_fails_the_job_until_its_operator_agrees() {
    let rig = Rig::new().await;
    let url = rig.files.put("sd.zip", release(764));
    let (worker, api) = rig.start(&url, "master-764-e22272e").await;
    let id = rig.offer(&api, "job-1").await;
    media::still(&api.result(&id).await);
    worker.stop().await;

    let changed = release(827);
    let digest = hex::encode(Sha256::digest(&changed));
    rig.files.put("sd.zip", changed);
    fs::remove_dir_all(rig.home.path("state/programs/releases")).unwrap();
    let (worker, api) = rig.start(&url, "master-764-e22272e").await;
    let id = rig.offer(&api, "job-2").await;
    let (error, retryable) = api.failure(&id).await;
    assert!(!retryable, "{error}");
    assert!(
        error.contains("sd-cli") && error.contains(&format!("programs accept {digest}")),
        "{error}"
    );
    assert_eq!(rig.unpacked(), 0);
    let plugin = sd(&api).await;
    assert_eq!(plugin["serves"], false, "not advertised any more: {plugin}");
    worker.stop().await;

    let listed = rig.home.run(&["programs", "--json"]).await.json();
    assert_eq!(listed["archives"][0]["refused"], json!(digest));
    let other = rig.home.run(&["programs", "accept", &"0".repeat(64)]).await;
    assert!(other.error().contains("was refused"));
    rig.home.run(&["programs", "accept", &digest]).await.ok();
    let (worker, api) = rig.start(&url, "master-827-97d2990").await;
    let id = rig.offer(&api, "job-3").await;
    media::still(&api.result(&id).await);
    worker.stop().await;
    rig.nothing_half_done();
}

#[tokio::test]
async fn a_hostile_archive_fails_its_job_and_leaves_nothing() {
    let rig = Rig::new().await;
    let mut entries = release_entries(827);
    entries.push(archive::file("../../../../escaped", "out"));
    let url = rig.files.put("sd.zip", archive::zip(&entries));
    let (worker, api) = rig.start(&url, "").await;
    let id = rig.offer(&api, "job-1").await;
    let (error, retryable) = api.failure(&id).await;
    assert!(!retryable && error.contains("leads out"), "{error}");
    assert_eq!(rig.unpacked(), 0);
    rig.nothing_half_done();
    assert!(!rig.home.path("escaped").exists() && !rig.home.path("state/escaped").exists());
    // Known to be of no use: no further offer comes for it.
    until("an engine that is not offered", || {
        let lines = worker.lines();
        lines
            .iter()
            .any(|line| line.contains("not served"))
            .then_some(())
    })
    .await;
    assert_eq!(sd(&api).await["serves"], false);
    worker.stop().await;
}
