//! `cargo bench -p worker-tests`: what is promised about speed, each against a baseline of the same run.
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

mod calls;
mod reference;
mod spawn;
mod starts;
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
    runtime.block_on(async {
        println!("-- policy calls, each in a fresh sandbox");
        calls::measure().await;
        println!("-- synthetic jobs over the wire, one after another");
        wire::measure().await;
        println!("-- image jobs through a program that takes no time");
        spawn::measure().await;
        println!("-- start and idling");
        starts::measure().await;
    });
}

/// The middle one.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
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
