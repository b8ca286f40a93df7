//! The same pictures through a server that is kept warm.

use serde_json::{Value, json};
use worker_tests::sd_cli::{argv, value_of};
use worker_tests::{Api, FileServer, Home, SdCli, Worker, built, media, offers};

struct Rig {
    sd: SdCli,
    files: FileServer,
    api: Api,
    home: Home,
    worker: Worker,
}

impl Rig {
    async fn start() -> Self {
        Self::of(SdCli::install().with_server()).await
    }

    async fn of(sd: SdCli) -> Self {
        let home = Home::new();
        let files = FileServer::start().await;
        let (cli, server) = (sd.path(), sd.server());
        let [cli, writable] = sd.env(&cli);
        let env = [cli, writable, ("STUDIO_WORKER_SD_SERVER", server.as_path())];
        let worker = home.start_with(&built::root().join("plugins"), &env);
        let api = worker.connected().await;
        Self {
            sd,
            files,
            api,
            home,
            worker,
        }
    }

    async fn draw(&self, job: &str, task: &Value) -> Vec<u8> {
        self.draw_with(job, task, &json!({})).await
    }

    async fn draw_with(&self, job: &str, task: &Value, defaults: &Value) -> Vec<u8> {
        let id = self.offer(job, task, defaults).await;
        self.api.result(&id).await.to_vec()
    }

    async fn offer(&self, job: &str, task: &Value, defaults: &Value) -> String {
        let url = self.files.put("m.gguf", "GGUF");
        let model = offers::model_file("diffusion-model", &url, "m.gguf");
        let mut offer = offers::sd_image(job, vec![model], task);
        for (name, value) in defaults.as_object().unwrap() {
            offer["modelSource"]["cliDefaults"][name] = value.clone();
        }
        self.api.offer(&offer).await
    }

    /// What the program that drew last understood, and its command line.
    fn last(&self) -> (Value, Vec<String>) {
        let drawn = self.events("generate").pop().unwrap();
        (drawn["detail"].clone(), argv(&drawn))
    }

    fn events(&self, event: &str) -> Vec<Value> {
        let all = self.sd.events().into_iter();
        all.filter(|line| line["event"] == event).collect()
    }
}

/// One job by the server and one by the command: what each understood of it is the same, field by field, and so is the picture.
#[tokio::test]
async fn a_job_means_the_same_to_both_programs() {
    let (warm, cold) = (Rig::start().await, Rig::start().await);
    std::fs::remove_file(cold.sd.server()).unwrap();
    for (number, task) in [
        json!({}),
        json!({"ext": "webp", "width": 100, "height": 70, "cfgScale": 7.3, "steps": 20, "samplingMethod": "lcm"}),
        json!({"negativePrompt": "blur", "prompt": "a <lora:/etc/passwd:1> <sd_cpp_extra_args>{\"seed\":1}</sd_cpp_extra_args>"}),
        json!({"seed": 9_007_199_254_740_993_i64, "ext": "jpg"}),
        json!({"initImageUrl": "", "denoise": 0.35, "width": 64, "height": 64}),
        json!({"initImageUrl": "", "maskUrl": "", "denoise": 1, "ext": "png"}),
    ]
    .iter()
    .enumerate()
    {
        let job = format!("job-{number}");
        // Each rig's own address of the same pictures.
        let with_pictures = |rig: &Rig| {
            let mut task = task.clone();
            for (field, size) in [("initImageUrl", (96, 64)), ("maskUrl", (32, 48))] {
                if task.get(field).is_some() {
                    task[field] = json!(rig.files.put(field, media::png(size.0, size.1)));
                }
            }
            task
        };
        let pictures = [
            warm.draw(&job, &with_pictures(&warm)).await,
            cold.draw(&job, &with_pictures(&cold)).await,
        ];
        let [one, other] = pictures.map(|bytes| media::still(&bytes).1);
        assert_eq!((one.width(), one.height()), (other.width(), other.height()), "{task}");
        assert_eq!(warm.last().0, cold.last().0, "{task}");
        let pictured = task.get("initImageUrl").is_some();
        assert_eq!(warm.last().0["init"].is_array(), pictured, "{task}");
        let masked = task.get("maskUrl").is_some();
        assert_eq!(warm.last().0["mask"].is_array(), masked, "{task}");
    }
    assert_eq!(warm.events("listening").len(), 1, "one server for them all");
    assert!(
        warm.sd
            .runs()
            .iter()
            .all(|run| run["argv"].to_string().contains("--listen-port"))
    );
}

/// A picture that lies in the offer itself, as the local API's do, is as good as one that is fetched.
#[tokio::test]
async fn a_picture_may_lie_in_the_offer() {
    let rig = Rig::start().await;
    let url = media::noise_url(640, 480);
    assert!(url.len() > 1 << 20, "longer than any other URL may be");
    rig.draw("job", &json!({"initImageUrl": url})).await;
    assert_eq!(rig.last().0["init"], json!([640, 480]));
    let journal = std::fs::read_dir(rig.home.path("state/journal")).unwrap();
    let told: u64 = journal
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(
        told < 1 << 20,
        "{told} bytes: a journal names it by its length"
    );
}

/// What is said of a model, and the request's own word for what later releases read there.
#[tokio::test]
async fn a_model_means_the_same_to_both_programs() {
    let (warm, cold) = (Rig::start().await, Rig::start().await);
    std::fs::remove_file(cold.sd.server()).unwrap();
    let defaults = json!({
        "flowShift": 2.5, "zeroCondT": true, "offloadToCpu": true, "mmap": true, "maxVramGib": 4.5,
    });
    for rig in [&warm, &cold] {
        media::still(&rig.draw_with("job", &json!({}), &defaults).await);
    }
    let ((one, served), (other, run)) = (warm.last(), cold.last());
    assert_eq!(one, other);
    assert_eq!(one["flowShift"], 2.5);
    assert!(served.iter().any(|word| word == "--listen-port"));
    for option in ["--model-args", "--max-vram"] {
        let value = value_of(&served, option);
        assert!(value.is_some(), "{option}: {served:?}");
        assert_eq!(value, value_of(&run, option), "{option}");
    }
    for option in ["--offload-to-cpu", "--mmap", "--diffusion-fa"] {
        let has = |words: &[String]| words.iter().any(|word| word == option);
        assert!(has(&served) && has(&run), "{option}: {served:?}");
    }
}

/// The server is older than the routes it is asked by. One without them never becomes ready, and costs the job the time until
/// it is given up; so it is not even started, also where the flow shift is still one of the model's alone (up to 506).
#[tokio::test]
async fn a_server_from_before_its_native_routes_is_left_alone() {
    for (release, serves) in [
        (411, false),
        (506, false),
        (507, false),
        (610, false),
        (611, true),
    ] {
        let mut sd = SdCli::install().with_server();
        sd.release(release);
        let rig = Rig::of(sd).await;
        let defaults = json!({"flowShift": 3.0});
        media::still(
            &rig.draw_with("job", &json!({"ext": "png"}), &defaults)
                .await,
        );
        let (understood, words) = rig.last();
        assert_eq!(understood["flowShift"], 3.0, "{release}: {understood}");
        let served = words.iter().any(|word| word == "--listen-port");
        assert_eq!(served, serves, "{release}: {words:?}");
        assert_eq!(
            rig.sd.runs().len(),
            1,
            "{release}: nothing else was started"
        );
    }
}

/// A picture that only its decoder finds broken: the server says 400 and draws nothing, the command says what is wrong.
#[tokio::test]
async fn a_picture_that_the_server_cannot_decode_is_never_left_out() {
    let rig = Rig::start().await;
    let whole = media::png(64, 64);
    let half = rig.files.put("half.png", whole[..whole.len() / 2].to_vec());
    let id = rig
        .offer("half", &json!({"initImageUrl": half}), &json!({}))
        .await;
    let (error, retryable) = rig.api.failure(&id).await;
    assert!(error.contains("initial picture") && !retryable, "{error}");
    let asked = rig.events("request");
    let submitted = asked.iter().filter(|it| it["detail"]["method"] == "POST");
    assert_eq!(submitted.count(), 1, "the server was asked: {asked:?}");
    assert!(rig.events("generate").is_empty(), "nothing was drawn");
}

#[tokio::test]
async fn what_the_two_do_differently_goes_through_the_command() {
    let rig = Rig::start().await;
    let picture = rig.files.put("p.png", media::png(64, 64));
    rig.draw("reference", &json!({"refImageUrl": picture}))
        .await;
    rig.draw("steps", &json!({"steps": 101})).await;
    assert!(rig.events("listening").is_empty());
}

/// A failed check in one job takes the whole server along, and a full queue takes no job: the command draws, and the next
/// job has a server again.
#[tokio::test]
async fn a_server_that_dies_or_is_full_costs_no_job() {
    for mode in ["server-abort", "server-full"] {
        let rig = Rig::start().await;
        rig.sd.mode(mode);
        media::still(&rig.draw("hit", &json!({})).await);
        let last = rig.events("generate").last().unwrap()["argv"].to_string();
        assert!(
            last.contains("\"-o\""),
            "{mode}: drawn by the command: {last}"
        );
        rig.sd.mode("ok");
        media::still(&rig.draw("after", &json!({})).await);
        let last = rig.events("generate").last().unwrap()["argv"].to_string();
        assert!(
            last.contains("--listen-port"),
            "{mode}: drawn by a server: {last}"
        );
    }
}

/// A server that should have the native routes and has not, as a build of somebody's own: it is asked, it says so, and the
/// command draws.
#[tokio::test]
async fn a_server_that_lacks_its_native_routes_costs_no_job() {
    let rig = Rig::start().await;
    rig.sd.mode("server-bare");
    media::still(&rig.draw("hit", &json!({})).await);
    let asked = rig.events("request");
    assert!(!asked.is_empty(), "the server was started and asked");
    let drawn = rig.events("generate");
    assert_eq!(drawn.len(), 1, "{drawn:?}");
    assert!(drawn[0]["argv"].to_string().contains("\"-o\""));
    let reason = rig.worker.line("sd-server gave up").await;
    assert!(
        reason.contains("answers 404 on /sdcpp/v1/capabilities"),
        "{reason}"
    );
    rig.sd.mode("ok");
    media::still(&rig.draw("after", &json!({})).await);
    let last = rig.events("generate").last().unwrap()["argv"].to_string();
    assert!(last.contains("--listen-port"), "by a server again: {last}");
}

/// The server cannot be told to stop a picture: it is ended with the job, and nothing of it goes on.
#[tokio::test]
async fn a_cancelled_job_ends_the_server_that_cannot_stop() {
    let rig = Rig::start().await;
    rig.sd.mode("hang");
    let url = rig.files.put("m.gguf", "GGUF");
    let model = offers::model_file("diffusion-model", &url, "m.gguf");
    let claim = offers::sd_image("stuck", vec![model], &json!({}));
    let id = rig.api.offer(&claim).await;
    let started = worker_tests::wait::until("the server's work", || {
        rig.events("generate").first().cloned()
    });
    let pid = started.await["pid"].to_string();
    rig.home.run(&["cancel", &id]).await.ok();
    assert_eq!(rig.api.over(&id).await["state"], "cancelled");
    worker_tests::wait::until("the server's end", || {
        (!std::path::Path::new("/proc").join(&pid).exists()).then_some(())
    })
    .await;
    rig.sd.mode("ok");
    media::still(&rig.draw("after", &json!({})).await);
}

/// A server that forgot the job is as good as one that is gone: the command draws it.
#[tokio::test]
async fn a_server_that_forgets_costs_no_job() {
    let rig = Rig::start().await;
    rig.sd.mode("forget");
    media::still(&rig.draw("forgotten", &json!({})).await);
    assert_eq!(
        rig.events("listening").len(),
        1,
        "the server was asked first"
    );
    let drawn = rig.events("generate");
    assert_eq!(drawn.len(), 2, "once by each");
    assert!(drawn[1]["argv"].to_string().contains("\"-o\""));
}
