//! One installation of the worker: a folder with its configuration, its state and its models.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::wait::LIMIT;
use crate::{Worker, built};

/// An installation. Everything is removed with it.
#[derive(Debug)]
pub struct Home {
    dir: TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// Its status.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

impl Ended {
    /// Its exit code; a signal is a panic.
    pub fn code(&self) -> i32 {
        self.status
            .code()
            .unwrap_or_else(|| panic!("ended by a signal: {self:?}"))
    }

    /// Standard output of a command that must have succeeded.
    pub fn ok(self) -> String {
        assert!(
            self.status.success(),
            "{}\nstdout: {}\nstderr: {}",
            self.status,
            self.stdout,
            self.stderr
        );
        self.stdout
    }

    /// Standard output as JSON, of a command that must have succeeded.
    pub fn json(self) -> serde_json::Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The one line of complaint, of a command that must have failed as commands do: exit 1, no panic, one `error:` line.
    pub fn error(self) -> String {
        assert_eq!(
            self.code(),
            1,
            "stdout: {}\nstderr: {}",
            self.stdout,
            self.stderr
        );
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        let lines: Vec<&str> = self
            .stderr
            .lines()
            .filter(|line| line.starts_with("error: "))
            .collect();
        assert_eq!(lines.len(), 1, "one line names the error: {}", self.stderr);
        lines[0].to_owned()
    }
}

impl Home {
    /// An installation with a studio inside.
    pub fn new() -> Self {
        Self::bare("")
    }

    /// One that works for the studio at `base` and has been approved there as `w-1` with token `tok`.
    pub fn approved(base: &str) -> Self {
        Self::bare(&format!(
            "api_base_url = \"{base}\"\ninstall_id = \"install\"\nworker_id = \"w-1\"\nauth_token = \"tok\"\n"
        ))
    }

    /// One that has yet to register at `base`.
    pub fn unregistered(base: &str) -> Self {
        Self::bare(&format!("api_base_url = \"{base}\"\n"))
    }

    /// One with further lines in its configuration.
    pub fn bare(lines: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let home = Self { dir };
        fs::create_dir(home.path("models")).expect("a folder for models");
        let mut config = String::new();
        let models = home.path("models");
        // Any port: tests run side by side.
        writeln!(config, "vram_threshold_gb = 12.0\nauto_start = true\nlocal_api_port = 0\nmodels_root = {models:?}\n{lines}")
            .expect("writing to a text");
        fs::write(home.config(), config).expect("a configuration");
        copy_compiled(&home.path("state/compiled"));
        home
    }

    /// A path below it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Its `config.toml`.
    pub fn config(&self) -> PathBuf {
        self.path("config.toml")
    }

    /// What the configuration says now.
    pub fn config_text(&self) -> String {
        fs::read_to_string(self.config()).expect("a configuration")
    }

    /// The folders of jobs that were not cleaned up.
    pub fn scratch_folders(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path("state/scratch")).expect("a scratch folder");
        entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.is_dir())
            .collect()
    }

    /// Adds lines to the configuration.
    pub fn configure(&self, lines: &str) {
        let text = self.config_text() + lines + "\n";
        fs::write(self.config(), text).expect("a configuration");
    }

    /// A command of the worker on this installation, in an environment that holds nothing of the developer's.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(built::worker());
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.dir.path())
            // No release has this name, so no test downloads a program from the network.
            .env("STUDIO_WORKER_SDCPP_RELEASE", "none")
            // Whether the machine has this program must not change what a test sees: its own tests take the line away.
            .env("STUDIO_WORKER_ESPEAK_NG", self.path("no-such-program"))
            .current_dir(self.dir.path())
            .arg("--config")
            .arg(self.config())
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end.
    pub async fn run(&self, args: &[&str]) -> Ended {
        finish(self.command(args)).await
    }

    /// Starts `run --plugins` with the first-party plugins.
    pub fn start(&self) -> Worker {
        self.start_with(&built::root().join("plugins"), &[])
    }

    /// Starts `run --plugins` with a folder and environment variables.
    pub fn start_with(&self, plugins: &Path, env: &[(&str, &Path)]) -> Worker {
        let mut command = self.command(&["run", "--plugins"]);
        command.arg(plugins);
        command.envs(env.iter().copied());
        Worker::start(command, &self.path("local-api.json"))
    }
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs a command to its end; one that does not end is killed and fails the test.
pub async fn finish(command: Command) -> Ended {
    let line = format!("{command:?}");
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output()).await;
    let output = output
        .unwrap_or_else(|_| panic!("{line} did not end"))
        .expect("the command starts");
    Ended {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Gives an installation what compiling the first-party plugins came to, so that only one test pays for it.
fn copy_compiled(to: &Path) {
    static COMPILED: OnceLock<Option<PathBuf>> = OnceLock::new();
    let Some(from) = COMPILED.get_or_init(compile_once) else {
        return;
    };
    fs::create_dir_all(to).expect("a folder for compiled plugins");
    for entry in fs::read_dir(from).expect("compiled plugins").flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}

/// Compiles the first-party plugins, once for each build of them and of the worker. None where that fails: the tests will
/// say why.
fn compile_once() -> Option<PathBuf> {
    let changed = built::worker().metadata().ok()?.modified().ok()?;
    let age = changed.duration_since(std::time::UNIX_EPOCH).ok()?;
    let mut hasher = Sha256::new();
    hasher.update(age.as_nanos().to_le_bytes());
    let mut plugins: Vec<_> = fs::read_dir(built::root().join("plugins"))
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    plugins.sort();
    for file in plugins
        .iter()
        .filter(|path| path.extension().is_some_and(|ext| ext == "wasm"))
    {
        hasher.update(Sha256::digest(fs::read(file).ok()?));
    }
    let name = format!("compiled-{}", &hex::encode(hasher.finalize())[..16]);
    let kept = built::profile_dir().join("worker-tests").join(name);
    if kept.is_dir() {
        return Some(kept);
    }
    let folder = kept.parent()?;
    fs::create_dir_all(folder).ok()?;
    let dir = tempfile::tempdir_in(folder).ok()?;
    let config = dir.path().join("config.toml");
    fs::write(&config, "local_api_port = 0\n").ok()?;
    let status = Command::new(built::worker())
        .env_clear()
        .env("HOME", dir.path())
        .arg("--config")
        .arg(&config)
        .args(["plugin", "list", "--plugins"])
        .arg(built::root().join("plugins"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !status.ok()?.success() {
        return None;
    }
    // Where another process was quicker, its folder serves.
    let _ = fs::rename(dir.path().join("state/compiled"), &kept);
    kept.is_dir().then_some(kept)
}
