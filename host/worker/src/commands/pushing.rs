//! `studio push | updates | watch | cancel`: plugins pushed to the workers of the running studio.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use worker_config::Paths;

use crate::cli::{Failure, Output, Push, Pushing, one_line};
use crate::client::Client;
use crate::signals;

/// How long one look at a roll-out may wait for news.
const WAIT: Duration = Duration::from_secs(20);
/// Largest component, in bytes: what the studio takes.
const COMPONENT_BYTES: u64 = worker_studio::COMPONENT_BYTES as u64;
/// A studio takes every plugin that an operator can let a worker have.
const _: () = assert!(COMPONENT_BYTES == (worker_plugins::MAX_FILE_MIB as u64) << 20);
/// Largest signature file, in bytes. One has some 300.
const SIGNATURE_BYTES: u64 = 16 * 1024;
/// Digits of a digest that are shown.
const SHORT: usize = 12;

/// Does what was said.
pub(crate) async fn run(paths: &Paths, pushing: &Pushing) -> Result<(), Failure> {
    let client = Client::required(paths)?;
    match pushing {
        Pushing::Push(push) => begin(&client, push).await,
        Pushing::Updates { update: None, json } => list(&client, *json).await,
        Pushing::Updates {
            update: Some(update),
            json,
        } => {
            let found = client.json(Method::GET, &route(update), None).await?;
            show(&found, *json, true)
        }
        Pushing::Watch { update, json } => watch(&client, update, *json).await,
        Pushing::Cancel { update, json } => {
            let route = format!("{}/cancel", route(update));
            show(
                &client.json(Method::POST, &route, None).await?,
                *json,
                false,
            )
        }
    }
}

fn route(update: &str) -> String {
    format!("/api/updates/{update}")
}

async fn begin(client: &Client, push: &Push) -> Result<(), Failure> {
    let bytes = read(&push.file, COMPONENT_BYTES)?;
    let signature = signature(push)?;
    let inspection = worker_plugins::inspect(&push.file)?;
    let digest = hex::encode(Sha256::digest(&bytes));
    if digest != inspection.digest {
        return Err(Failure::new(format!(
            "{} changed while it was read",
            push.file.display()
        )));
    }
    if let Some(problem) = inspection.problems.first() {
        return Err(Failure::new(format!("{}: {problem}", push.file.display()))
            .with_hint("no worker would take it; `studio-worker plugin validate` says more"));
    }
    let stem = push.file.file_stem().map(|stem| stem.to_string_lossy());
    let name = inspection
        .name
        .or_else(|| stem.map(std::borrow::Cow::into_owned));
    client
        .send_bytes(&format!("/api/components/{digest}"), bytes)
        .await?;
    let order = json!({
        "name": name,
        "version": inspection.version.unwrap_or_default(),
        "digest": digest,
        "signature": signature,
        "canary": push.canary,
        "canaryJobs": push.canary_jobs,
        "soakSeconds": push.soak,
        "atOnce": push.at_once,
    });
    let begun = client
        .json(Method::POST, "/api/updates", Some(&order))
        .await?;
    let update = text(&begun, "updateId").to_owned();
    if push.no_wait {
        let mut output = Output::standard();
        return match push.json {
            true => output.json(&begun),
            false => output.line(update),
        };
    }
    if !push.json {
        Output::standard().line(heading(&begun))?;
    }
    watch(client, &update, push.json).await
}

/// The text of the signature; without one nothing is sent.
fn signature(push: &Push) -> Result<String, Failure> {
    let path = push.signature.clone().unwrap_or_else(|| {
        let mut path = push.file.clone().into_os_string();
        path.push(".minisig");
        PathBuf::from(path)
    });
    if !path.exists() {
        return Err(Failure::new(format!(
            "there is no signature {}",
            path.display()
        ))
        .with_hint("workers take only what a key that they trust has signed: `studio-worker plugin sign FILE`, or minisign -S"));
    }
    let bytes = read(&path, SIGNATURE_BYTES)?;
    String::from_utf8(bytes)
        .map_err(|_| Failure::new(format!("{} is no signature file", path.display())))
}

fn read(path: &Path, most: u64) -> Result<Vec<u8>, Failure> {
    let failed =
        |error: std::io::Error| Failure::new(format!("cannot read {}: {error}", path.display()));
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > most {
        return Err(Failure::new(format!(
            "{} is larger than {most} bytes",
            path.display()
        )));
    }
    Ok(bytes)
}

/// Follows a roll-out to its end, each change a line. Ctrl-C leaves it going.
async fn watch(client: &Client, update: &str, as_json: bool) -> Result<(), Failure> {
    let interrupted = signals::first()?;
    let mut shown = Shown::default();
    let mut found = client.json(Method::GET, &route(update), None).await?;
    loop {
        if !as_json {
            shown.news(&found)?;
        }
        if !["canary", "rolling"].contains(&text(&found, "state")) {
            break;
        }
        let change = found.get("change").cloned().unwrap_or_default();
        let path = format!(
            "{}?after={change}&waitMs={}",
            route(update),
            WAIT.as_millis()
        );
        found = tokio::select! {
            found = client.poll(&path, WAIT) => found?,
            () = interrupted.cancelled() => {
                eprintln!("{update} goes on; `studio-worker studio watch {update}` shows it again");
                return Ok(());
            }
        };
    }
    show(&found, as_json, false)?;
    match text(&found, "state") {
        "done" => Ok(()),
        state => Err(Failure::new(format!(
            "{update} {state}: {}",
            text(&found, "reason")
        ))),
    }
}

/// What was said already.
#[derive(Default)]
struct Shown {
    waiting: String,
    workers: std::collections::BTreeMap<String, String>,
}

impl Shown {
    fn news(&mut self, update: &Value) -> Result<(), Failure> {
        let mut output = Output::standard();
        for worker in workers(update) {
            let line = worker_line(worker);
            let id = text(worker, "workerId").to_owned();
            // That a worker was not sent anything is no news.
            let quiet = ["not-sent", "no-extension"].contains(&text(worker, "state"));
            if !quiet && self.workers.get(&id) != Some(&line) {
                output.line(&line)?;
                self.workers.insert(id, line);
            }
        }
        let waiting = text(update, "waiting");
        if self.waiting != waiting && !waiting.is_empty() {
            output.line(format_args!("waiting for {}", one_line(waiting)))?;
        }
        waiting.clone_into(&mut self.waiting);
        Ok(())
    }
}

async fn list(client: &Client, as_json: bool) -> Result<(), Failure> {
    let found = client.json(Method::GET, "/api/updates", None).await?;
    let mut output = Output::standard();
    if as_json {
        return output.json(&found);
    }
    for update in found.as_array().into_iter().flatten() {
        output.line(heading(update))?;
    }
    Ok(())
}

fn show(update: &Value, as_json: bool, with_story: bool) -> Result<(), Failure> {
    let mut output = Output::standard();
    if as_json {
        return output.json(update);
    }
    output.line(heading(update))?;
    for worker in workers(update) {
        output.line(worker_line(worker))?;
        let story = worker.get("story").and_then(Value::as_array);
        for told in story.into_iter().flatten().filter(|_| with_story) {
            let line = format!(
                "    {} {:<13} {}",
                text(told, "at"),
                text(told, "state"),
                text(told, "reason")
            );
            output.line(one_line(line.trim_end()))?;
        }
    }
    let waiting = text(update, "waiting");
    if !waiting.is_empty() {
        output.line(format_args!("  waiting for {}", one_line(waiting)))?;
    }
    Ok(())
}

fn heading(update: &Value) -> String {
    let digest: String = text(update, "digest").chars().take(SHORT).collect();
    let reason = text(update, "reason");
    let line = format!(
        "{} {} {} {digest} {}{}{reason}",
        text(update, "updateId"),
        text(update, "name"),
        text(update, "version"),
        text(update, "state"),
        if reason.is_empty() { "" } else { ": " },
    );
    one_line(&line)
}

fn worker_line(worker: &Value) -> String {
    let away = match worker.get("connected").and_then(Value::as_bool) {
        Some(false) => " (away)",
        _ => "",
    };
    let declined = match text(worker, "meaning") {
        "declined" => " (declined)",
        _ => "",
    };
    let left = match worker.get("jobsLeft").and_then(Value::as_u64) {
        Some(left) => format!(" ({left} jobs left)"),
        None => String::new(),
    };
    let line = format!(
        "  {:<14}{} {}{away}{declined}{left} {}",
        text(worker, "state"),
        text(worker, "workerId"),
        text(worker, "machineName"),
        text(worker, "reason"),
    );
    one_line(line.trim_end())
}

fn workers(update: &Value) -> impl Iterator<Item = &Value> {
    let workers = update.get("workers").and_then(Value::as_array);
    workers.into_iter().flatten()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}
