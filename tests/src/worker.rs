//! A running worker, as its operator sees it: lines, signals, status.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::Api;
use crate::wait::{until, until_ok};

/// A process group of its own, ended with this.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    discovery: PathBuf,
    ended: Option<ExitStatus>,
}

impl Worker {
    /// Starts a command that serves until it is stopped. `discovery` is where it will say where its API is.
    pub fn start(mut command: Command, discovery: &Path) -> Self {
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        // One that a killed worker left must not be taken for this one's.
        let _ = std::fs::remove_file(discovery);
        let mut child = command.spawn().expect("the worker starts");
        let lines = Arc::default();
        collect(child.stdout.take().expect("a pipe"), &lines);
        collect(child.stderr.take().expect("a pipe"), &lines);
        Self {
            child,
            lines,
            discovery: discovery.to_owned(),
            ended: None,
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The memory that it holds, in KiB.
    pub fn resident_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.id());
        let status = std::fs::read_to_string(path).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok())
            .expect("its memory")
    }

    /// Everything printed so far, on either stream.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("no reader panics").clone()
    }

    /// Waits for a line that contains `needle`.
    pub async fn line(&self, needle: &str) -> String {
        let found = || self.lines().into_iter().find(|line| line.contains(needle));
        until(&format!("a line with {needle:?}"), found).await
    }

    /// Waits until the local API is there.
    pub async fn api(&self) -> Api {
        until("the discovery file", || Api::discover(&self.discovery)).await
    }

    /// Waits until `status` satisfies.
    pub async fn status(&self, what: &str, satisfies: impl Fn(&Value) -> bool) -> Value {
        let api = self.api().await;
        until_ok(what, || async {
            let (_, status) = api.try_get("/daemon/status").await?;
            satisfies(&status).then_some(status)
        })
        .await
    }

    /// Waits until it has a session with its studio.
    pub async fn connected(&self) -> Api {
        self.status("a session", |status| {
            status["session"]["state"] == "connected"
        })
        .await;
        self.api().await
    }

    /// Sends it SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends it SIGINT.
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// Ends it without a word, as a power cut would: only the worker itself, not its programs.
    pub async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.ended().await;
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("the worker is there to be signalled");
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        let status = until("the worker's end", || child.try_wait().expect("a child")).await;
        self.ended = Some(status);
        status
    }

    /// Stops it with SIGTERM; it must end well.
    pub async fn stop(mut self) {
        self.terminate();
        let status = self.ended().await;
        assert!(status.success(), "{status}: {:#?}", self.lines());
    }
}

fn collect(stream: impl Read + Send + 'static, lines: &Arc<Mutex<Vec<String>>>) {
    let lines = lines.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            lines
                .lock()
                .expect("no reader panics")
                .push(String::from_utf8_lossy(&line).into_owned());
        }
    });
}

impl Drop for Worker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for line in self.lines() {
                eprintln!("worker| {line}");
            }
        }
        if self.ended.is_none() {
            let _ = rustix::process::kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}
