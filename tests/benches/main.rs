//! `cargo bench -p worker-tests`: what is promised about speed, each against a baseline of the same run. With words after
//! `--`, only those benches whose name holds one.
//!
//! Prints one line per promise, the ratio or the figure first. Times are medians; nothing here fails by being slow, since
//! another machine is another speed. A baseline that cannot be had is said, never replaced.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench that cannot measure should say where it broke"
)]

mod cached;
mod calls;
mod downloads;
mod host;
mod journal;
mod pictures;
mod reference;
mod spawn;
mod starts;
mod swaps;
mod warm;
mod wire;

use std::time::Duration;

fn main() {
    // `cargo test` runs benches to see that they run: only asked for by name do they measure.
    if !std::env::args().any(|word| word == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let is_wanted =
        |name: &str| wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str()));
    runtime.block_on(async {
        if is_wanted("calls") {
            println!("-- calls: policy calls, each in a fresh sandbox");
            calls::measure().await;
        }
        if is_wanted("pictures") {
            println!("-- pictures: what the guests of a picture compute");
            pictures::measure().await;
        }
        if is_wanted("wire") {
            println!("-- wire: synthetic jobs over the wire, one after another");
            wire::measure().await;
        }
        if is_wanted("spawn") {
            println!("-- spawn: image jobs through a program that takes no time");
            spawn::measure().await;
        }
        if is_wanted("warm") {
            println!("-- warm: image jobs whose program loads for a second");
            warm::measure().await;
        }
        if is_wanted("downloads") {
            println!("-- downloads: a model, verified, into the cache");
            downloads::measure().await;
        }
        if is_wanted("cached") {
            println!("-- cached: models that are there");
            cached::measure().await;
        }
        if is_wanted("journal") {
            println!("-- journal: what writing down a job costs");
            journal::measure();
        }
        if is_wanted("swaps") {
            println!("-- swaps: a new version of sd-cpp while jobs run");
            swaps::measure().await;
        }
        if is_wanted("starts") {
            println!("-- starts: start and idling");
            starts::measure().await;
        }
    });
}

/// The middle one.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// The one that 95 of a hundred do not exceed.
fn p95(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[(times.len() * 95).div_ceil(100) - 1]
}

/// Milliseconds for people.
fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

/// Microseconds for people.
fn us(time: Duration) -> String {
    format!("{:.1} us", time.as_secs_f64() * 1e6)
}

/// How many times as long.
fn ratio(ours: Duration, theirs: Duration) -> f64 {
    ours.as_secs_f64() / theirs.as_secs_f64()
}
