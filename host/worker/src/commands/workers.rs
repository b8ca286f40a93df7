//! `workers`: who works for the running studio, and who wants to.

use reqwest::Method;
use serde_json::{Value, json};
use worker_config::Paths;

use crate::cli::{Failure, Output, Workers};
use crate::client::Client;

/// Lists the workers of the studio that runs with this configuration, or decides about one.
pub(crate) async fn run(paths: &Paths, action: &Workers, as_json: bool) -> Result<(), Failure> {
    let client = Client::required(paths)?;
    let (answer, told) = match action {
        Workers::List => return list(&client, as_json).await,
        Workers::Approve(request) => {
            let route = format!("/api/workers/pending/{request}/approve");
            (
                client.json(Method::POST, &route, None).await?,
                format!("{request} is approved"),
            )
        }
        Workers::Reject { request, reason } => {
            let route = format!("/api/workers/pending/{request}/reject");
            let body = json!({ "reason": reason });
            (
                client.json(Method::POST, &route, Some(&body)).await?,
                format!("{request} is rejected"),
            )
        }
        Workers::Remove(worker) => {
            let route = format!("/api/workers/{worker}");
            (
                client.json(Method::DELETE, &route, None).await?,
                format!("{worker} is removed"),
            )
        }
    };
    let mut output = Output::standard();
    if as_json {
        output.json(&answer)
    } else {
        output.line(told)
    }
}

async fn list(client: &Client, as_json: bool) -> Result<(), Failure> {
    let pending = client
        .json(Method::GET, "/api/workers/pending", None)
        .await?;
    let workers = client.json(Method::GET, "/api/workers", None).await?;
    let mut output = Output::standard();
    if as_json {
        return output.json(&json!({ "pending": pending, "workers": workers }));
    }
    let text = |value: &Value, pointer: &str| {
        value
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    for request in pending.as_array().into_iter().flatten() {
        let machine = text(request, "/capabilities/machineName");
        output.line(format_args!(
            "waiting    {} {machine}",
            text(request, "/requestId")
        ))?;
    }
    for worker in workers.as_array().into_iter().flatten() {
        let connected = worker
            .get("connected")
            .and_then(Value::as_bool)
            .unwrap_or(false);
        let state = if connected { "connected" } else { "away" };
        let machine = text(worker, "/capabilities/machineName");
        output.line(format_args!(
            "{state:<10} {} {machine}",
            text(worker, "/workerId")
        ))?;
    }
    Ok(())
}
