//! How a server is started, and which servers are the same.

use std::any::Any;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use worker_backends::{Limits, SandboxPolicy};

/// The only address that servers listen on.
pub(crate) const HOST: &str = "127.0.0.1";

/// How a server is started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Name of the plugin that it is for.
    pub plugin: String,
    /// SHA-256 of the plugin, in hex.
    pub plugin_digest: String,
    /// Name of the model that it is asked for first; for showing.
    pub model: String,
    /// The plugin's name for the program.
    pub backend: String,
    /// Bare name of the program.
    pub program: String,
    /// Where it is.
    pub path: PathBuf,
    /// SHA-256 of the program, in hex.
    pub program_digest: String,
    /// Folder of its shared objects.
    pub library_dir: Option<PathBuf>,
    /// Its arguments without the address. Paths among them are those of [`crate::Shown`].
    pub args: Vec<OsString>,
    /// Variables beyond what every program gets.
    pub env: Vec<(String, String)>,
    /// Listen options with `{host}` and `{port}`.
    pub listen: Vec<String>,
    /// The path that answers 2xx once it is ready.
    pub ready: String,
    /// Requests it takes at once.
    pub parallel: u32,
    /// Longest until it is ready.
    pub start: Duration,
    /// What it may reach besides its own folder and port: the files themselves and the folders that show them. None: what
    /// the worker's user may.
    pub sandbox: Option<SandboxPolicy>,
    /// Whether it gets a network of its own, where the worker can make one.
    pub own_network: bool,
    /// Bounds on what it writes. Silence and progress say nothing about a server that waits.
    pub limits: Limits,
    /// Kept for as long as its process runs: what keeps its files where they are.
    pub holds: Holds,
}

/// Things that are only kept, so that what they stand for stays. Whose servers are one does not depend on them.
#[derive(Clone, Default)]
pub struct Holds(Vec<Arc<dyn Any + Send + Sync>>);

impl Holds {
    /// Keeps one more.
    pub fn add(&mut self, kept: Arc<dyn Any + Send + Sync>) {
        self.0.push(kept);
    }
}

impl fmt::Debug for Holds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} held", self.0.len())
    }
}

/// Servers of one key are one server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Key([u8; 32]);

impl Launch {
    pub(crate) fn key(&self) -> Key {
        let mut hasher = Sha256::new();
        let mut add = |part: &[u8]| {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        };
        for text in [
            &self.plugin,
            &self.plugin_digest,
            &self.backend,
            &self.program_digest,
            &self.ready,
        ] {
            add(text.as_bytes());
        }
        add(self.path.as_os_str().as_encoded_bytes());
        add(&(self.args.len() as u64).to_le_bytes());
        self.args
            .iter()
            .for_each(|word| add(word.as_encoded_bytes()));
        // The order of variables means nothing.
        let mut env: Vec<_> = self.env.iter().collect();
        env.sort();
        add(&(env.len() as u64).to_le_bytes());
        for (name, value) in env {
            add(name.as_bytes());
            add(value.as_bytes());
        }
        self.listen.iter().for_each(|word| add(word.as_bytes()));
        Key(hasher.finalize().into())
    }

    /// The whole command line for a port.
    pub(crate) fn words(&self, port: u16) -> Vec<OsString> {
        let filled = |word: &String| {
            word.replace("{host}", HOST)
                .replace("{port}", &port.to_string())
                .into()
        };
        self.args
            .iter()
            .cloned()
            .chain(self.listen.iter().map(filled))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch() -> Launch {
        Launch {
            plugin: "p".to_owned(),
            plugin_digest: "d".to_owned(),
            model: "m".to_owned(),
            backend: "b".to_owned(),
            program: "b".to_owned(),
            path: "/b".into(),
            program_digest: "e".to_owned(),
            library_dir: None,
            args: vec!["--a".into(), "b".into()],
            env: vec![
                ("X".to_owned(), "1".to_owned()),
                ("Y".to_owned(), "2".to_owned()),
            ],
            listen: vec!["--at={host}:{port}".to_owned()],
            ready: "/".to_owned(),
            parallel: 1,
            start: Duration::from_secs(1),
            sandbox: None,
            own_network: true,
            limits: Limits::default(),
            holds: Holds::default(),
        }
    }

    #[test]
    fn one_server_per_program_arguments_environment_and_plugin() {
        let changes: [fn(&mut Launch); 6] = [
            |l| l.args = vec!["--ab".into()],
            |l| l.args = vec!["--a".into(), "c".into()],
            |l| l.env = vec![("X".to_owned(), "2".to_owned())],
            |l| l.program_digest = "f".to_owned(),
            |l| l.plugin_digest = "f".to_owned(),
            |l| l.backend = "c".to_owned(),
        ];
        for change in changes {
            let mut other = launch();
            change(&mut other);
            assert_ne!(launch().key(), other.key(), "{other:?}");
        }
        let mut same = launch();
        same.env.reverse();
        same.model = "another".to_owned();
        assert_eq!(launch().key(), same.key());
        assert_eq!(
            launch().words(7),
            ["--a", "b", "--at=127.0.0.1:7"].map(OsString::from)
        );
    }
}
