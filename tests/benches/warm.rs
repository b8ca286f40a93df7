//! Jobs through a server that is kept warm, against a process for each, with a program that loads for a second.

use std::time::Duration;

use serde_json::json;
use worker_tests::{FileServer, Home, ScriptedStudio, SdCli, built, offers};

use crate::{median, ms, ratio, wire};

pub(crate) async fn measure() {
    let warm = jobs(true, 30).await;
    let cold = jobs(false, 6).await;
    println!(
        "{:5.2} x  as many jobs a minute on a warm server as with a process for each, {} against {} a job (at least 5 x)",
        ratio(cold, warm),
        ms(warm),
        ms(cold)
    );
}

/// The median of `count` jobs, after one that the server starts with.
async fn jobs(server: bool, count: usize) -> Duration {
    let (studio, sd, files) = (
        ScriptedStudio::start().await,
        SdCli::install().with_server(),
        FileServer::start().await,
    );
    sd.mode("load 1000");
    let home = Home::approved(&studio.base());
    let (cli, warm) = (sd.path(), sd.server());
    let mut env = sd.env(&cli).to_vec();
    if server {
        env.push(("STUDIO_WORKER_SD_SERVER", warm.as_path()));
    } else {
        std::fs::remove_file(&warm).expect("the server");
    }
    let worker = home.start_with(&built::root().join("plugins"), &env);
    let mut peer = studio.welcomed().await;
    let url = files.put("m.gguf", "GGUF weights");
    let mut times = Vec::new();
    for number in 0..=count {
        let model = offers::model_file("diffusion-model", &url, "m.gguf");
        let offer = offers::sd_image(&format!("job-{number}"), vec![model], &json!({"steps": 1}));
        let time = wire::one(&studio, &mut peer, &offer).await;
        if number > 0 {
            times.push(time);
        }
    }
    let listening = sd.events();
    let listening = listening
        .iter()
        .filter(|event| event["event"] == "listening");
    assert_eq!(listening.count(), usize::from(server), "servers started");
    worker.stop().await;
    median(times)
}
