//! `pause` and `resume`: whether the running worker takes offers.

use reqwest::Method;
use worker_config::Paths;

use crate::cli::Failure;
use crate::client::Client;
use crate::output;

/// Pauses or resumes the running worker. The job in hand goes on either way.
pub(crate) async fn run(paths: &Paths, paused: bool) -> Result<(), Failure> {
    let client = Client::required(paths)?;
    let route = if paused {
        "/daemon/pause"
    } else {
        "/daemon/resume"
    };
    client.json(Method::POST, route, None).await?;
    output::line(if paused {
        "paused: no offer is taken; the job in hand goes on"
    } else {
        "resumed"
    })
}
