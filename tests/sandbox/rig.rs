//! A worker whose scripted engine runs a program that tries what it must not.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use worker_tests::{Api, Home, PluginFolder, Worker, built, offers};

pub(crate) struct Rig {
    pub(crate) home: Home,
    pub(crate) api: Api,
    pub(crate) worker: Worker,
    folder: PluginFolder,
}

impl Rig {
    /// With further lines in the configuration.
    pub(crate) async fn start(config: &str) -> Self {
        let home = Home::new();
        home.configure(config);
        Self::asked(home, "").await
    }

    /// With a worker that permissions hold: where root runs the tests, another user's. None, said loudly, where that user cannot
    /// run what was built.
    pub(crate) async fn held_by_permissions(config: &str) -> Option<Self> {
        const NOBODY: u32 = 65534;
        if !rustix::process::geteuid().is_root() {
            return Some(Self::start(config).await);
        }
        let mut tried = std::process::Command::new(built::worker());
        tried.arg("--version").uid(NOBODY).gid(NOBODY);
        if !tried.output().is_ok_and(|ended| ended.status.success()) {
            let why = format!("nobody but root can run {}", built::worker().display());
            worker_tests::needs::not_run("a program that hides what it writes", &why);
            return None;
        }
        let home = Home::new();
        home.configure(config);
        let folder = furnish(&home, "");
        for path in [home.path(""), folder.path().to_owned()] {
            let mut given = std::process::Command::new("chown");
            given.arg("-R").arg(format!("{NOBODY}:{NOBODY}")).arg(path);
            assert!(given.status().unwrap().success());
        }
        let mut command = home.command(&["run", "--plugins"]);
        command.arg(folder.path()).uid(NOBODY).gid(NOBODY);
        let worker = Worker::start(command, &home.path("local-api.json"));
        let api = worker.connected().await;
        Some(Self {
            home,
            api,
            worker,
            folder,
        })
    }

    /// With what the program does while it is asked for help.
    pub(crate) async fn asked(home: Home, deeds: &str) -> Self {
        let folder = furnish(&home, deeds);
        let worker = home.start_with(folder.path(), &[]);
        let api = worker.connected().await;
        Self {
            home,
            api,
            worker,
            folder,
        }
    }

    /// Starts another worker on the same installation, after the first is gone.
    pub(crate) async fn again(&mut self) {
        self.worker = self.home.start_with(self.folder.path(), &[]);
        self.api = self.worker.connected().await;
    }

    pub(crate) async fn offer(&self, job: &str, script: Value) -> String {
        let task = json!({"kind": "scripted", "script": script});
        let claim = offers::claim(job, "scripted", task, offers::source("scripted"));
        self.api.offer(&claim).await
    }

    /// What came of each effect.
    pub(crate) async fn history(&self, job: &str, script: Value) -> Vec<Value> {
        let id = self.offer(job, script).await;
        let answer: Value = serde_json::from_slice(&self.api.result(&id).await).unwrap();
        answer["history"].as_array().unwrap().clone()
    }

    /// What came of one run.
    pub(crate) async fn run(&self, job: &str, words: &[&str]) -> Value {
        let history = self.history(job, json!([command(words)])).await;
        history[0].clone()
    }

    /// A job after everything shows that the slot is free; then nothing of the jobs is on the disk.
    pub(crate) async fn is_well(&self, job: &str) {
        let outcome = self.run(job, &["nothing"]).await;
        assert_eq!(said(&outcome), "did", "{outcome}");
        let home = &self.home;
        worker_tests::wait::until("a clean disk", || {
            home.scratch_folders().is_empty().then_some(())
        })
        .await;
    }
}

/// Puts the program in its place, and its plugin in a folder.
fn furnish(home: &Home, deeds: &str) -> PluginFolder {
    let bin = home.path(".local/bin");
    fs::create_dir_all(&bin).unwrap();
    fs::copy(built::hostile_program(), bin.join("stand-in")).unwrap();
    fs::write(bin.join("stand-in.help"), deeds).unwrap();
    let grant = "[plugins.scripted]\nprograms = [\"stand-in\"]\nenvironment = [\"STAND_IN_MODE\"]";
    PluginFolder::first_party().add("scripted").grant(grant)
}

/// An effect that runs the program.
pub(crate) fn command(words: &[&str]) -> Value {
    json!({"run": {"backend": "stand-in", "arguments": words}})
}

/// The last line that the program printed.
pub(crate) fn said(outcome: &Value) -> String {
    let tail = outcome["Exited"]["stdout_tail"].as_str();
    let tail = tail.unwrap_or_else(|| panic!("no exit: {outcome}"));
    tail.lines().last().unwrap_or_default().to_owned()
}

/// The process ids that a program wrote down, a line each.
pub(crate) async fn pids(path: &Path, count: usize) -> Vec<PathBuf> {
    worker_tests::wait::until("the processes' numbers", || {
        let text = fs::read_to_string(path).ok()?;
        let whole = text.ends_with('\n') && text.lines().count() == count;
        whole.then(|| {
            text.lines()
                .map(|pid| Path::new("/proc").join(pid.trim()))
                .collect()
        })
    })
    .await
}

/// Waits until these processes are gone, waited for and all.
pub(crate) async fn gone(processes: &[PathBuf]) {
    for process in processes {
        worker_tests::wait::until(&format!("the end of {}", process.display()), || {
            (!process.exists()).then_some(())
        })
        .await;
    }
}
