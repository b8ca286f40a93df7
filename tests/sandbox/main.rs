//! Plugins that do everything they must not do: each is stopped by the limit that is there for it, and the next job succeeds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation is what a test is for"
)]

mod exports;
mod loading;
mod programs;
mod rig;
mod supervision;

/// What it does, and the words by which the limit is told.
const DEEDS: [(&str, &[&str]); 5] = [
    ("loop", &["computing limit"]),
    ("grow", &["memory", "256 MiB"]),
    ("recurse", &["stack"]),
    ("big", &["MiB"]),
    ("flood", &["computing limit"]),
];

/// The error names the plugin and the limit.
fn names(error: &str, plugin: &str, limit: &[&str]) {
    assert!(
        error.contains(&format!("`{plugin}`")),
        "it names the plugin: {error}"
    );
    for word in limit {
        assert!(error.contains(word), "it names the limit, {word}: {error}");
    }
}

/// What the hostile components ask for, granted.
fn granted(name: &str) -> String {
    format!("[plugins.{name}]\nmemory-mib = 256\nreturned-mib = 16\n")
}
