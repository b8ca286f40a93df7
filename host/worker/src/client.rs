//! The running worker's API, as the other commands use it.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use worker_config::{Discovery, Paths};

use crate::cli::Failure;

/// Longest wait for an answer that is not a long poll. The API is on this machine.
const LIMIT: Duration = Duration::from_secs(30);

/// Longest time for sending a file of 64 MiB within this machine.
const SENDING: Duration = Duration::from_secs(120);

/// Largest JSON answer that is read.
const MAX_JSON: usize = 8 * 1024 * 1024;

/// A connection to the worker or studio that runs with the same configuration.
pub(crate) struct Client {
    http: reqwest::Client,
    found: Discovery,
}

impl Client {
    /// Finds the running worker by its discovery file; none where nothing runs.
    pub(crate) fn find(paths: &Paths) -> Result<Option<Self>, Failure> {
        let Some(found) = Discovery::read(&paths.discovery)? else {
            return Ok(None);
        };
        let http = worker_egress::studio_client()?;
        Ok(Some(Self { http, found }))
    }

    /// Finds the running worker, or says that there is none.
    pub(crate) fn required(paths: &Paths) -> Result<Self, Failure> {
        Self::find(paths)?.ok_or_else(|| {
            Failure::new(format!("no worker runs with {}", paths.config.display())).with_hint(
                "start one with `studio-worker run`, or name its configuration with --config",
            )
        })
    }

    /// Sends a request and reads the JSON of a 2xx answer.
    pub(crate) async fn json(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let response = self.send(method, path, body, LIMIT).await?;
        let bytes = read_bounded(response).await?;
        serde_json::from_slice(&bytes)
            .map_err(|_| Failure::new(format!("{} did not answer with JSON", self.found.url)))
    }

    /// Puts bytes.
    pub(crate) async fn send_bytes(&self, path: &str, bytes: Vec<u8>) -> Result<(), Failure> {
        let put = self.request(Method::PUT, path, SENDING).body(bytes);
        self.answered(put).await.map(drop)
    }

    /// A POST whose answer may take up to `limit`.
    pub(crate) async fn order(
        &self,
        path: &str,
        body: &Value,
        limit: Duration,
    ) -> Result<Value, Failure> {
        let response = self.send(Method::POST, path, Some(body), limit).await?;
        let bytes = read_bounded(response).await?;
        serde_json::from_slice(&bytes)
            .map_err(|_| Failure::new(format!("{} did not answer with JSON", self.found.url)))
    }

    /// A GET that may wait for `limit`.
    pub(crate) async fn poll(&self, path: &str, limit: Duration) -> Result<Value, Failure> {
        let response = self
            .send(Method::GET, path, None, limit.saturating_add(LIMIT))
            .await?;
        let bytes = read_bounded(response).await?;
        serde_json::from_slice(&bytes)
            .map_err(|_| Failure::new(format!("{} did not answer with JSON", self.found.url)))
    }

    /// A GET whose body is read by the caller.
    pub(crate) async fn download(&self, path: &str) -> Result<Response, Failure> {
        // A long result takes its time; what it must not do is stall, which the client bounds.
        self.send(Method::GET, path, None, Duration::from_secs(24 * 60 * 60))
            .await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        limit: Duration,
    ) -> Result<Response, Failure> {
        let mut request = self.request(method, path, limit);
        if let Some(body) = body {
            request = request.json(body);
        }
        self.answered(request).await
    }

    fn request(&self, method: Method, path: &str, limit: Duration) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.found.url))
            .bearer_auth(self.found.token.expose())
            .timeout(limit)
    }

    async fn answered(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let response = request
            .send()
            .await
            .map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let bytes = read_bounded(response).await?;
        Err(refused(status, &bytes))
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let why = if error.is_timeout() {
            "does not answer"
        } else {
            "cannot be reached"
        };
        Failure::new(format!("the worker at {} {why}", self.found.url))
            .with_hint("it may have been killed; start it again with `studio-worker run`")
    }
}

fn refused(status: StatusCode, body: &[u8]) -> Failure {
    let told = serde_json::from_slice::<Value>(body).ok();
    let message = told
        .as_ref()
        .and_then(|value| value.get("message"))
        .and_then(Value::as_str)
        .map(str::to_owned);
    let message =
        message.unwrap_or_else(|| String::from_utf8_lossy(body).chars().take(300).collect());
    let message = message.trim();
    if status == StatusCode::NOT_FOUND && told.is_none() {
        // Told by shape, not by words: this program's own errors are JSON.
        Failure::new("what runs with this configuration does not have that command").with_hint(
            "jobs are queued where a studio runs, `pause` and `status` answer where a worker runs",
        )
    } else if message.is_empty() {
        Failure::new(format!("the worker answered {}", status.as_u16()))
    } else {
        Failure::new(message)
    }
}

async fn read_bounded(mut response: Response) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if bytes.len().saturating_add(chunk.len()) > MAX_JSON {
            return Err(Failure::new("the worker's answer is too long"));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}
