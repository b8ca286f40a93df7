//! Results are never lost: across refusals, silence, crashes of the worker and absences of the studio.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation is what a test is for"
)]

mod absences;
mod crashes;
mod refusals;

use serde_json::Value;
use worker_tests::Home;
use worker_tests::wait::until_ok;

/// What was kept aside.
async fn aside(home: &Home) -> Vec<Value> {
    let listed = home.run(&["results", "--json"]).await.json();
    listed.as_array().unwrap().clone()
}

/// Waits until one result was kept aside.
async fn one_aside(home: &Home) -> Value {
    until_ok("a result kept aside", || async {
        let mut listed = aside(home).await;
        assert!(listed.len() <= 1, "{listed:#?}");
        listed.pop()
    })
    .await
}

/// Files that wait for a studio.
fn spooled(home: &Home) -> usize {
    let files = |folder: &str| {
        let entries = std::fs::read_dir(home.path(folder)).into_iter().flatten();
        entries.flatten().map(|entry| entry.path())
    };
    let named = files("state/spool").filter(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        path.is_file() && !name.starts_with('.')
    });
    // A file that is written in place is wiped when its result has left.
    let in_place = files("state/spool-in-place")
        .filter(|path| std::fs::read(path).is_ok_and(|bytes| bytes.iter().any(|byte| *byte != 0)));
    named.count() + in_place.count()
}
