//! Pictures and LoRAs that come with a task.

use image::ColorType;
use serde_json::{Value, json};
use worker_tests::sd_cli::{argv, value_of};
use worker_tests::{FileServer, Home, ScriptedStudio, SdCli, built, media, offers};

#[tokio::test]
async fn input_pictures_reach_the_program_under_names_that_tell_what_they_are() {
    let (home, sd, files) = (Home::new(), SdCli::install(), FileServer::start().await);
    let path = sd.path();
    let worker = home.start_with(&built::root().join("plugins"), &sd.env(&path));
    let api = worker.connected().await;
    let model = offers::model_file("diffusion-model", &files.put("m.gguf", "GGUF"), "m.gguf");
    // The studio's URL lies about the type, and the program goes by the name.
    let picture = files.put("latest.webp", media::png(64, 64));
    let mask = files.put("mask", media::png(64, 64));
    let run = async |job: &str, task: Value| {
        let id = api
            .offer(&offers::sd_image(job, vec![model.clone()], &task))
            .await;
        api.result(&id).await;
        argv(sd.runs().last().unwrap())
    };

    let words = run(
        "initial",
        json!({"initImageUrl": picture, "maskUrl": mask, "denoise": 0.5}),
    )
    .await;
    assert!(
        value_of(&words, "--init-img").unwrap().ends_with(".png"),
        "{words:?}"
    );
    assert!(
        value_of(&words, "--mask").unwrap().ends_with(".png"),
        "{words:?}"
    );
    assert_eq!(value_of(&words, "--strength").as_deref(), Some("0.5"));

    let words = run(
        "reference",
        json!({"refImageUrl": picture, "initImageUrl": picture}),
    )
    .await;
    assert!(
        value_of(&words, "-r").unwrap().ends_with(".png"),
        "{words:?}"
    );
    assert_eq!(value_of(&words, "--init-img"), None, "the reference wins");
    assert_eq!(value_of(&words, "--strength"), None);

    let words = run("neither", json!({"initImageUrl": "", "refImageUrl": null})).await;
    assert!(
        !words
            .iter()
            .any(|word| word == "-r" || word == "--init-img")
    );

    // A failed input fails the job: never silently something else.
    let missing = files.answer("missing.png", 404, "");
    let before = sd.runs().len();
    let id = api
        .offer(&offers::sd_image(
            "missing",
            vec![model.clone()],
            &json!({"initImageUrl": missing}),
        ))
        .await;
    assert!(api.failure(&id).await.0.contains("404"));
    let page = files.put("page.png", "<html>a login page</html>");
    let id = api
        .offer(&offers::sd_image(
            "page",
            vec![model.clone()],
            &json!({"initImageUrl": page}),
        ))
        .await;
    assert!(api.failure(&id).await.0.contains("initial picture"));
    assert_eq!(sd.runs().len(), before, "nothing was started");
}

/// The program takes no grey picture to start from or to refer to, of whatever depth, and says so in words that a person who
/// sent one can act on; as a mask it takes any.
#[tokio::test]
async fn grey_pictures_are_masks_and_nothing_else() {
    let (home, sd, files) = (Home::new(), SdCli::install(), FileServer::start().await);
    let path = sd.path();
    let worker = home.start_with(&built::root().join("plugins"), &sd.env(&path));
    let api = worker.connected().await;
    let model = offers::model_file("diffusion-model", &files.put("m.gguf", "GGUF"), "m.gguf");
    let colour = files.put("colour.png", media::png(64, 64));
    for (name, kind) in [
        ("grey", ColorType::L8),
        ("alpha", ColorType::La8),
        ("deep", ColorType::L16),
    ] {
        let grey = files.put(&format!("{name}.png"), media::grey(64, 64, kind));
        for field in ["initImageUrl", "refImageUrl"] {
            let job = format!("{name}-{field}");
            let task = json!({field: grey});
            let id = api
                .offer(&offers::sd_image(&job, vec![model.clone()], &task))
                .await;
            let (error, retryable) = api.failure(&id).await;
            assert!(error.contains("grayscale") && !retryable, "{job}: {error}");
        }
        let task = json!({"initImageUrl": colour, "maskUrl": grey});
        let job = format!("{name}-mask");
        let id = api
            .offer(&offers::sd_image(&job, vec![model.clone()], &task))
            .await;
        media::still(&api.result(&id).await);
    }
}

#[tokio::test]
async fn only_the_models_loras_are_opened() {
    let (home, sd, files) = (Home::new(), SdCli::install(), FileServer::start().await);
    let path = sd.path();
    let worker = home.start_with(&built::root().join("plugins"), &sd.env(&path));
    let api = worker.connected().await;
    let model = offers::model_file("diffusion-model", &files.put("m.gguf", "GGUF"), "m.gguf");
    let lora = offers::model_file(
        "lora",
        &files.put("style.safetensors", "12345678{}"),
        "style.safetensors",
    );
    let opened = || {
        sd.events()
            .iter()
            .rev()
            .find(|line| line["event"] == "generate")
            .unwrap()["detail"]["loras"]
            .clone()
    };

    let id = api
        .offer(&offers::sd_image(
            "with",
            vec![model.clone(), lora],
            &json!({"prompt": "a fox"}),
        ))
        .await;
    api.result(&id).await;
    let loras = opened();
    assert_eq!(loras.as_array().unwrap().len(), 1, "{loras}");
    assert!(loras[0].as_str().unwrap().ends_with("style.safetensors"));

    let sly = "a fox <lora:/etc/hostname:1> <lora:../../m:1>";
    let id = api
        .offer(&offers::sd_image(
            "sly",
            vec![model.clone()],
            &json!({"prompt": sly}),
        ))
        .await;
    api.result(&id).await;
    assert_eq!(
        opened(),
        json!([]),
        "a task cannot have files of its choosing opened"
    );

    let odd = offers::model_file("lora", &files.put("style.zip", "PK"), "style.zip");
    let id = api
        .offer(&offers::sd_image("odd", vec![model, odd], &json!({})))
        .await;
    let (error, retryable) = api.failure(&id).await;
    assert!(error.contains("style.zip") && !retryable, "{error}");
}

#[tokio::test]
async fn what_a_task_has_too_much_of_is_refused_or_told() {
    let (sd, files, studio) = (
        SdCli::install(),
        FileServer::start().await,
        ScriptedStudio::start().await,
    );
    let home = Home::approved(&studio.base());
    let path = sd.path();
    let _worker = home.start_with(&built::root().join("plugins"), &sd.env(&path));
    let mut peer = studio.welcomed().await;
    let url = files.put("m.gguf", "GGUF");
    let model = || offers::model_file("diffusion-model", &url, "m.gguf");
    let picture = files.put("a.png", media::png(64, 64));
    let lone = offers::sd_image("job-1", vec![model()], &json!({"maskUrl": picture}));
    peer.accepted(&lone).await;
    let (error, retryable) = peer.expect_fail().await;
    assert!(error.contains("task.maskUrl") && !retryable, "{error}");
    assert!(sd.runs().is_empty());

    let two = vec![
        model(),
        offers::model_file("diffusion-model", &url, "other.gguf"),
    ];
    let task = json!({"refImageUrl": picture, "initImageUrl": picture});
    peer.accepted(&offers::sd_image("job-2", two, &task)).await;
    let line = peer.logged("initImageUrl is not used").await;
    assert!(line.to_string().contains("other.gguf"), "{line}");
    assert_eq!(line["level"], "warn", "{line}");
    studio.called("complete", 1).await;
}
