//! `plugin`: what serves, what a file is, whether a file would be taken.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use reqwest::Method;
use serde_json::{Value, json};
use worker_config::{DaemonLock, Paths, Settings};
use worker_plugins::Generation;
use worker_runner::Programs;

use crate::cli::Failure;
use crate::client::Client;
use crate::commands::swap;
use crate::control::{describe_plugins, with_states};
use crate::{assemble, output};

/// Lists the plugins of a folder, of the running worker, or those embedded.
pub(crate) async fn list(
    paths: &Paths,
    settings: &Settings,
    folder: Option<&Path>,
    as_json: bool,
) -> Result<(), Failure> {
    let running = if folder.is_none() {
        Client::find(paths)?
    } else {
        None
    };
    let listed = match running {
        Some(client) => {
            let status = client.json(Method::GET, "/daemon/status", None).await?;
            json!({ "plugins": status.get("plugins"), "refused": status.get("refused"), "swap": status.get("swap") })
        }
        None if folder.is_none() => from_store(paths, settings).await?,
        None => offline(paths, settings, folder).await?,
    };
    if as_json {
        return output::line(&serde_json::to_string_pretty(&listed)?);
    }
    for line in listing(&listed) {
        output::line(&line)?;
    }
    Ok(())
}

/// What would serve if a worker were started as the last one was.
async fn from_store(paths: &Paths, settings: &Settings) -> Result<Value, Failure> {
    let _lock = DaemonLock::take(&paths.lock)?;
    let swapper = swap::offline(paths).await?;
    let generation = swapper.serving().current();
    let programs = Programs::only_looked_at(&settings.models_root, &paths.programs);
    programs.discover(&generation).await;
    let told = swapper.told().await;
    let plugins = with_states(describe_plugins(&generation, &programs), &told);
    Ok(json!({ "plugins": plugins, "refused": told.get("refused"), "swap": told }))
}

async fn offline(
    paths: &Paths,
    settings: &Settings,
    folder: Option<&Path>,
) -> Result<Value, Failure> {
    let sandbox = assemble::sandbox(paths)?;
    let loaded = assemble::load(&sandbox, folder).await?;
    let programs = Programs::only_looked_at(&settings.models_root, &paths.programs);
    programs.discover(&loaded.generation).await;
    let refused: Vec<String> = loaded.refused.iter().map(ToString::to_string).collect();
    let (decided, swap) = match assemble::beside(paths, &sandbox, folder).await {
        Ok(swapper) => {
            let serves = swapper.serving().current();
            let decided = decided(&loaded.generation, &serves);
            (decided, swapper.told().await)
        }
        Err(failure) => (Vec::new(), json!({ "trouble": failure.to_string() })),
    };
    Ok(json!({
        "plugins": describe_plugins(&loaded.generation, &programs),
        "refused": refused,
        "decided": decided,
        "swap": swap,
    }))
}

/// Where what serves with a folder is not what lies in it: what was pushed, added, rolled back or removed while a worker ran.
pub(crate) fn decided(files: &Generation, serves: &Generation) -> Vec<Value> {
    let by_name = |generation: &Generation| -> BTreeMap<String, (String, String)> {
        let all = worker_swap::identities(generation);
        all.map(|one| (one.name.clone(), (one.version.clone(), one.digest.clone())))
            .collect()
    };
    let (files, serves) = (by_name(files), by_name(serves));
    let names: BTreeSet<&String> = files.keys().chain(serves.keys()).collect();
    let differs = |name: &&String| {
        let digest = |of: &BTreeMap<String, (String, String)>| {
            of.get(*name).map(|(_, digest)| digest.clone())
        };
        digest(&files) != digest(&serves)
    };
    let told = |name: &String| {
        let file = files.get(name).map(|(_, digest)| digest);
        let (version, digest) = serves.get(name).cloned().unzip();
        json!({ "name": name, "file": file, "version": version, "digest": digest })
    };
    names.into_iter().filter(differs).map(told).collect()
}

/// What was decided about one name, for people.
pub(crate) fn decision(decided: &Value) -> String {
    let text = |name: &str| decided.get(name).and_then(Value::as_str);
    let short = |digest: &str| digest.chars().take(12).collect::<String>();
    let name = text("name").unwrap_or_default();
    let instead = match text("file") {
        Some(_) => "instead of its file",
        None => "without a file",
    };
    match text("digest") {
        Some(digest) => {
            let version = text("version").unwrap_or_default();
            format!("{name} {version} {} serves {instead}", short(digest))
        }
        None => format!("{name} does not serve, whatever its file is"),
    }
}

/// The plugins in a status document, a line each.
pub(crate) fn listing(status: &Value) -> Vec<String> {
    let list = |name: &str| {
        status
            .get(name)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let text = |value: &Value, name: &str| {
        value
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let mut lines = Vec::new();
    for plugin in list("plugins") {
        let digest: String = text(&plugin, "digest").chars().take(12).collect();
        let kinds: Vec<String> = plugin
            .get("kinds")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(|kind| text(kind, "kind"))
            .collect();
        let mut line = format!(
            "{:<13}{} {} {} {digest} {}",
            text(&plugin, "role"),
            text(&plugin, "name"),
            text(&plugin, "version"),
            text(&plugin, "state"),
            kinds.join(" ")
        );
        line.truncate(line.trim_end().len());
        if let Some(signature) = plugin.get("signature") {
            line.push_str(&format!(" ({})", signed(signature)));
        }
        if plugin.get("pinned") == Some(&Value::Bool(true)) {
            line.push_str(" (pinned)");
        }
        if let Some(left) = plugin.get("jobsLeft").and_then(Value::as_u64) {
            line.push_str(&format!(" (probation: {left} jobs left)"));
        }
        lines.push(line);
        // What an engine can do without does not keep it from serving.
        let lacks = match plugin.get("serves").and_then(Value::as_bool) {
            Some(false) => "not served: ",
            _ => "without: ",
        };
        let unasked = "what it can do is not known until a worker has asked it: ";
        for (name, label) in [("missing", lacks), ("toDownload", ""), ("unasked", unasked)] {
            let programs = plugin.get(name).and_then(Value::as_array);
            lines.extend(programs.into_iter().flatten().map(|program| {
                format!("{:<13}{label}{}", "", program.as_str().unwrap_or_default())
            }));
        }
    }
    lines.extend(
        list("decided")
            .iter()
            .map(|one| format!("{:<13}{}", "decided", decision(one))),
    );
    lines.extend(swap_lines(status));
    lines.extend(
        list("refused")
            .iter()
            .map(|refused| format!("{:<13}{}", "refused", refused.as_str().unwrap_or_default())),
    );
    lines
}

/// By whom a plugin is signed, for people.
fn signed(signature: &Value) -> String {
    let text = |name: &str| signature.get(name).and_then(Value::as_str);
    match (text("name").or(text("key")), text("state")) {
        (Some(by), Some("verified")) => format!("signed by {by}"),
        _ => "not signed".to_owned(),
    }
}

/// What wants to serve and does not, what is out of service, and what still ends a job.
fn swap_lines(status: &Value) -> Vec<String> {
    let swap = status.get("swap").cloned().unwrap_or_default();
    let text = |value: &Value, name: &str| {
        let text = value.get(name).and_then(Value::as_str).unwrap_or_default();
        text.to_owned()
    };
    let short = |value: &Value, name: &str| text(value, name).chars().take(12).collect::<String>();
    let all = |name: &str| swap.get(name).and_then(Value::as_array).cloned();
    let mut lines = Vec::new();
    for one in all("candidates").unwrap_or_default() {
        let state = text(&one, "state");
        // Refused files have a line of their own.
        if state != "refused" {
            lines.push(format!(
                "{state:<13}{} {} {} {}",
                text(&one, "name"),
                text(&one, "version"),
                short(&one, "digest"),
                text(&one, "reason")
            ));
        }
    }
    for one in all("quarantined").unwrap_or_default() {
        lines.push(format!(
            "{:<13}{} {}: {}",
            "quarantined",
            text(&one, "plugin"),
            short(&one, "digest"),
            text(&one, "reason")
        ));
    }
    for one in all("draining").unwrap_or_default() {
        lines.push(format!(
            "{:<13}generation {} ends with its last job",
            "draining",
            text(&one, "generation")
        ));
    }
    let states = swap.get("states").and_then(Value::as_object);
    for (name, told) in states.into_iter().flatten() {
        let state = text(told, "state");
        if ["removed", "not-allowed"].contains(&state.as_str()) {
            lines.push(format!("{state:<13}{name}"));
        }
    }
    if let Some(trouble) = swap.get("trouble").and_then(Value::as_str) {
        lines.push(format!("{:<13}{trouble}", "trouble"));
    }
    lines
}

/// Shows what a file says of itself; nothing of it runs.
pub(crate) fn inspect(file: &Path, as_json: bool) -> Result<(), Failure> {
    let inspection = worker_plugins::inspect(file)?;
    if as_json {
        output::line(&serde_json::to_string_pretty(&inspection)?)
    } else {
        output::line(&inspection.to_string())
    }
}

/// Checks files as loading would: structure, imports, grants, limits, one probe of each.
pub(crate) async fn validate(
    paths: &Paths,
    files: &[PathBuf],
    as_json: bool,
) -> Result<(), Failure> {
    let sandbox = assemble::sandbox(paths)?;
    let (mut verdicts, mut refused) = (Vec::new(), 0usize);
    for file in files {
        let verdict = worker_plugins::validate(&sandbox, file).await;
        refused += usize::from(verdict.is_err());
        let (ok, told) = match verdict {
            Ok(valid) => (true, valid.to_string()),
            Err(refusal) => (false, refusal.to_string()),
        };
        if as_json {
            verdicts.push(json!({ "file": file, "ok": ok, "verdict": told }));
        } else {
            output::line(&format!("{}: {told}", if ok { "ok" } else { "refused" }))?;
        }
    }
    if as_json {
        output::line(&serde_json::to_string_pretty(&verdicts)?)?;
    }
    match refused {
        0 => Ok(()),
        n => Err(Failure::new(format!(
            "{n} of {} files would be refused",
            files.len()
        ))),
    }
}
