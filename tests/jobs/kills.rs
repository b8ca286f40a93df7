//! The worker killed with -9 in the middle of its work, and what the next start makes of what it left.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use worker_tests::archive;
use worker_tests::ranges::RangeServer;
use worker_tests::wait::until;
use worker_tests::{FileServer, Home, SdCli, built, media, offers};

/// Bytes that differ everywhere, so that a piece in the wrong place is seen.
fn bytes(count: u32) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..count / 4)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    bytes[..4].copy_from_slice(b"GGUF");
    bytes
}

/// A download notes how far it is once a second; what came after the last note comes again.
const NOTED: std::time::Duration = std::time::Duration::from_millis(2500);

/// What came after a kill must go on where it was: never from the beginning, and not twice.
fn went_on(server: &RangeServer, whole: u64, had: u64) {
    let asked = server.asked();
    assert!(
        !asked.is_empty() && asked.iter().all(|from| *from > 0),
        "{asked:?}"
    );
    let (sent, left) = (server.sent(), whole - had);
    assert!(sent < whole, "{sent} of {whole} came again");
    assert!(sent <= left + (4 << 20), "{sent} came, {left} were missing");
}

/// Bytes of unfinished downloads that have a place on the disk: pieces are written where they belong, with holes between.
fn on_disk(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.filter(|it| it.path().extension().is_none());
    files.map(|it| it.metadata().unwrap().blocks() * 512).sum()
}

async fn verified(home: &Home) {
    let told = home.run(&["models", "verify", "--json"]).await.json();
    let models = told.as_array().unwrap();
    assert!(!models.is_empty(), "{told}");
    for model in models {
        assert_ne!(model["verdict"], "damaged", "{told}");
        assert_ne!(model["verdict"], "gone", "{told}");
    }
    let listed = home.run(&["models", "list", "--json"]).await.json();
    assert_eq!(listed["partials"], json!([]), "{listed}");
}

#[tokio::test]
async fn a_download_goes_on_where_it_was() {
    let content = bytes(24 << 20);
    let whole = content.len() as u64;
    let digest = hex::encode(Sha256::digest(&content));
    let server = RangeServer::start(content, 12 << 20).await;
    let (home, sd) = (Home::new(), SdCli::install());
    let path = sd.path();
    let plugins = built::root().join("plugins");
    let mut worker = home.start_with(&plugins, &sd.env(&path));
    let api = worker.connected().await;
    let mut model = offers::model_file("model", &server.url("m.gguf"), "m.gguf");
    model["sha256"] = json!(digest);
    let claim = |job: &str| offers::sd_image(job, vec![model.clone()], &json!({}));
    api.offer(&claim("job-1")).await;
    let had = |home: &Home| on_disk(&home.path("models/.studio-worker/partial"));
    until("a part on the disk", || {
        (server.sent() >= 12 << 20 && had(&home) >= 8 << 20).then_some(())
    })
    .await;
    tokio::time::sleep(NOTED).await;
    worker.kill().await;
    let kept = had(&home);
    assert!(kept >= 8 << 20 && kept < whole, "{kept}");

    server.open();
    let worker = home.start_with(&plugins, &sd.env(&path));
    let api = worker.connected().await;
    let id = api.offer(&claim("job-2")).await;
    media::still(&api.result(&id).await);
    went_on(&server, whole, kept);
    worker.stop().await;
    verified(&home).await;
}

#[tokio::test]
async fn so_does_that_of_an_archive() {
    let mut program = fs::read(built::fake_sd()).unwrap();
    program.extend(bytes(8 << 20));
    let content = archive::zip(&[archive::file("sd-cli", program)]);
    let whole = content.len() as u64;
    let server = RangeServer::start(content, whole / 2).await;
    let (home, files) = (Home::new(), FileServer::start().await);
    let url = server.url("sd.zip");
    let env = [("STUDIO_WORKER_SDCPP_URL", Path::new(&url))];
    let plugins = built::root().join("plugins");
    let mut worker = home.start_with(&plugins, &env);
    let api = worker.connected().await;
    let model = offers::model_file("model", &files.put("m.gguf", "GGUF"), "m.gguf");
    let claim = |job: &str| offers::sd_image(job, vec![model.clone()], &json!({}));
    api.offer(&claim("job-1")).await;
    until("half of it", || (server.sent() >= whole / 2).then_some(())).await;
    // What was sent may still be on its way to the disk.
    let partial = home.path("state/programs/partial");
    let had = || on_disk(&partial);
    until("a part on the disk", || (had() > whole / 4).then_some(())).await;
    tokio::time::sleep(NOTED).await;
    worker.kill().await;
    let kept = had();
    assert!(kept > whole / 4 && kept < whole, "{kept}");
    server.open();
    let worker = home.start_with(&plugins, &env);
    let api = worker.connected().await;
    let id = api.offer(&claim("job-2")).await;
    media::still(&api.result(&id).await);
    went_on(&server, whole, kept);
    worker.stop().await;
    assert_eq!(had(), 0, "nothing is left of the download");
}

/// Killed while a program runs and while a server is warm: neither is left, the scratch is swept, the cache is whole.
#[tokio::test]
async fn no_program_and_no_server_is_left() {
    for with_server in [false, true] {
        let (home, files) = (Home::new(), FileServer::start().await);
        let sd = SdCli::install();
        let sd = if with_server { sd.with_server() } else { sd };
        let (cli, server) = (sd.path(), sd.server());
        let [cli, writable] = sd.env(&cli);
        let mut env = vec![cli, writable];
        if with_server {
            env.push(("STUDIO_WORKER_SD_SERVER", server.as_path()));
        }
        let plugins = built::root().join("plugins");
        let mut worker = home.start_with(&plugins, &env);
        let api = worker.connected().await;
        let model = offers::model_file("model", &files.put("m.gguf", "GGUF"), "m.gguf");
        let claim = |job: &str| offers::sd_image(job, vec![model.clone()], &json!({}));
        if with_server {
            // Warm, and with nothing to do.
            let id = api.offer(&claim("job-1")).await;
            media::still(&api.result(&id).await);
        } else {
            sd.mode("hang");
            api.offer(&claim("job-1")).await;
        }
        let at_work = |sd: &SdCli| {
            let events = sd.events();
            events.iter().find(|it| it["event"] == "generate").cloned()
        };
        let event: Value = until("the program's work", || at_work(&sd)).await;
        let process = Path::new("/proc").join(event["pid"].to_string());
        assert!(process.exists());
        worker.kill().await;
        sd.mode("ok");
        let worker = home.start_with(&plugins, &env);
        worker.connected().await;
        until("the program's end", || (!process.exists()).then_some(())).await;
        let id = worker.api().await.offer(&claim("job-2")).await;
        media::still(&worker.api().await.result(&id).await);
        worker.stop().await;
        assert!(home.scratch_folders().is_empty());
        verified(&home).await;
    }
}
