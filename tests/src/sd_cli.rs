//! The stand-in for `sd-cli`, in a folder of its own, under the real one's name.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::built;

/// The program, told how to behave by files beside it.
#[derive(Debug)]
pub struct SdCli {
    dir: TempDir,
    name: &'static str,
}

impl SdCli {
    /// Installs one that behaves and writes down how it is called.
    pub fn install() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::copy(built::fake_sd(), dir.path().join("sd-cli")).expect("a copy of the stand-in");
        fs::write(dir.path().join("fake-sd.record"), "").expect("a file");
        Self {
            dir,
            name: "sd-cli",
        }
    }

    /// The program.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join(self.name)
    }

    /// The folder that it lies in.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// What a worker needs in its environment to find it, and to let it write down its runs.
    pub fn env<'a>(&'a self, path: &'a Path) -> [(&'static str, &'a Path); 2] {
        [
            ("STUDIO_WORKER_SD_CLI", path),
            ("STUDIO_WORKER_PROGRAM_WRITABLE", self.dir.path()),
        ]
    }

    /// How it behaves from now on: `ok`, `hang`, `oom-gpu`, …
    pub fn mode(&self, mode: &str) {
        fs::write(self.dir.path().join("fake-sd.mode"), mode).expect("a file");
    }

    /// Which release it plays from now on, under the name that it had then; a worker looks when it starts.
    pub fn release(&mut self, number: u32) {
        let name = if number < 411 { "sd" } else { "sd-cli" };
        fs::rename(self.path(), self.dir.path().join(name)).expect("a new name");
        self.name = name;
        fs::write(self.dir.path().join("fake-sd.release"), number.to_string()).expect("a file");
    }

    /// Puts the server beside it.
    #[must_use]
    pub fn with_server(self) -> Self {
        fs::copy(built::fake_sd(), self.server()).expect("a copy of the stand-in");
        self
    }

    /// The server.
    pub fn server(&self) -> PathBuf {
        self.dir.path().join("sd-server")
    }

    /// Every run that began to generate or was refused, oldest first; asking for help is none.
    pub fn runs(&self) -> Vec<Value> {
        self.events()
            .into_iter()
            .filter(|line| line["event"] == "start" && !is_probe(line))
            .collect()
    }

    /// Everything it wrote down.
    pub fn events(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.dir.path().join("fake-sd.argv")).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }
}

fn is_probe(line: &Value) -> bool {
    let first = line["argv"]
        .get(0)
        .and_then(Value::as_str)
        .unwrap_or_default();
    first == "--help" || first == "--version"
}

/// The arguments of a run.
pub fn argv(run: &Value) -> Vec<String> {
    let words = run["argv"].as_array().expect("arguments");
    words
        .iter()
        .map(|word| word.as_str().expect("a text").to_owned())
        .collect()
}

/// The value that follows an option.
pub fn value_of(argv: &[String], option: &str) -> Option<String> {
    let at = argv.iter().position(|word| word == option)?;
    argv.get(at + 1).cloned()
}
