//! `models`: what the cache holds, beside a running worker or without one.

use std::io::{IsTerminal, Write as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use worker_config::{Paths, Settings};
use worker_egress::Egress;
use worker_files::{CacheEntry, ModelCache, Verdict};
use worker_runner::{Model, Telling};

use crate::cli::{Failure, Models, one_line};
use crate::{assemble, output, signals};

/// Least time between two lines of progress where no terminal shows a bar.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Least time between two drawings of the bar.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// Width of the bar in characters.
const BAR: u64 = 24;

/// Does one of them.
pub(crate) async fn run(
    paths: &Paths,
    settings: &Settings,
    action: Models,
    as_json: bool,
) -> Result<(), Failure> {
    let cache = assemble::cache(settings)?;
    match action {
        Models::Pull { offer, plugins } => {
            pull(paths, settings, cache, &offer, plugins.as_deref(), as_json).await
        }
        // Hashing takes as long as reading: not on a thread that serves others.
        action => tokio::task::spawn_blocking(move || keep(&cache, &action, as_json)).await?,
    }
}

fn keep(cache: &ModelCache, action: &Models, as_json: bool) -> Result<(), Failure> {
    match action {
        Models::List => list(cache, as_json),
        Models::Verify { wanted } => verify(cache, wanted, as_json),
        Models::Remove { wanted } => {
            let key = cache.find_entry(wanted)?;
            let bytes = cache.remove(&key)?;
            let told = format!("removed {wanted} ({})", size(bytes));
            say(
                as_json,
                &json!({"id": key.to_string(), "bytes": bytes}),
                &[told],
            )
        }
        Models::Pin { wanted, pinned } => {
            let key = cache.find_entry(wanted)?;
            cache.pin(&key, *pinned)?;
            let word = if *pinned { "pinned" } else { "unpinned" };
            let told = format!("{word} {wanted}");
            say(
                as_json,
                &json!({"id": key.to_string(), "pinned": pinned}),
                &[told],
            )
        }
        Models::Gc { limit } => {
            let freed = cache.collect_garbage(*limit)?;
            let mut lines: Vec<String> = freed
                .names
                .iter()
                .map(|name| format!("removed {}", one_line(name)))
                .collect();
            lines.push(format!(
                "{} freed, {} partial downloads and {} files set aside removed, {} held",
                size(freed.bytes),
                freed.partials,
                freed.set_aside,
                size(freed.left)
            ));
            let document = json!({
                "removed": freed.names, "partials": freed.partials, "setAside": freed.set_aside, "bytes": freed.bytes, "left": freed.left,
            });
            say(as_json, &document, &lines)
        }
        Models::Pull { .. } => Ok(()),
    }
}

fn list(cache: &ModelCache, as_json: bool) -> Result<(), Failure> {
    let (entries, partials) = (cache.list()?, cache.partials()?);
    let shown: Vec<Value> = entries.iter().map(describe).collect();
    let unfinished: Vec<Value> = partials
        .iter()
        .map(|partial| json!({"id": partial.key.to_string(), "bytes": partial.bytes, "inFlight": partial.in_flight}))
        .collect();
    // As the budget counts.
    let own = entries.iter().filter(|entry| !entry.adopted);
    let idle = partials.iter().filter(|partial| !partial.in_flight);
    let held: u64 = own
        .map(|entry| entry.size)
        .chain(idle.map(|partial| partial.bytes))
        .sum();
    let document = json!({
        "models": shown, "partials": unfinished, "bytes": held, "budgetBytes": cache.budget(),
    });
    let mut lines: Vec<String> = entries.iter().map(line).collect();
    for partial in &partials {
        let state = if partial.in_flight {
            "downloading"
        } else {
            "unfinished"
        };
        let id: String = partial.key.to_string().chars().take(19).collect();
        lines.push(format!("{id:<20}{:>10}  {state}", size(partial.bytes)));
    }
    lines.push(match cache.budget() {
        Some(budget) => format!("{} of {} held", size(held), size(budget)),
        None => format!("{} held", size(held)),
    });
    say(as_json, &document, &lines)
}

fn describe(entry: &CacheEntry) -> Value {
    json!({
        "id": entry.key.to_string(),
        "name": entry.name,
        "path": entry.path,
        "bytes": entry.size,
        "sha256": entry.sha256,
        "verified": entry.verified,
        "adopted": entry.adopted,
        "pinned": entry.pinned,
        "inUse": entry.in_use,
        "lastUsed": entry.last_used.map(worker_wire::timestamp),
    })
}

fn line(entry: &CacheEntry) -> String {
    let id: String = entry.key.to_string().chars().take(19).collect();
    let marks = [
        (!entry.verified, "unverified"),
        (entry.adopted, "adopted"),
        (entry.pinned, "pinned"),
        (entry.in_use, "in use"),
    ];
    let mut line = format!(
        "{id:<20}{:>10}  {}",
        size(entry.size),
        one_line(&entry.name)
    );
    for (_, mark) in marks.iter().filter(|(holds, _)| *holds) {
        line.push_str("  ");
        line.push_str(mark);
    }
    line
}

fn verify(cache: &ModelCache, wanted: &[String], as_json: bool) -> Result<(), Failure> {
    let mut entries = cache.list()?;
    if !wanted.is_empty() {
        let found = wanted.iter().map(|name| cache.find_entry(name));
        let found = found.collect::<Result<Vec<_>, _>>()?;
        entries.retain(|entry| found.contains(&entry.key));
    }
    let (mut shown, mut lines) = (Vec::new(), Vec::new());
    let (mut bad, mut unreadable) = (0, 0);
    for CacheEntry { key, name, .. } in entries {
        let checked = match cache.verify(&key) {
            Ok(checked) => checked,
            // It says nothing of the others.
            Err(error) => {
                unreadable += 1;
                let (word, error) = ("unreadable", error.to_string());
                lines.push(format!("{word}: {}: {}", one_line(&name), one_line(&error)));
                shown.push(
                    json!({"id": key.to_string(), "name": name, "verdict": word, "error": error}),
                );
                continue;
            }
        };
        let word = match checked.verdict {
            Verdict::Whole => "ok",
            Verdict::Recorded => "recorded",
            Verdict::Damaged => "damaged",
            Verdict::Gone => "gone",
        };
        if matches!(checked.verdict, Verdict::Damaged | Verdict::Gone) {
            bad += 1;
        }
        lines.push(format!("{word:<10}{}", one_line(&checked.name)));
        shown.push(json!({"id": key.to_string(), "name": checked.name, "verdict": word}));
    }
    say(as_json, &Value::Array(shown), &lines)?;
    let damaged = "models were damaged or gone; they are fetched again when a job needs them";
    let unread = "models could not be read: see above, and check the disk";
    match (bad, unreadable) {
        (0, 0) => Ok(()),
        (bad, 0) => Err(Failure::new(format!("{bad} {damaged}"))),
        (0, unreadable) => Err(Failure::new(format!("{unreadable} {unread}"))),
        (bad, unreadable) => Err(Failure::new(format!(
            "{bad} {damaged}; {unreadable} {unread}"
        ))),
    }
}

async fn pull(
    paths: &Paths,
    settings: &Settings,
    cache: ModelCache,
    offer: &Path,
    folder: Option<&Path>,
    as_json: bool,
) -> Result<(), Failure> {
    let claim = super::plan::read(offer)?;
    let generation = assemble::would_serve(paths, folder).await?;
    let programs = assemble::programs(paths, settings)?;
    programs.discover(&generation).await;
    let platform = assemble::platform();
    let plan = worker_runner::plan(&generation, &programs, &platform, &claim).await?;
    let models = worker_runner::models(&plan, &generation, &claim)
        .map_err(|failure| Failure::new(failure.message))?;
    if models.is_empty() {
        return Err(Failure::new(format!(
            "plugin {} would download no model for this offer: {}",
            plan.engine, plan.end
        )));
    }
    let egress = assemble::egress(paths, settings)?;
    // What has come when somebody stops it stays for the next try.
    let cancel = signals::first()?;
    let (mut shown, mut lines) = (Vec::new(), Vec::new());
    for model in &models {
        let brought = bring(model, &cache, &egress, &cancel, as_json).await;
        let file = brought.map_err(|failure| Failure::new(failure.message))?;
        lines.push(format!("{} {}", file.key, one_line(model.name())));
        shown.push(json!({
            "id": file.key.to_string(), "name": model.name(), "bytes": file.size, "verified": file.verified,
        }));
    }
    say(as_json, &Value::Array(shown), &lines)
}

async fn bring(
    model: &Model,
    cache: &ModelCache,
    egress: &Egress,
    cancel: &CancellationToken,
    quiet: bool,
) -> Result<worker_files::CachedFile, worker_plugins::contract::Failure> {
    let bar = Bar::new(model.name(), quiet);
    let telling = Telling {
        waiting: &|| bar.note("waiting for somebody else's download"),
        progress: &|done, total| bar.tell(done, total),
    };
    let brought = model.bring(cache, egress, &telling, cancel).await;
    bar.end();
    brought
}

/// Progress on standard error: a bar on a terminal, plain lines elsewhere, nothing where nobody wants it.
struct Bar {
    name: String,
    quiet: bool,
    terminal: bool,
    state: Mutex<BarState>,
}

#[derive(Default)]
struct BarState {
    done: u64,
    drawn: Option<Instant>,
}

impl Bar {
    fn new(name: &str, quiet: bool) -> Self {
        Self {
            name: one_line(name),
            quiet,
            terminal: std::io::stderr().is_terminal(),
            state: Mutex::default(),
        }
    }

    fn tell(&self, done: u64, total: Option<u64>) {
        if self.quiet {
            return;
        }
        let every = if self.terminal {
            DRAW_EVERY
        } else {
            LINE_EVERY
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Never backwards, whatever a second try does.
        state.done = state.done.max(done);
        let done = state.done;
        let now = Instant::now();
        let due = state
            .drawn
            .is_none_or(|drawn| now.duration_since(drawn) >= every);
        if !due && total != Some(done) {
            return;
        }
        state.drawn = Some(now);
        let text = match total.filter(|total| *total > 0) {
            Some(total) => {
                let total = total.max(done);
                let part = |of: u64| {
                    u64::try_from(u128::from(done) * u128::from(of) / u128::from(total))
                        .unwrap_or(of)
                };
                let full = usize::try_from(part(BAR)).unwrap_or(0);
                let empty = usize::try_from(BAR).unwrap_or(0).saturating_sub(full);
                let percent = part(100);
                if self.terminal {
                    let bar = "#".repeat(full) + &"-".repeat(empty);
                    format!("{} [{bar}] {percent:>3} % of {}", self.name, size(total))
                } else {
                    format!("{}: {percent} % of {}", self.name, size(total))
                }
            }
            None => format!("{}: {}", self.name, size(done)),
        };
        self.write(&text);
    }

    fn note(&self, words: &str) {
        if !self.quiet {
            self.write(&format!("{}: {words}", self.name));
        }
    }

    fn end(&self) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.terminal && state.drawn.is_some() {
            let _ = writeln!(std::io::stderr());
        }
    }

    /// Nobody may be reading: the download goes on.
    fn write(&self, text: &str) {
        let mut stderr = std::io::stderr();
        let written = if self.terminal {
            write!(stderr, "\r\x1b[K{text}")
        } else {
            writeln!(stderr, "{text}")
        };
        let _ = written.and_then(|()| stderr.flush());
    }
}

fn say(as_json: bool, document: &Value, lines: &[String]) -> Result<(), Failure> {
    if as_json {
        return output::line(&serde_json::to_string_pretty(document)?);
    }
    for line in lines {
        output::line(line)?;
    }
    Ok(())
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    let units = [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    for (unit, name) in units {
        if bytes >= unit {
            let tenths = u128::from(bytes) * 10 / u128::from(unit);
            return format!("{}.{} {name}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes} B")
}
