//! From `exec` to `welcome` with plugins compiled before, and what an idle worker holds.

use std::time::{Duration, Instant};

use worker_tests::{Home, ScriptedStudio};

use crate::{median, ms};

const STARTS: usize = 15;

pub(crate) async fn measure() {
    let studio = ScriptedStudio::start().await;
    let home = Home::approved(&studio.base());
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let started = Instant::now();
        let worker = home.start();
        let peer = studio.welcomed().await;
        times.push(started.elapsed());
        drop(peer);
        worker.stop().await;
    }
    println!(
        "{}  start to welcome, plugins compiled before (under 150 ms)",
        ms(median(times))
    );

    let worker = home.start();
    let _peer = studio.welcomed().await;
    worker.connected().await;
    // Long enough for what starting needed to be given back.
    tokio::time::sleep(Duration::from_secs(3)).await;
    println!(
        "{} MiB  resident when idle after the start (under 60 MiB)",
        worker.resident_kib() / 1024
    );
}
