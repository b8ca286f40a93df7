//! `plugin add | remove | rollback | pin | unpin | history | diff | replay`.
//!
//! What decides goes through the running worker where one runs, else to its store under the worker's lock.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use worker_config::{DaemonLock, Paths, Settings};
use worker_plugins::PluginSet;
use worker_runner::replay;
use worker_swap::{Book, SwapError, Swapper, Verdict};

use crate::cli::{Failure, Source};
use crate::client::Client;
use crate::swapping::{Wish, fulfil};
use crate::{afar, assemble, embedded, output};

/// How long the worker may take to do what it was told: to fetch a plugin, to compile it, to replay jobs through it.
const ACTION_LIMIT: Duration = Duration::from_secs(20 * 60);

/// Journals that `diff` compares on.
const JOURNALS: usize = 100;

/// Takes a plugin in, from a file or from an address.
pub(crate) async fn add(paths: &Paths, settings: &Settings, from: Source) -> Result<(), Failure> {
    let mut wish = Wish::of(String::new());
    match from {
        Source::File(file) => wish.path = Some(std::path::absolute(file)?),
        Source::Address(address) => wish.address = Some(address),
    }
    let (None, Some(address)) = (Client::find(paths)?, &wish.address) else {
        return act(paths, "add", wish).await;
    };
    let _lock = DaemonLock::take(&paths.lock)?;
    let swapper = offline(paths).await?;
    let egress = assemble::egress(paths, settings)?;
    output::line(&afar::add(&swapper, &egress, address).await?)
}

/// Does what a wish says.
pub(crate) async fn act(paths: &Paths, action: &str, wish: Wish) -> Result<(), Failure> {
    output::line(&ask(paths, action, wish).await?)
}

async fn ask(paths: &Paths, action: &str, wish: Wish) -> Result<String, Failure> {
    let told = match Client::find(paths)? {
        Some(client) => {
            let body = serde_json::to_value(&wish)?;
            let route = format!("/daemon/plugins/{action}");
            let answer = client.order(&route, &body, ACTION_LIMIT).await?;
            let done = answer.get("done").and_then(Value::as_str);
            done.unwrap_or("done").to_owned()
        }
        None => {
            let _lock = DaemonLock::take(&paths.lock)?;
            let swapper = offline(paths).await?;
            match fulfil(&swapper, action, wish).await {
                Some(done) => done?,
                None => return Err(Failure::new("no such action")),
            }
        }
    };
    Ok(told)
}

/// Grants what waits what it asks for, after showing it; nothing but what was shown.
pub(crate) async fn grant(
    paths: &Paths,
    name: &str,
    digest: Option<String>,
    as_json: bool,
) -> Result<(), Failure> {
    let swap = match Client::find(paths)? {
        Some(client) => {
            let status = client.json(Method::GET, "/daemon/status", None).await?;
            status.get("swap").cloned().unwrap_or_default()
        }
        None => {
            let _lock = DaemonLock::take(&paths.lock)?;
            offline(paths).await?.told().await
        }
    };
    let candidates = swap.get("candidates").and_then(Value::as_array);
    let waits = candidates
        .into_iter()
        .flatten()
        .find(|one| text(one, "name") == name && text(one, "state") == "waiting");
    let Some(waits) = waits else {
        return Err(SwapError::NothingWaits(name.to_owned()).into());
    };
    if !as_json {
        output::line(&format!(
            "{name} {} ({}) asks for more: {}",
            text(waits, "version"),
            text(waits, "digest"),
            text(waits, "lacks"),
        ))?;
    }
    let wish = Wish {
        digest: digest.or_else(|| Some(text(waits, "digest").to_owned())),
        ..Wish::of(name.to_owned())
    };
    let told = ask(paths, "grant", wish).await?;
    if as_json {
        let told = json!({ "name": name, "version": waits.get("version"), "digest": waits.get("digest"), "granted": waits.get("more"), "done": told });
        return output::line(&serde_json::to_string_pretty(&told)?);
    }
    output::line(&told)
}

/// The store of the worker that last ran with this configuration.
pub(crate) async fn offline(paths: &Paths) -> Result<Arc<Swapper>, Failure> {
    let sandbox = assemble::sandbox(paths)?;
    let folder = last_folder(paths)?;
    let options = assemble::swap_options(paths, &sandbox, folder.as_deref(), None)?;
    Ok(Swapper::offline(options).await?)
}

/// The folder that it last ran with; none for the built-in set.
fn last_folder(paths: &Paths) -> Result<Option<PathBuf>, Failure> {
    let folder = PathBuf::from(book(paths)?.place);
    Ok(folder.is_absolute().then_some(folder))
}

fn book(paths: &Paths) -> Result<Book, Failure> {
    Ok(Book::peek(&paths.state.join("plugins/plugins.json"))?)
}

/// What happened to the plugins, oldest first.
pub(crate) async fn history(
    paths: &Paths,
    name: Option<&str>,
    as_json: bool,
) -> Result<(), Failure> {
    let told = match Client::find(paths)? {
        Some(client) => {
            let route = "/daemon/plugins/history";
            client.json(Method::GET, route, None).await?
        }
        None => json!({ "history": book(paths)?.history }),
    };
    let events: Vec<Value> = told
        .get("history")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|event| name.is_none_or(|name| text(event, "plugin") == name))
        .cloned()
        .collect();
    if as_json {
        return output::line(&serde_json::to_string_pretty(&events)?);
    }
    for event in &events {
        let digest: String = text(event, "digest").chars().take(12).collect();
        let line = format!(
            "{} {} {} {digest} {}: {}",
            text(event, "at"),
            text(event, "plugin"),
            text(event, "version"),
            text(event, "state"),
            text(event, "reason"),
        );
        output::line(&line)?;
    }
    Ok(())
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// The plugins and the policy that a worker of this configuration last ran with.
pub(crate) async fn default_set(paths: &Paths) -> Result<Arc<PluginSet>, Failure> {
    let folder = last_folder(paths)?;
    let set = tokio::task::spawn_blocking(move || match folder {
        Some(folder) => PluginSet::folder(&folder),
        None => PluginSet::embedded(embedded::FILES),
    });
    Ok(Arc::new(set.await??))
}

/// Two files side by side on the kept journals.
pub(crate) async fn diff(
    paths: &Paths,
    old: &Path,
    new: &Path,
    as_json: bool,
) -> Result<(), Failure> {
    let (sandbox, set) = (assemble::sandbox(paths)?, default_set(paths).await?);
    let refused = |refusal: worker_plugins::Refusal| Failure::new(refusal.to_string());
    let old = worker_swap::engine_of(&sandbox, old, &set)
        .await
        .map_err(refused)?;
    let new = worker_swap::engine_of(&sandbox, new, &set)
        .await
        .map_err(refused)?;
    let (dir, name) = (paths.journal.clone(), old.identity().name.clone());
    let read = tokio::task::spawn_blocking(move || replay::recent(&dir, &name, JOURNALS));
    let (recorded, unusable) = read.await?;
    let compared = worker_swap::compare(&recorded, unusable, &old, &new).await;
    if as_json {
        let jobs: Vec<Value> = compared
            .jobs
            .iter()
            .map(|one| {
                let (verdict, lines) = shown(&one.verdict);
                json!({ "job": one.job, "verdict": verdict, "lines": lines, "oldFuel": one.old_fuel, "newFuel": one.new_fuel })
            })
            .collect();
        let told =
            json!({ "jobs": jobs, "unusable": compared.unusable, "refused": compared.refusal() });
        return output::line(&serde_json::to_string_pretty(&told)?);
    }
    for one in &compared.jobs {
        let (verdict, lines) = shown(&one.verdict);
        output::line(&format!(
            "{} {verdict} (fuel {} → {})",
            one.job, one.old_fuel, one.new_fuel
        ))?;
        for line in lines {
            output::line(&format!("  {line}"))?;
        }
    }
    output::line(&compared.to_string())
}

fn shown(verdict: &Verdict) -> (String, Vec<String>) {
    match verdict {
        Verdict::Same => ("same".to_owned(), Vec::new()),
        Verdict::Differs(lines) => ("differs".to_owned(), lines.clone()),
        Verdict::Diverged(step) => (format!("diverged at step {step}"), Vec::new()),
        Verdict::Worse(why) => ("worse".to_owned(), vec![why.clone()]),
    }
}

/// One job's journal through the version that serves, or through a file.
pub(crate) async fn again(
    paths: &Paths,
    job: &str,
    with: Option<&Path>,
    as_json: bool,
) -> Result<(), Failure> {
    let (dir, wanted) = (paths.journal.clone(), job.to_owned());
    let recorded = tokio::task::spawn_blocking(move || replay::of_job(&dir, &wanted)).await??;
    let engine = match with {
        Some(file) => {
            let (sandbox, set) = (assemble::sandbox(paths)?, default_set(paths).await?);
            worker_swap::engine_of(&sandbox, file, &set)
                .await
                .map_err(|refusal| Failure::new(refusal.to_string()))?
        }
        None => {
            // Reads the store beside a running worker; nothing of it is changed.
            let sandbox = assemble::sandbox(paths)?;
            let folder = last_folder(paths)?;
            let options = assemble::swap_options(paths, &sandbox, folder.as_deref(), None)?;
            let found = worker_swap::active_engine(&options, &recorded.engine).await;
            found.map_err(|refusal| Failure::new(refusal.to_string()))?
        }
    };
    let trace = replay::replay(&engine, &recorded).await;
    let steps: Vec<Vec<String>> = trace
        .steps
        .iter()
        .map(|effects| effects.iter().map(replay::effect_line).collect())
        .collect();
    let end = replay::ended(&trace.end);
    if as_json {
        let told = json!({ "job": job, "engine": recorded.engine, "digest": engine.identity().digest, "steps": steps, "end": end, "fuel": trace.fuel });
        return output::line(&serde_json::to_string_pretty(&told)?);
    }
    for (number, effects) in steps.iter().enumerate() {
        for effect in effects {
            output::line(&format!("step {number}: {effect}"))?;
        }
    }
    output::line(&format!("{end}; fuel {}", trace.fuel))
}
