//! The worker's own routes on the local API: health, status, pause, resume, shutdown.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;
use worker_backends::ServerNetwork;
use worker_config::{ConfigFile, Environment, Settings};
use worker_plugins::Generation;
use worker_runner::{MissingProgram, Programs, Runner};
use worker_session::States;
use worker_swap::Swapper;
use worker_wire::timestamp;

use crate::metrics::Sources;
use crate::{VERSION, assemble};

/// What the routes show and steer.
pub(crate) struct Control {
    pub(crate) runner: Runner,
    pub(crate) programs: Arc<Programs>,
    pub(crate) swapper: Arc<Swapper>,
    pub(crate) states: States,
    pub(crate) metrics: Sources,
    pub(crate) config_path: PathBuf,
    pub(crate) models_root: PathBuf,
    pub(crate) studio: String,
    pub(crate) embedded: bool,
    pub(crate) server_network: ServerNetwork,
    pub(crate) url: String,
    pub(crate) started: SystemTime,
    /// Cancelled by `POST /daemon/shutdown`: the same as a first signal.
    pub(crate) shutdown: CancellationToken,
}

/// The route that needs no token.
pub(crate) fn open_routes(control: Arc<Control>) -> Router {
    Router::new()
        .route("/healthz", get(health))
        .with_state(control)
}

/// The routes behind the guard.
pub(crate) fn guarded_routes(control: Arc<Control>) -> Router {
    Router::new()
        .route("/daemon/status", get(status))
        .route("/metrics", get(crate::metrics::metrics))
        .route("/daemon/pause", post(pause))
        .route("/daemon/resume", post(resume))
        .route("/daemon/shutdown", post(shutdown))
        .route("/daemon/threshold", post(threshold))
        .route("/daemon/plugins/history", get(crate::swapping::history))
        .route("/daemon/plugins/{action}", post(crate::swapping::act))
        .with_state(control)
}

async fn health(State(control): State<Arc<Control>>) -> Json<Value> {
    Json(json!({
        "ok": true,
        "version": VERSION,
        "busy": control.runner.current().is_some(),
        "engine": "multi",
        "modelsRoot": control.models_root,
    }))
}

async fn pause(State(control): State<Arc<Control>>) -> Json<Value> {
    control.runner.set_paused(true);
    Json(json!({ "paused": true }))
}

async fn resume(State(control): State<Arc<Control>>) -> Json<Value> {
    control.runner.set_paused(false);
    Json(json!({ "paused": false }))
}

/// Reads the threshold anew from where the worker had it at its start: the environment, else the file.
async fn threshold(State(control): State<Arc<Control>>) -> Response {
    let path = control.config_path.clone();
    let read = tokio::task::spawn_blocking(move || {
        Settings::resolve(&ConfigFile::load(&path)?, &Environment::of_process())
    });
    let refused = |error: String| {
        let body = json!({ "error": { "code": "bad_configuration", "message": error } });
        (StatusCode::CONFLICT, Json(body)).into_response()
    };
    match read.await {
        Ok(Ok(settings)) => {
            let gigabytes = control.runner.set_threshold(assemble::threshold(&settings));
            Json(json!({ "vramThresholdGb": gigabytes })).into_response()
        }
        Ok(Err(error)) => refused(error.to_string()),
        Err(error) => refused(error.to_string()),
    }
}

async fn shutdown(State(control): State<Arc<Control>>) -> (StatusCode, Json<Value>) {
    control.shutdown.cancel();
    (StatusCode::ACCEPTED, Json(json!({ "ok": true })))
}

async fn status(State(control): State<Arc<Control>>) -> Json<Value> {
    Json(control.status().await)
}

impl Control {
    async fn status(&self) -> Value {
        let swap = self.swapper.told().await;
        let generation = self.runner.generation();
        let registration = self.states.registration().borrow().clone();
        let session = self.states.session().borrow().clone();
        let heartbeat = self.states.heartbeat().borrow().clone();
        let current = self.runner.current();
        let capabilities = self.runner.capabilities();
        json!({
            "version": VERSION,
            "pid": std::process::id(),
            "startedAt": timestamp(self.started),
            "configPath": self.config_path,
            "studio": self.studio,
            "embedded": self.embedded,
            "localApiUrl": self.url,
            "paused": self.runner.paused(),
            "busy": current.is_some(),
            "registration": registration,
            "session": session,
            "sessions": self.states.sessions(),
            "heartbeat": heartbeat,
            "memoryLimit": memory_limit(),
            "serverNetwork": server_network(&self.server_network),
            "vramTotalGb": capabilities.vram_total_gb,
            "vramThresholdGb": capabilities.vram_threshold_gb,
            "currentJobId": current.as_ref().map(|job| job.job_id.to_string()),
            "currentJob": current.map(|job| json!({
                "jobId": job.job_id.as_str(),
                "kind": job.kind,
                "model": job.model,
                "stage": job.stage,
                "startedAt": timestamp(job.since),
                "progress": job.progress,
                "generation": job.served_by.generation,
                "plugins": job.served_by.plugins,
            })),
            "servers": self.runner.servers().list().iter().map(|server| json!({
                "plugin": server.plugin,
                "program": server.program,
                "model": server.model,
                "pid": server.pid,
                "port": server.port,
                "network": network(server.own_network),
                "startedAt": timestamp(server.since),
                "calls": server.calls,
                "starts": server.starts,
                "busy": server.busy,
            })).collect::<Vec<_>>(),
            "generation": generation.id(),
            "plugins": with_states(describe_plugins(&generation, &self.programs), &swap),
            "refused": swap.get("refused"),
            "swap": swap,
        })
    }
}

/// Who holds programs to their memory.
fn memory_limit() -> Value {
    let keeper = worker_backends::memory_keeper();
    json!({ "by": if keeper.is_kernel() { "kernel" } else { "worker" }, "detail": keeper.to_string() })
}

/// In which network servers run.
fn server_network(network: &ServerNetwork) -> Value {
    json!({ "network": self::network(network.is_own()), "detail": network.to_string() })
}

fn network(is_own: bool) -> &'static str {
    if is_own { "own" } else { "shared" }
}

/// The plugins of a generation, for `status` and `plugin list`.
pub(crate) fn describe_plugins(generation: &Generation, programs: &Programs) -> Vec<Value> {
    let mut listed = Vec::new();
    for engine in generation.engines() {
        let kinds: Vec<Value> = engine
            .description()
            .kinds
            .iter()
            .map(|kind| json!({ "kind": kind.kind, "models": kind.models }))
            .collect();
        let (to_come, missing): (Vec<_>, Vec<_>) = programs
            .missing(engine)
            .into_iter()
            .partition(|missing| missing.archive.is_some());
        let told = |programs: &[MissingProgram]| {
            json!(programs.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let own = [
            ("engines", json!(engine.description().engines)),
            ("kinds", json!(kinds)),
            ("serves", json!(programs.can_serve(engine))),
            ("missing", told(&missing)),
            ("toDownload", told(&to_come)),
            ("unasked", json!(programs.unasked(engine))),
        ];
        let mut entry = plugin_entry("engine", engine.identity());
        entry.extend(own.map(|(name, value)| (name.to_owned(), value)));
        listed.push(Value::Object(entry));
    }
    let router = std::iter::once(("router", generation.router().identity()));
    let finishers = generation
        .finishers()
        .iter()
        .map(|finisher| ("finisher", finisher.identity()));
    listed.extend(
        router
            .chain(finishers)
            .map(|(role, identity)| Value::Object(plugin_entry(role, identity))),
    );
    listed
}

/// Puts the state of the swap in: `active` or `probation`, pinned or not, and what served before.
pub(crate) fn with_states(mut listed: Vec<Value>, swap: &Value) -> Vec<Value> {
    for plugin in &mut listed {
        let name = plugin
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let told = swap
            .get("states")
            .and_then(|states| states.get(name))
            .cloned();
        let (Some(Value::Object(told)), Some(plugin)) = (told, plugin.as_object_mut()) else {
            continue;
        };
        for key in ["state", "jobsLeft", "pinned", "previous"] {
            if let Some(value) = told.get(key).filter(|value| !value.is_null()) {
                plugin.insert(key.to_owned(), value.clone());
            }
        }
    }
    listed
}

fn plugin_entry(role: &str, identity: &worker_plugins::Identity) -> Map<String, Value> {
    [
        ("name", identity.name.as_str()),
        ("role", role),
        ("version", &identity.version),
        ("digest", &identity.digest),
        ("state", "active"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.into()))
    .chain(std::iter::once((
        "signature".to_owned(),
        json!(identity.signature),
    )))
    .collect()
}
