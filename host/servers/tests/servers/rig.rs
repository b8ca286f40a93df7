//! Servers of a program that behaves as its options say.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use worker_servers::{
    Answer, Body, CallError, Launch, Lease, Limits, Request, ServerError, Servers, check_target,
};

/// How long anything is waited for; never what a test is about.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Rig {
    pub(crate) servers: Servers,
    pub(crate) dir: TempDir,
}

/// The stand-in, built beside this test.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("stand-in-server");
    assert!(
        path.is_file(),
        "{} is not built: cargo build --workspace --bins",
        path.display()
    );
    path
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Limits)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut limits = Limits {
            backoff: Duration::from_millis(1),
            ..Limits::default()
        };
        change(&mut limits);
        let servers = Servers::open(&dir.path().join("servers"), limits).unwrap();
        Self { servers, dir }
    }

    pub(crate) async fn lease(&self, launch: &Launch) -> Result<Lease, ServerError> {
        self.servers
            .lease(launch, "job", LIMIT, &CancellationToken::new())
            .await
    }

    pub(crate) async fn get(&self, launch: &Launch, target: &str) -> Result<Answer, CallError> {
        let lease = self.lease(launch).await.unwrap();
        self.ask(lease, &get(target), None, &CancellationToken::new())
            .await
    }

    pub(crate) async fn ask(
        &self,
        lease: Lease,
        request: &Request,
        on_cancel: Option<&Request>,
        cancel: &CancellationToken,
    ) -> Result<Answer, CallError> {
        let path = self.dir.path().join("answer");
        lease
            .call(request, on_cancel, &|| Ok(path.clone()), cancel)
            .await
    }

    /// The process that answers.
    pub(crate) async fn pid(&self, launch: &Launch) -> String {
        text(&self.get(launch, "/v1/pid").await.unwrap())
    }
}

pub(crate) fn launch(options: &[&str]) -> Launch {
    Launch {
        plugin: "plugin".to_owned(),
        plugin_digest: "00".to_owned(),
        model: "model".to_owned(),
        backend: "stand-in".to_owned(),
        program: "stand-in".to_owned(),
        path: program(),
        program_digest: "11".to_owned(),
        library_dir: None,
        args: options.iter().map(OsString::from).collect(),
        env: Vec::new(),
        listen: vec!["{host}:{port}".to_owned()],
        ready: "/health".to_owned(),
        parallel: 1,
        start: LIMIT,
        sandbox: None,
        own_network: true,
        limits: worker_backends::Limits::default(),
        holds: worker_servers::Holds::default(),
    }
}

pub(crate) fn get(target: &str) -> Request {
    check_target(target, &["/v1".to_owned()]).unwrap();
    Request {
        method: Method::GET,
        target: target.to_owned(),
        headers: HeaderMap::new(),
        body: Bytes::new(),
        timeout: LIMIT,
        max_bytes: 1 << 20,
        inline_bytes: 1 << 16,
        repeat: None,
    }
}

pub(crate) fn text(answer: &Answer) -> String {
    match &answer.body {
        Body::Bytes(bytes) => String::from_utf8(bytes.clone()).unwrap(),
        Body::File(path) => std::fs::read_to_string(path).unwrap(),
    }
}

/// Whether a process runs.
pub(crate) fn is_there(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Waits for a state.
pub(crate) async fn until(what: &str, mut look: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(LIMIT, async {
        while !look() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited for {what}");
}
