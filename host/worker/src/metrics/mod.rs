//! `GET /metrics`: what the worker counts, in the text format of Prometheus.
//!
//! Labels are few and bounded: no job, no URL, no kind. What plugins are called is bounded by how many there may be.

mod page;
pub(crate) mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde_json::Value;
use tokio::sync::broadcast::error::RecvError;
use worker_delivery::Delivery;
use worker_egress::Egress;
use worker_plugins::Sandbox;
use worker_runner::{Outcome, SECONDS};
use worker_session::SessionState;
use worker_swap::Swapper;

use self::page::Page;
use crate::VERSION;
use crate::control::Control;

/// Files of one folder that are added up. A folder with more is told as too small, which is better than a scrape without an end.
const MAX_FILES: usize = 100_000;

/// What only the metrics look at.
pub(crate) struct Sources {
    pub(crate) delivery: Arc<Delivery>,
    pub(crate) egress: Egress,
    pub(crate) sandbox: Arc<Sandbox>,
    pub(crate) swaps: Swaps,
    /// Folders whose sizes are told, by their word.
    pub(crate) folders: Vec<(&'static str, PathBuf)>,
}

/// States that versions came to, since the start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Swaps(Arc<Mutex<BTreeMap<&'static str, u64>>>);

impl Swaps {
    /// Counts from now on, until the swapper is gone or this is dropped.
    pub(crate) fn count(self, swapper: &Swapper) -> impl Future<Output = ()> + use<> {
        let mut changes = swapper.changes();
        async move {
            loop {
                match changes.recv().await {
                    Ok(change) => self.add(change.state.name()),
                    Err(RecvError::Lagged(missed)) => {
                        tracing::warn!(target: "worker", missed, "changes of plugins came faster than they were counted; the metrics are short of them");
                    }
                    Err(RecvError::Closed) => return,
                }
            }
        }
    }

    fn add(&self, state: &'static str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(state).or_default() += 1;
    }

    fn all(&self) -> BTreeMap<&'static str, u64> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The route.
pub(crate) async fn metrics(State(control): State<Arc<Control>>) -> impl IntoResponse {
    let text = page(&control).await.text();
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(CONTENT_TYPE, kind)], text)
}

async fn page(control: &Control) -> Page {
    let mut page = Page::default();
    let sources = &control.metrics;
    page.add(&table::BUILD, &[VERSION], 1.0);
    let started = control.started.duration_since(UNIX_EPOCH);
    page.add(
        &table::STARTED,
        &[],
        started.unwrap_or_default().as_secs_f64(),
    );
    page.add(&table::PAUSED, &[], flag(control.runner.paused()));
    page.add(&table::BUSY, &[], flag(control.runner.current().is_some()));
    jobs(&mut page, control);
    plugins(&mut page, control).await;
    let connected = *control.states.session().borrow() == SessionState::Connected;
    page.add(&table::CONNECTED, &[], flag(connected));
    page.add(&table::SESSIONS, &[], control.states.sessions() as f64);
    page.add(&table::RETRIES, &[], control.states.retries() as f64);
    let downloads = sources.egress.counts();
    page.add(&table::DOWNLOADS, &["done"], downloads.done as f64);
    page.add(&table::DOWNLOADS, &["failed"], downloads.failed as f64);
    page.add(&table::DOWNLOADED, &[], downloads.bytes as f64);
    let mut servers: BTreeMap<(String, String), u64> = BTreeMap::new();
    for server in control.runner.servers().list() {
        *servers.entry((server.plugin, server.program)).or_default() += 1;
    }
    for ((plugin, program), count) in &servers {
        page.add(&table::SERVERS, &[plugin, program], *count as f64);
    }
    disk(&mut page, sources).await;
    page
}

fn jobs(page: &mut Page, control: &Control) {
    let counts = control.runner.counts();
    page.add(&table::OFFERS, &["accepted"], counts.accepted as f64);
    page.add(&table::OFFERS, &["rejected"], counts.rejected as f64);
    for (outcome, count) in Outcome::ALL.iter().zip(counts.ended) {
        page.add(&table::JOBS, &[outcome.name()], count as f64);
    }
    page.histogram(
        &table::JOB_SECONDS,
        &SECONDS,
        &counts.by_duration,
        counts.seconds,
    );
}

async fn plugins(page: &mut Page, control: &Control) {
    let generation = control.runner.generation();
    page.add(&table::GENERATION, &[generation.id()], 1.0);
    let told = control.swapper.told().await;
    let list = |name: &str| told.get(name).and_then(Value::as_array).cloned();
    let count = |name: &str| list(name).map_or(0, |all| all.len()) as f64;
    page.add(&table::DRAINING, &[], count("draining"));
    page.add(&table::QUARANTINED, &[], count("quarantined"));
    let states = told.get("states").and_then(Value::as_object);
    for (name, one) in states.into_iter().flatten() {
        let labels = [
            name,
            text(one, "version"),
            text(one, "digest"),
            text(one, "state"),
        ];
        page.add(&table::PLUGINS, &labels, 1.0);
    }
    for one in list("candidates").unwrap_or_default() {
        let labels = ["name", "version", "digest", "state", "reason"].map(|key| text(&one, key));
        page.add(&table::CANDIDATES, &labels, 1.0);
    }
    for (state, count) in control.metrics.swaps.all() {
        page.add(&table::SWAPS, &[state], count as f64);
    }
    let compiled = control.metrics.sandbox.compiled();
    page.add(&table::COMPILED, &[], compiled as f64);
}

async fn disk(page: &mut Page, sources: &Sources) {
    let (delivery, folders) = (sources.delivery.clone(), sources.folders.clone());
    // Reading folders blocks.
    let read = tokio::task::spawn_blocking(move || {
        let sizes: Vec<(&str, u64)> = folders
            .iter()
            .map(|(word, path)| (*word, folder_bytes(path)))
            .collect();
        (delivery.spool().waiting(), sizes)
    });
    let Ok((waiting, sizes)) = read.await else {
        return;
    };
    // A folder that cannot be read has no number; none is not 0.
    if let Some(waiting) = waiting {
        page.add(&table::SPOOL, &[], waiting as f64);
    }
    for (word, bytes) in sizes {
        page.add(&table::STORED, &[word], bytes as f64);
    }
}

/// Bytes of all files below a folder; links are not followed.
fn folder_bytes(path: &Path) -> u64 {
    let (mut bytes, mut seen) = (0_u64, 0_usize);
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            seen += 1;
            if seen > MAX_FILES {
                return bytes;
            }
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => folders.push(entry.path()),
                Ok(meta) if meta.is_file() => bytes = bytes.saturating_add(meta.len()),
                _ => {}
            }
        }
    }
    bytes
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}
