//! The local API, as scripts use it.

use std::path::Path;
use std::sync::OnceLock;

use bytes::Bytes;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};

use crate::wait::{soon, until_ok};

/// Where the API is, and the right to use it.
#[derive(Clone, Debug)]
pub struct Api {
    /// Base URL.
    pub url: String,
    /// Bearer token.
    pub token: String,
}

/// The one HTTP client of a test process.
pub fn http() -> &'static Client {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    CLIENT.get_or_init(|| {
        // Loopback only, but the client is not built without one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Client::builder()
            .no_proxy()
            .build()
            .expect("an HTTP client")
    })
}

impl Api {
    /// Reads a discovery file, once it is there and somebody answers.
    pub fn discover(path: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(path).ok()?;
        let found: Value = serde_json::from_str(&text).ok()?;
        Some(Self {
            url: found["url"].as_str()?.to_owned(),
            token: found["token"].as_str()?.to_owned(),
        })
    }

    /// A request with the token.
    pub fn request(&self, method: Method, route: &str) -> RequestBuilder {
        http()
            .request(method, format!("{}{route}", self.url))
            .bearer_auth(&self.token)
    }

    /// Status and JSON of a GET; none where nobody answers.
    pub async fn try_get(&self, route: &str) -> Option<(u16, Value)> {
        let answer = self.request(Method::GET, route).send().await.ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.json().await.ok()?))
    }

    /// JSON of a GET that must succeed.
    pub async fn get(&self, route: &str) -> Value {
        let (status, answer) = soon(route, self.try_get(route)).await.expect("an answer");
        assert_eq!(status, 200, "{route}: {answer}");
        answer
    }

    /// Status and JSON of a POST.
    pub async fn post(&self, route: &str, body: &Value) -> (u16, Value) {
        let answer = soon(route, self.request(Method::POST, route).json(body).send())
            .await
            .expect("an answer");
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or(Value::Null))
    }

    /// Queues a verbatim claim; gives its job id.
    pub async fn offer(&self, claim: &Value) -> String {
        let (status, answer) = self.post("/api/jobs", &json!({ "offer": claim })).await;
        assert_eq!(status, 201, "{answer}");
        answer["jobId"].as_str().expect("a job id").to_owned()
    }

    /// Queues a task composed from words.
    pub async fn submit(&self, body: &Value) -> String {
        let (status, answer) = self.post("/api/jobs", body).await;
        assert_eq!(status, 201, "{answer}");
        answer["jobId"].as_str().expect("a job id").to_owned()
    }

    /// One job.
    pub async fn job(&self, id: &str) -> Value {
        self.get(&format!("/api/jobs/{id}")).await
    }

    /// Waits until a job satisfies.
    pub async fn job_until(
        &self,
        id: &str,
        what: &str,
        satisfies: impl Fn(&Value) -> bool,
    ) -> Value {
        until_ok(what, || async {
            let (_, job) = self.try_get(&format!("/api/jobs/{id}")).await?;
            satisfies(&job).then_some(job)
        })
        .await
    }

    /// Waits until a job is over, whatever came of it.
    pub async fn over(&self, id: &str) -> Value {
        let over = |job: &Value| {
            ["done", "failed", "cancelled"]
                .iter()
                .any(|state| job["state"] == *state)
        };
        self.job_until(id, "the end of the job", over).await
    }

    /// Waits until a job is done; gives its result.
    pub async fn result(&self, id: &str) -> Bytes {
        let job = self.over(id).await;
        assert_eq!(job["state"], "done", "{job:#}");
        let answer = self
            .request(Method::GET, &format!("/api/jobs/{id}/result"))
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status().as_u16(), 200);
        soon("the result", answer.bytes())
            .await
            .expect("a whole result")
    }

    /// Waits until a job has failed; gives its error and whether it may be tried again.
    pub async fn failure(&self, id: &str) -> (String, bool) {
        let job = self.over(id).await;
        assert_eq!(job["state"], "failed", "{job:#}");
        (
            job["error"].as_str().expect("an error").to_owned(),
            job["retryable"].as_bool().expect("a word on retrying"),
        )
    }
}
