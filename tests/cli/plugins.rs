//! `plugin` and `plan`.

use serde_json::{Value, json};
use worker_tests::folder::component_path;
use worker_tests::wait::soon;
use worker_tests::{FileServer, Home, PluginFolder, SdCli, built, offers};

fn first_party() -> Vec<String> {
    let names = ["router", "synthetic", "sd-cpp", "espeak", "finisher"];
    names
        .iter()
        .map(|name| {
            built::root()
                .join(format!("plugins/{name}.wasm"))
                .to_str()
                .unwrap()
                .to_owned()
        })
        .collect()
}

#[tokio::test]
async fn every_component_in_the_repository_is_valid() {
    let home = Home::new();
    let files = first_party();
    let haiku = component_path("haiku").to_str().unwrap().to_owned();
    let line: Vec<&str> = ["plugin", "validate"]
        .into_iter()
        .chain(files.iter().map(String::as_str))
        .chain([haiku.as_str()])
        .collect();
    let told = home.run(&line).await.ok();
    assert_eq!(
        told.lines().filter(|line| line.starts_with("ok")).count(),
        6,
        "{told}"
    );
}

#[tokio::test]
async fn a_broken_file_names_the_rule_it_broke() {
    let home = Home::new();
    let good = std::fs::read(component_path("haiku")).unwrap();
    let half = good[..good.len() / 2].to_vec();
    let rows: Vec<(&str, Vec<u8>)> = vec![
        ("empty.wasm", Vec::new()),
        ("text.wasm", b"(component)".to_vec()),
        ("module.wasm", b"\0asm\x01\0\0\0".to_vec()),
        ("bare.wasm", b"\0asm\x0d\0\x01\0".to_vec()),
        ("half.wasm", half),
        ("two.wasm", [good.as_slice(), good.as_slice()].concat()),
    ];
    for (name, content) in rows {
        let path = home.path(name);
        std::fs::write(&path, content).unwrap();
        let ended = home
            .run(&["plugin", "validate", path.to_str().unwrap(), "--json"])
            .await;
        assert_eq!(ended.code(), 1, "{name}: {ended:?}");
        let told: Value = serde_json::from_str(&ended.stdout).unwrap();
        assert_eq!(told[0]["ok"], false);
        assert!(
            told[0]["verdict"].as_str().unwrap().contains(name),
            "{told}"
        );
        let error = ended.error();
        assert!(error.contains("1 of 1"), "{error}");
    }
}

#[tokio::test]
async fn inspect_shows_what_a_file_says_of_itself() {
    let home = Home::new();
    let file = built::root().join("plugins/sd-cpp.wasm");
    let told = home
        .run(&["plugin", "inspect", file.to_str().unwrap()])
        .await
        .ok();
    assert!(
        told.contains("sd-cpp") && told.contains("sd-cli"),
        "name and what it asks for: {told}"
    );
    home.run(&["plugin", "inspect", file.to_str().unwrap(), "--json"])
        .await
        .json();
}

#[tokio::test]
async fn a_broken_plugin_among_good_ones_is_refused_alone() {
    let home = Home::new();
    let folder = PluginFolder::first_party()
        .add("haiku")
        .file("broken.wasm", b"\0asm\x0d\0\x01\0garbage");
    let worker = home.start_with(folder.path(), &[]);
    worker.line("broken.wasm").await;
    let api = worker.connected().await;
    let status = api.get("/daemon/status").await;
    assert_eq!(status["refused"].as_array().unwrap().len(), 1, "{status:#}");
    assert!(
        status["refused"][0]
            .as_str()
            .unwrap()
            .contains("broken.wasm")
    );
    let id = api.submit(&json!({"kind": "haiku", "text": "snow"})).await;
    api.result(&id).await;
    // Meanwhile the folder's watch looks at the file once more, and says so.
    let listed = soon("the broken file shown as refused", async {
        loop {
            let listed = home.run(&["plugin", "list"]).await.ok();
            if listed.contains("refused") {
                break listed;
            }
        }
    })
    .await;
    assert!(listed.contains("haiku"), "{listed}");
}

#[tokio::test]
async fn an_engine_without_its_program_is_loaded_and_not_advertised() {
    let home = Home::new();
    let listed = home.run(&["plugin", "list", "--json"]).await.json();
    let plugins = listed["plugins"].as_array().unwrap();
    let sd = plugins
        .iter()
        .find(|plugin| plugin["name"] == "sd-cpp")
        .unwrap();
    assert_eq!(sd["serves"], false);
    assert!(
        sd["missing"][0].as_str().unwrap().contains("sd-cli"),
        "{sd}"
    );
}

#[tokio::test]
async fn a_plan_shows_the_command_line_and_starts_nothing() {
    let (home, sd, files) = (Home::new(), SdCli::install(), FileServer::start().await);
    let url = files.put("m.gguf", "GGUF");
    let claim = offers::sd_image(
        "job-1",
        vec![offers::model_file("diffusion-model", &url, "m.gguf")],
        &json!({"prompt": "a fox"}),
    );
    let file = home.path("offer.json");
    std::fs::write(&file, claim.to_string()).unwrap();
    let plan = |json: bool| {
        let mut command = home.command(&["plan", file.to_str().unwrap()]);
        command.env("STUDIO_WORKER_SD_CLI", sd.path());
        if json {
            command.arg("--json");
        }
        worker_tests::home::finish(command)
    };
    let told = plan(false).await.ok();
    let run = told
        .lines()
        .find(|line| line.contains("run sd-cli"))
        .unwrap_or_else(|| panic!("{told}"));
    for part in [
        "--diffusion-model",
        "<m.gguf>",
        "--steps 2",
        "-W 64",
        "--diffusion-fa",
    ] {
        assert!(run.contains(part), "{part}: {run}");
    }
    let document = plan(true).await.json();
    assert_eq!(document["engine"], "sd-cpp");
    let effects = document["steps"].as_array().unwrap();
    assert!(
        effects
            .iter()
            .any(|step| step["effect"].to_string().contains(&url)),
        "the download is shown: {document}"
    );
    assert_eq!(
        plan(true).await.json(),
        document,
        "two plans of one offer are alike"
    );
    let listed = {
        let mut command = home.command(&["plugin", "list", "--json"]);
        command.env("STUDIO_WORKER_SD_CLI", sd.path());
        worker_tests::home::finish(command).await.json()
    };
    // Not even for its help: and that is said.
    assert!(sd.events().is_empty(), "{:#?}", sd.events());
    assert_eq!(files.asked("m.gguf"), 0);
    assert!(
        told.contains("what this sd-cli can do is not known"),
        "{told}"
    );
    let of_sd = |listed: &Value| {
        let plugins = listed["plugins"].as_array().unwrap().clone();
        plugins
            .into_iter()
            .find(|one| one["name"] == "sd-cpp")
            .unwrap()
    };
    assert_eq!(of_sd(&listed)["unasked"], json!(["sd-cli"]), "{listed:#}");

    std::fs::write(
        &file,
        offers::claim("x", "m", json!({"kind": "mesh"}), offers::source("torch")).to_string(),
    )
    .unwrap();
    let error = plan(false).await.error();
    assert!(
        error.contains("rejected") && error.contains("torch"),
        "{error}"
    );
}

#[tokio::test]
async fn a_plan_goes_by_what_a_program_told_a_worker() {
    let (home, sd) = (Home::new(), SdCli::install());
    let program = sd.path();
    let worker = home.start_with(&built::root().join("plugins"), &sd.env(&program));
    worker.connected().await;
    worker.stop().await;
    let asked = sd.events().len();
    assert!(asked > 0, "a worker asks for help at its start");
    let claim = offers::sd_image("job-1", Vec::new(), &json!({}));
    let file = home.path("offer.json");
    std::fs::write(&file, claim.to_string()).unwrap();
    let mut command = home.command(&["plugin", "list"]);
    command.env("STUDIO_WORKER_SD_CLI", sd.path());
    let listed = worker_tests::home::finish(command).await.ok();
    assert!(!listed.contains("not known"), "{listed}");
    assert_eq!(sd.events().len(), asked);
}

#[tokio::test]
async fn a_plan_of_a_product_of_megabytes_is_short() {
    let home = Home::new();
    let file = home.path("offer.json");
    let claim = offers::video("job-1", "a koi pond", 512, 512, 2.0, 8);
    std::fs::write(&file, claim.to_string()).unwrap();
    for flags in [&["--json"][..], &[]] {
        let line = [&["plan", file.to_str().unwrap()], flags].concat();
        let told = home.run(&line).await.ok();
        assert!(
            told.contains("Write") && told.contains("sha256"),
            "its frames are told by digest: {}",
            told.len()
        );
        assert!(told.len() < 32 * 1024, "{} bytes", told.len());
    }
}
