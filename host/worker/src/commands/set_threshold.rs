//! `set-threshold`: the largest job to take.

use std::io::Write;

use reqwest::Method;
use serde_json::Value;
use worker_config::Paths;

use crate::cli::{Failure, Output};
use crate::client::Client;

/// Writes the threshold, and has the running worker go by it.
pub(crate) async fn run<W: Write>(
    paths: &Paths,
    gigabytes: f64,
    output: &mut Output<W>,
) -> Result<(), Failure> {
    worker_config::set_threshold(&paths.config, gigabytes)?;
    output.line(format_args!(
        "vram_threshold_gb = {gigabytes:?} in {}",
        paths.config.display()
    ))?;
    let Some(client) = Client::find(paths)? else {
        return Ok(());
    };
    let told = client.json(Method::POST, "/daemon/threshold", None).await;
    let told = told.map_err(|error| {
        error.with_hint("the file is written; the running worker goes by it after its next start")
    })?;
    let taken = told.get("vramThresholdGb").and_then(Value::as_f64);
    output.line(format_args!(
        "the running worker takes jobs of up to {:.1} GiB from now on",
        taken.unwrap_or(gigabytes)
    ))
}
