//! `status`: how the running worker stands; without one, what is configured.

use reqwest::Method;
use serde_json::{Value, json};
use worker_config::{IdentityFile, Paths, Settings, Studio};

use crate::cli::{Failure, one_line};
use crate::client::Client;
use crate::output;

/// Prints the status.
pub(crate) async fn run(paths: &Paths, settings: &Settings, as_json: bool) -> Result<(), Failure> {
    let status = match Client::find(paths)? {
        Some(client) => match client.json(Method::GET, "/daemon/status", None).await {
            Ok(status) => status,
            Err(gone) => {
                eprintln!("{gone}");
                stopped(paths, settings)?
            }
        },
        None => stopped(paths, settings)?,
    };
    if as_json {
        return output::line(&serde_json::to_string_pretty(&status)?);
    }
    for line in lines(&status) {
        output::line(&line)?;
    }
    Ok(())
}

fn stopped(paths: &Paths, settings: &Settings) -> Result<Value, Failure> {
    let (studio, identity) = match &settings.studio {
        Studio::Embedded => (
            "its own, inside".to_owned(),
            IdentityFile::embedded(&paths.embedded_identity),
        ),
        Studio::Remote(base) => (base.to_string(), IdentityFile::remote(&paths.config, base)),
    };
    let stored = identity.load()?;
    let registration = match (&stored.worker_id, &stored.registration_request_id) {
        (Some(_), _) => "approved",
        (None, Some(_)) => "pending",
        (None, None) => "pristine",
    };
    Ok(json!({
        "running": false,
        "configPath": paths.config,
        "studio": studio,
        "registration": { "state": registration },
        "workerId": stored.worker_id,
        "vramThresholdGb": settings.vram_threshold_gb,
        "modelsRoot": settings.models_root,
        "autoStart": settings.auto_start,
    }))
}

fn lines(status: &Value) -> Vec<String> {
    let text = |pointer: &str| {
        let value = status.pointer(pointer)?;
        match value {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    };
    let mut lines = Vec::new();
    let mut line = |label: &str, value: Option<String>| {
        if let Some(value) = value {
            lines.push(format!("{label:<13}{value}"));
        }
    };
    let running = status
        .get("running")
        .and_then(Value::as_bool)
        .unwrap_or(true);
    line(
        "worker",
        Some(if running {
            "running".to_owned()
        } else {
            "not running".to_owned()
        }),
    );
    line("version", text("/version"));
    line("config", text("/configPath"));
    line("studio", text("/studio"));
    line("api", text("/localApiUrl"));
    line("registration", text("/registration/state"));
    line("session", text("/session/state"));
    line("reason", text("/session/reason"));
    line("paused", text("/paused"));
    line(
        "threshold",
        text("/vramThresholdGb").map(|gb| format!("{gb} GiB")),
    );
    line("models", text("/modelsRoot"));
    line("auto start", text("/autoStart"));
    if let Some(job) = text("/currentJobId") {
        let stage = text("/currentJob/stage").unwrap_or_default();
        let progress = match (
            text("/currentJob/progress/done"),
            text("/currentJob/progress/total"),
        ) {
            (Some(done), Some(total)) => format!(" {done}/{total}"),
            _ => String::new(),
        };
        let note = text("/currentJob/progress/note").map(|note| format!(" {note}"));
        let progress = progress + &one_line(&note.unwrap_or_default());
        line("job", Some(format!("{job} {stage}{progress}")));
    }
    for server in status
        .get("servers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let field = |name: &str| {
            server
                .get(name)
                .map(|value| {
                    value
                        .as_str()
                        .map_or_else(|| value.to_string(), str::to_owned)
                })
                .unwrap_or_default()
        };
        lines.push(format!(
            "{:<13}{} (pid {}) for {} {}, {} calls",
            "warm server",
            field("program"),
            field("pid"),
            field("plugin"),
            field("model"),
            field("calls")
        ));
    }
    lines.extend(super::plugin::listing(status));
    lines
}
