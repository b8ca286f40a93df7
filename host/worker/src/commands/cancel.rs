//! `cancel`: takes a job out of the queue, or has it stopped.

use reqwest::Method;
use worker_config::Paths;
use worker_wire::JobId;

use crate::cli::Failure;
use crate::client::Client;
use crate::output;

/// Cancels a job of the embedded studio.
pub(crate) async fn run(paths: &Paths, job: &JobId) -> Result<(), Failure> {
    let client = Client::required(paths)?;
    client
        .json(Method::POST, &format!("/api/jobs/{job}/cancel"), None)
        .await?;
    output::line(&format!("{job} is being cancelled"))
}
