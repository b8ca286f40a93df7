//! `submit`: queues a job, shows how far it is, writes the result.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Map, Value, json};
use worker_config::Paths;

use crate::cli::{Failure, Submission, Work};
use crate::client::Client;
use crate::{output, signals};

/// How long one look at a job may wait for news.
const WAIT: Duration = Duration::from_secs(20);

/// Queues the job and, unless told otherwise, waits for its end. Ctrl-C meanwhile cancels it.
pub(crate) async fn run(paths: &Paths, submission: &Submission) -> Result<(), Failure> {
    let client = Client::required(paths)?;
    // Listened for from here on, so that no job is queued that Ctrl-C would leave behind.
    let interrupted = signals::first()?;
    let body = order(&submission.work)?;
    let queued = client.json(Method::POST, "/api/jobs", Some(&body)).await?;
    let job = field(&queued, "jobId")?.to_owned();
    if !submission.wait {
        return output::line(&if submission.json {
            queued.to_string()
        } else {
            job
        });
    }
    if !submission.json {
        eprintln!("{}", told(&queued, &job));
    }
    let ended = tokio::select! {
        ended = watch(&client, &job, submission.json) => ended?,
        () = interrupted.cancelled() => {
            eprintln!("cancelling {job}");
            client.json(Method::POST, &format!("/api/jobs/{job}/cancel"), None).await?;
            return Err(Failure::new(format!("{job} was cancelled")));
        }
    };
    match field(&ended, "state")? {
        "done" => deliver(&client, &job, &ended, submission).await,
        state => {
            if submission.json {
                output::line(&ended.to_string())?;
            }
            let error = ended
                .get("error")
                .and_then(Value::as_str)
                .unwrap_or("no reason was given");
            Err(Failure::new(format!("{job} {state}: {error}")))
        }
    }
}

fn order(work: &Work) -> Result<Value, Failure> {
    let (kind, text, model, settings, model_source, vram_gb) = match work {
        Work::Offer(path) => return Ok(json!({ "offer": read_claim(path)? })),
        Work::Compose {
            kind,
            text,
            model,
            settings,
            model_source,
            vram_gb,
        } => (kind, text, model, settings, model_source, vram_gb),
    };
    let mut options: Map<String, Value> = settings.iter().cloned().collect();
    if let Some(path) = model_source {
        options.insert("modelSource".to_owned(), read_object(path)?);
    }
    Ok(json!({
        "kind": kind, "text": text, "model": model, "options": options, "vramGbEstimate": vram_gb,
    }))
}

/// What was queued, for whom: a person who named no model sees here which one was taken.
fn told(queued: &Value, job: &str) -> String {
    let part = |name: &str| {
        let text = queued.get(name).and_then(Value::as_str).unwrap_or_default();
        text.chars().filter(|c| !c.is_control()).collect::<String>()
    };
    let (engine, model) = (part("engine"), part("model"));
    match (engine.is_empty(), model.is_empty()) {
        (true, _) => format!("queued {job}"),
        (false, true) => format!("queued {job} for {engine}"),
        (false, false) => format!("queued {job} for {engine}, model {model}"),
    }
}

fn read_claim(path: &Path) -> Result<Value, Failure> {
    let value = read_object(path)?;
    // A file may hold the claim or the whole frame around it.
    let claim = value.get("claim").cloned().unwrap_or(value);
    if claim.is_object() {
        Ok(claim)
    } else {
        Err(Failure::new(format!(
            "{} holds no claim: it must be a JSON object",
            path.display()
        )))
    }
}

fn read_object(path: &Path) -> Result<Value, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Failure::new(format!("cannot read {}: {e}", path.display())))?;
    let value: Value = serde_json::from_str(&text)
        .map_err(|e| Failure::new(format!("{} is not JSON: {e}", path.display())))?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(Failure::new(format!(
            "{} is not a JSON object",
            path.display()
        )))
    }
}

/// Follows a job to its end.
async fn watch(client: &Client, job: &str, quiet: bool) -> Result<Value, Failure> {
    let mut version = 0;
    let mut shown = String::new();
    loop {
        let path = format!(
            "/api/jobs/{job}?after={version}&waitMs={}",
            WAIT.as_millis()
        );
        let state = client.poll(&path, WAIT).await?;
        version = state
            .get("version")
            .and_then(Value::as_u64)
            .unwrap_or(version);
        if !quiet {
            show(&state, &mut shown);
        }
        if matches!(field(&state, "state")?, "done" | "failed" | "cancelled") {
            if std::io::stderr().is_terminal() && !quiet {
                eprintln!();
            }
            return Ok(state);
        }
    }
}

/// One line on a terminal, rewritten; a line for each change elsewhere.
fn show(state: &Value, shown: &mut String) {
    let text = |name: &str| state.get(name).and_then(Value::as_str);
    let mut line = text("state").unwrap_or_default().to_owned();
    if let Some(waiting) = text("waiting") {
        line = format!("{line}: {waiting}");
    }
    if let Some(progress) = state
        .get("progress")
        .filter(|progress| progress.is_object())
    {
        let number = |name: &str| progress.get(name).and_then(Value::as_u64).unwrap_or(0);
        let note = progress
            .get("note")
            .and_then(Value::as_str)
            .unwrap_or_default();
        line = format!("{line} {}/{} {note}", number("done"), number("total"));
    }
    let line: String = line.chars().filter(|c| !c.is_control()).collect();
    if line == *shown {
        return;
    }
    let mut stderr = std::io::stderr();
    let written = if stderr.is_terminal() {
        write!(stderr, "\r\x1b[K{line}")
    } else {
        writeln!(stderr, "{line}")
    };
    // Nobody reads the progress: the job goes on.
    let _ = written.and_then(|()| stderr.flush());
    *shown = line;
}

async fn deliver(
    client: &Client,
    job: &str,
    ended: &Value,
    submission: &Submission,
) -> Result<(), Failure> {
    let extension = ended.get("ext").and_then(Value::as_str);
    let result = format!("/api/jobs/{job}/result");
    if extension.is_none() && submission.output.is_none() {
        let document = client.json(Method::GET, &result, None).await?;
        let shown = if submission.json {
            json!({ "job": ended, "result": document })
        } else {
            document
        };
        return output::line(&serde_json::to_string_pretty(&shown)?);
    }
    let path = submission
        .output
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("{job}.{}", extension.unwrap_or("json"))));
    let bytes = save(client, &result, &path).await?;
    if let (Some(got), Some(asked)) = (extension, path.extension().and_then(|ext| ext.to_str()))
        && !got.eq_ignore_ascii_case(asked)
    {
        eprintln!("note: the result is {got}, not {asked}");
    }
    let told = if submission.json {
        json!({ "job": ended, "file": path, "bytes": bytes }).to_string()
    } else {
        format!("{} ({bytes} bytes)", path.display())
    };
    output::line(&told)
}

/// Writes the result beside its place and renames it: never half a file under the name that was asked for.
async fn save(client: &Client, result: &str, path: &Path) -> Result<u64, Failure> {
    let failed =
        |error: std::io::Error| Failure::new(format!("cannot write {}: {error}", path.display()));
    let folder = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    let mut response = client.download(result).await?;
    let mut bytes = 0u64;
    while let Some(chunk) = response.chunk().await? {
        file.write_all(&chunk).map_err(failed)?;
        bytes = bytes.saturating_add(chunk.len() as u64);
    }
    output::readable(file.as_file()).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(bytes)
}

fn field<'a>(value: &'a Value, name: &str) -> Result<&'a str, Failure> {
    value
        .get(name)
        .and_then(Value::as_str)
        .ok_or_else(|| Failure::new(format!("the studio's answer has no {name}")))
}
