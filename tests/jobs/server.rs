//! The same pictures through a server that is kept warm.

use serde_json::{Value, json};
use worker_tests::{Api, FileServer, Home, SdCli, Worker, built, media, offers};

struct Rig {
    sd: SdCli,
    files: FileServer,
    api: Api,
    home: Home,
    _worker: Worker,
}

impl Rig {
    async fn start() -> Self {
        let (home, sd) = (Home::new(), SdCli::install().with_server());
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
            _worker: worker,
        }
    }

    async fn draw(&self, job: &str, task: &Value) -> Vec<u8> {
        let url = self.files.put("m.gguf", "GGUF");
        let model = offers::model_file("diffusion-model", &url, "m.gguf");
        let id = self
            .api
            .offer(&offers::sd_image(job, vec![model], task))
            .await;
        self.api.result(&id).await.to_vec()
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
        json!({"initImageUrl": null, "seed": 9_007_199_254_740_993_i64, "ext": "jpg"}),
    ]
    .iter()
    .enumerate()
    {
        let job = format!("job-{number}");
        let pictures = [warm.draw(&job, task).await, cold.draw(&job, task).await];
        let [one, other] = pictures.map(|bytes| media::still(&bytes).1);
        assert_eq!((one.width(), one.height()), (other.width(), other.height()), "{task}");
        let understood = |rig: &Rig| rig.events("generate").last().unwrap()["detail"].clone();
        assert_eq!(understood(&warm), understood(&cold), "{task}");
    }
    assert_eq!(warm.events("listening").len(), 1, "one server for them all");
    assert!(
        warm.sd
            .runs()
            .iter()
            .all(|run| run["argv"].to_string().contains("--listen-port"))
    );
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
