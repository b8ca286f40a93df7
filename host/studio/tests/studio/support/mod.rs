//! A studio on a loopback port, a worker that does what the test says, and requests.

mod form;
pub(crate) mod pushing;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::connect_async_with_config;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_util::sync::CancellationToken;
use worker_studio::{
    Approval, Compose, ComposeError, ComposeFuture, Composed, Limits, Studio, StudioOptions,
    Timing, serve,
};
use worker_wire::Secret;

pub(crate) use form::Form;
pub(crate) use worker::Worker;

/// Longer than anything takes here; only a failing test waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Token of the local routes.
pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Composes `note` tasks for model `m`.
struct Notes;

impl Compose for Notes {
    fn compose(
        &self,
        kind: String,
        text: String,
        model: Option<String>,
        options: Value,
    ) -> ComposeFuture {
        Box::pin(async move {
            if kind != "note" {
                let known = vec!["note".to_owned()];
                return Err(ComposeError::UnknownKind { known });
            }
            let model = model.unwrap_or_else(|| "m".to_owned());
            match model.as_str() {
                "m" => Ok(Composed {
                    model,
                    vram_gb_estimate: 1.5,
                    task: json!({"kind": kind, "text": text, "options": options}).to_string(),
                    model_source: r#"{"engine":"scribe","files":[],"n":1.0}"#.to_owned(),
                }),
                "broken" => Ok(Composed {
                    model,
                    vram_gb_estimate: 0.0,
                    task: "not json".to_owned(),
                    model_source: "{}".to_owned(),
                }),
                "unwilling" => Err(ComposeError::Failed {
                    message: "`size` must be a number".to_owned(),
                }),
                _ => Err(ComposeError::UnknownModel {
                    known: vec!["m".to_owned()],
                }),
            }
        })
    }
}

/// A studio and the way to it.
pub(crate) struct Rig {
    pub(crate) studio: Arc<Studio>,
    pub(crate) base: String,
    pub(crate) http: reqwest::Client,
    pub(crate) dir: Arc<tempfile::TempDir>,
    stop: CancellationToken,
    server: JoinHandle<()>,
    approve: Approval,
    limits: Limits,
    timing: Timing,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut StudioOptions)) -> Self {
        Self::at(Arc::new(tempfile::tempdir().unwrap()), change).await
    }

    pub(crate) async fn at(
        dir: Arc<tempfile::TempDir>,
        change: impl FnOnce(&mut StudioOptions),
    ) -> Self {
        let mut options = options(dir.path().join("studio"));
        change(&mut options);
        let (approve, limits, timing) = (
            options.approve,
            options.limits.clone(),
            options.timing.clone(),
        );
        let studio = Studio::open(options).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, studio.router(), stop.clone()));
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self {
            studio,
            base,
            http: reqwest::Client::new(),
            dir,
            stop,
            server,
            approve,
            limits,
            timing,
        }
    }

    /// Stops this one and opens another on the same folder.
    pub(crate) async fn restart(self) -> Self {
        let (approve, limits, timing) = (self.approve, self.limits.clone(), self.timing.clone());
        let dir = Arc::clone(&self.dir);
        self.end().await;
        Self::at(dir, |options| {
            options.approve = approve;
            options.limits = limits;
            options.timing = timing;
        })
        .await
    }

    pub(crate) async fn end(self) {
        self.stop.cancel();
        self.studio.close().await;
        self.server.await.unwrap();
    }

    pub(crate) fn api(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}/api{path}", self.base))
            .bearer_auth(TOKEN)
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let response = self.api(Method::GET, path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.json().await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Response {
        self.api(Method::POST, path)
            .json(body)
            .send()
            .await
            .unwrap()
    }

    /// Queues a composed `note`.
    pub(crate) async fn submit(&self, text: &str) -> String {
        let response = self
            .post("/jobs", &json!({"kind": "note", "text": text}))
            .await;
        assert_eq!(response.status(), StatusCode::CREATED);
        let body: Value = response.json().await.unwrap();
        body["jobId"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn job(&self, id: &str) -> Value {
        self.get(&format!("/jobs/{id}")).await
    }

    /// Follows a job by long polls until it is in a state.
    pub(crate) async fn reach(&self, id: &str, state: &str) -> Value {
        self.follow(id, |job| job["state"] == state).await
    }

    pub(crate) async fn follow(&self, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let polling = async {
            let mut job = self.job(id).await;
            while !wanted(&job) {
                let version = &job["version"];
                job = self
                    .get(&format!("/jobs/{id}?after={version}&waitMs=1000"))
                    .await;
            }
            job
        };
        tokio::time::timeout(PATIENCE, polling)
            .await
            .expect("the job never got there")
    }

    /// Registers an install and polls until there is a token.
    pub(crate) async fn register(&self, install: &str) -> (String, String) {
        let request = self.request(install).await;
        self.token(&request).await
    }

    pub(crate) async fn request(&self, install: &str) -> String {
        let response = self.register_request(install).await;
        assert_eq!(response.status(), StatusCode::OK);
        let answer: Value = response.json().await.unwrap();
        answer["requestId"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn register_request(&self, install: &str) -> Response {
        self.register_with(&json!({
            "installId": install,
            "registrationSecretHash": SECRET_HASH,
            "capabilities": capabilities(),
            "userAgent": "studio-worker/test",
        }))
        .await
    }

    pub(crate) async fn register_with(&self, body: &Value) -> Response {
        self.http
            .post(self.wire("/workers/register-request"))
            .json(body)
            .send()
            .await
            .unwrap()
    }

    pub(crate) async fn poll(&self, request: &str, secret: &str) -> Response {
        self.http
            .get(self.wire(&format!("/workers/register-requests/{request}")))
            .bearer_auth(secret)
            .send()
            .await
            .unwrap()
    }

    pub(crate) async fn token(&self, request: &str) -> (String, String) {
        let response = self.poll(request, SECRET).await;
        assert_eq!(response.status(), StatusCode::OK);
        let answer: Value = response.json().await.unwrap();
        assert_eq!(answer["status"], "approved");
        (
            answer["workerId"].as_str().unwrap().to_owned(),
            answer["authToken"].as_str().unwrap().to_owned(),
        )
    }

    pub(crate) fn wire(&self, path: &str) -> String {
        format!("{}/graphics/api{path}", self.base)
    }

    /// A registered, connected, welcomed worker that has sent its first heartbeat.
    pub(crate) async fn worker(&self, install: &str) -> Worker {
        self.worker_with(install, capabilities()).await
    }

    pub(crate) async fn worker_with(&self, install: &str, capabilities: Value) -> Worker {
        let (id, token) = self.register(install).await;
        self.connect(&id, &token, capabilities).await
    }

    /// Connects with a token, says hello, is welcomed and sends its first heartbeat.
    pub(crate) async fn connect(&self, id: &str, token: &str, capabilities: Value) -> Worker {
        let mut worker = self.greet(id, token, capabilities).await;
        worker.beat().await;
        worker
    }

    /// The same without the heartbeat.
    pub(crate) async fn greet(&self, id: &str, token: &str, capabilities: Value) -> Worker {
        let mut worker = self.open(id, token).await.unwrap();
        worker.capabilities = capabilities.clone();
        worker
            .send(json!({"type": "hello", "authToken": token, "capabilities": capabilities}))
            .await;
        let welcome = worker.frame().await;
        assert_eq!(welcome["type"], "welcome");
        assert_eq!(welcome["workerId"], id);
        worker
    }

    /// Upgrades only.
    pub(crate) async fn open(&self, id: &str, token: &str) -> Result<Worker, tungstenite::Error> {
        let url = self.wire(&format!("/workers/{id}/connect"));
        let mut request = url.replace("http://", "ws://").into_client_request()?;
        let headers = request.headers_mut();
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        headers.insert(
            "sec-websocket-protocol",
            "studio-worker-v1".parse().unwrap(),
        );
        let (socket, response) = connect_async_with_config(request, None, true).await?;
        assert_eq!(
            response.headers()["sec-websocket-protocol"],
            "studio-worker-v1"
        );
        Ok(Worker::new(id, token, socket))
    }

    /// Posts a result.
    pub(crate) async fn upload(&self, worker: (&str, &str), job: &str, form: Form) -> Response {
        let url = self.wire(&format!("/workers/{}/jobs/{job}/complete", worker.0));
        self.http
            .post(url)
            .bearer_auth(worker.1)
            .header("content-type", Form::content_type())
            .body(form.end())
            .send()
            .await
            .unwrap()
    }
}

pub(crate) fn options(dir: PathBuf) -> StudioOptions {
    StudioOptions {
        dir,
        token: Secret::new(TOKEN),
        approve: Approval::Auto,
        limits: Limits {
            register_per_minute: 1_000,
            ..Limits::default()
        },
        timing: Timing {
            // A test's worker does not answer a close that it does not read.
            goodbye: Duration::from_millis(20),
            ..Timing::default()
        },
        compose: Arc::new(Notes),
    }
}

/// A registration secret and its hash.
pub(crate) const SECRET: &str = "00000000000000000000000000000000000000000000000000000000000000aa";
/// SHA-256 of [`SECRET`].
pub(crate) const SECRET_HASH: &str =
    "9ab8830ee8c51392c8aa50af7e0db22d79965b6b79b33bb4949281c9e84dd576";

pub(crate) fn capabilities() -> Value {
    json!({
        "machineName": "rig", "username": "me", "agentVersion": "0.1.0", "engine": "multi",
        "vramTotalGb": 24.0, "vramThresholdGb": 12.0, "autoEnabled": true, "autoStart": true,
        "supportedModels": ["m"], "taskKinds": ["note"],
        "supportedModelsPerKind": {"note": ["m"]}, "modelEngines": ["scribe"],
    })
}

/// Capabilities with some fields of another value.
pub(crate) fn but(changes: Value) -> Value {
    let mut all = capabilities();
    for (key, value) in changes.as_object().unwrap() {
        all[key] = value.clone();
    }
    all
}

/// Capabilities that list every extension.
pub(crate) fn modern() -> Value {
    but(json!({"extensions": ["progress", "jobCancel", "resume", "pluginUpdate", "pluginStatus"]}))
}

/// A request written by hand; the status line's number.
pub(crate) async fn raw(rig: &Rig, head: &str) -> u16 {
    let address = rig.base.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .expect("the connection was kept")
        .unwrap();
    let text = String::from_utf8_lossy(&answer);
    text.split(' ')
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or_default()
}
