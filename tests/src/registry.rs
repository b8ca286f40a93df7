//! Registries of OCI artifacts on loopback: Debian's own, and one that lies as it is told.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::api::http;
use crate::needs;

/// Type of a manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Type of the config of a WebAssembly artifact.
pub const CONFIG: &str = "application/vnd.wasm.config.v0+json";

/// SHA-256 as registries write it.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// The manifest of a component, as the ecosystem's tools make it; with the signature as an annotation.
pub fn manifest(component: &[u8], signature: Option<&str>) -> Value {
    let config = b"{}";
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": digest(config), "size": config.len()},
        "layers": [{"mediaType": "application/wasm", "digest": digest(component), "size": component.len()}],
    });
    if let Some(signature) = signature {
        manifest["annotations"] = json!({"studio-worker.plugin.minisig": signature});
    }
    manifest
}

/// Debian's `docker-registry`, in a folder of its own; ended with this.
#[derive(Debug)]
pub struct DebianRegistry {
    child: Child,
    /// `127.0.0.1:PORT`.
    pub host: String,
    _folder: TempDir,
}

impl DebianRegistry {
    /// Starts one on a free port. None, said, where the machine has none.
    pub fn start(what: &str) -> Option<Self> {
        let program = needs::program(what, "docker-registry", "docker-registry")?;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = folder.path().join("config.yml");
        let data = folder.path().join("data");
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {data:?}}}}}\nhttp: {{addr: \"127.0.0.1:0\"}}\n"
        );
        std::fs::write(&config, text).expect("a configuration");
        let mut child = Command::new(program)
            .arg("serve")
            .arg(&config)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the registry starts");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let told = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                let (_, rest) = line.split_once("listening on ")?;
                Some(rest.split('"').next()?.to_owned())
            })
            .expect("the registry says where it listens");
        // Read on, or it would stop when the pipe is full.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Self {
            child,
            host: told,
            _folder: folder,
        })
    }

    /// Pushes a component with its signature under a tag; the manifest's digest.
    pub async fn push(
        &self,
        name: &str,
        tag: &str,
        component: &[u8],
        signature: Option<&str>,
    ) -> String {
        self.blob(name, b"{}").await;
        self.blob(name, component).await;
        let body = manifest(component, signature).to_string();
        let url = format!("http://{}/v2/{name}/manifests/{tag}", self.host);
        let request = http().put(url).header(CONTENT_TYPE, MANIFEST);
        let answer = request.body(body.clone()).send().await.expect("an answer");
        assert_eq!(answer.status(), 201, "{:?}", answer.text().await);
        digest(body.as_bytes())
    }

    async fn blob(&self, name: &str, bytes: &[u8]) {
        let url = format!("http://{}/v2/{name}/blobs/uploads/", self.host);
        let begun = http().post(url).send().await.expect("an answer");
        assert_eq!(begun.status(), 202);
        let place = begun.headers()["location"]
            .to_str()
            .expect("a text")
            .to_owned();
        let mark = if place.contains('?') { '&' } else { '?' };
        let url = format!("{place}{mark}digest={}", digest(bytes));
        let put = http()
            .put(url)
            .body(bytes.to_vec())
            .send()
            .await
            .expect("an answer");
        assert_eq!(put.status(), 201);
    }
}

impl Drop for DebianRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What one path answers.
#[derive(Clone, Debug)]
pub struct Said {
    status: u16,
    headers: Vec<(String, String)>,
    body: Bytes,
}

impl Said {
    /// A 200 with this body.
    pub fn body(body: impl Into<Bytes>) -> Self {
        Self {
            status: 200,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// Another status.
    pub fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::body("")
        }
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

#[derive(Debug, Default)]
struct Script {
    said: Mutex<HashMap<String, Said>>,
    /// Paths that were asked for, with the login that came along.
    asked: Mutex<Vec<(String, Option<String>)>>,
}

/// A registry that answers each path as it is told.
#[derive(Debug)]
pub struct ScriptedRegistry {
    address: SocketAddr,
    script: Arc<Script>,
    server: JoinHandle<()>,
}

impl ScriptedRegistry {
    /// Starts one that knows nothing.
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("a port");
        let script = Arc::new(Script::default());
        let app = Router::new().fallback(answer).with_state(script.clone());
        let server =
            tokio::spawn(async move { axum::serve(listener, app).await.expect("serving") });
        Self {
            address,
            script,
            server,
        }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Has a path, query included, answered so.
    pub fn say(&self, path: &str, said: Said) {
        let mut all = self.script.said.lock().expect("no test panics here");
        all.insert(path.to_owned(), said);
    }

    /// Holds a component as a real registry does, under a tag.
    pub fn hold(&self, name: &str, tag: &str, component: &[u8], signature: Option<&str>) {
        let body = manifest(component, signature).to_string();
        self.say(&format!("/v2/{name}/manifests/{tag}"), Said::body(body));
        let blob = format!("/v2/{name}/blobs/{}", digest(component));
        self.say(&blob, Said::body(component.to_vec()));
    }

    /// Paths that were asked for, with the login that came along.
    pub fn asked(&self) -> Vec<(String, Option<String>)> {
        self.script
            .asked
            .lock()
            .expect("no test panics here")
            .clone()
    }
}

impl Drop for ScriptedRegistry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(State(script): State<Arc<Script>>, request: Request) -> Response {
    let path = request.uri().path_and_query().expect("a path").to_string();
    let login = request.headers().get(AUTHORIZATION);
    let login = login.map(|value| value.to_str().expect("a text").to_owned());
    let mut asked = script.asked.lock().expect("no test panics here");
    asked.push((path.clone(), login.clone()));
    drop(asked);
    let said = script.said.lock().expect("no test panics here");
    // A path may answer another thing to whoever has a login.
    let found = login
        .and_then(|login| said.get(&format!("{path} {login}")))
        .or_else(|| said.get(&path));
    let Some(said) = found.cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let mut response = (
        StatusCode::from_u16(said.status).expect("a status"),
        said.body,
    )
        .into_response();
    for (name, value) in said.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        response
            .headers_mut()
            .insert(name, HeaderValue::from_str(&value).expect("a value"));
    }
    response
}
