//! Plugin folders, put together from built components.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::built;

/// A folder of plugins that a test may change.
#[derive(Debug)]
pub struct PluginFolder {
    dir: TempDir,
}

impl PluginFolder {
    /// The first-party plugins and what they are granted.
    pub fn first_party() -> Self {
        let folder = Self::empty();
        for entry in fs::read_dir(built::root().join("plugins"))
            .expect("plugins")
            .flatten()
        {
            let path = entry.path();
            if path.extension().is_some_and(|ext| ext == "wasm") || path.ends_with("plugins.toml") {
                fs::copy(&path, folder.path().join(entry.file_name())).expect("a copy");
            }
        }
        folder
    }

    /// A folder without plugins.
    pub fn empty() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Adds a test component, `haiku` or `renamed/synthetic`, under its own name.
    #[allow(clippy::should_implement_trait, reason = "a folder is no number")]
    pub fn add(self, component: &str) -> Self {
        let from = component_path(component);
        let name = from.file_name().expect("a name").to_owned();
        fs::copy(&from, self.path().join(name))
            .unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        self
    }

    /// Adds a file of any content.
    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        fs::write(self.path().join(name), content).expect("a file");
        self
    }

    /// Takes a file away.
    pub fn without(self, name: &str) -> Self {
        fs::remove_file(self.path().join(name)).expect("a file");
        self
    }

    /// Adds lines to `plugins.toml`.
    pub fn grant(self, lines: &str) -> Self {
        let path = self.path().join("plugins.toml");
        let text = fs::read_to_string(&path).unwrap_or_default() + "\n" + lines + "\n";
        self.file("plugins.toml", text)
    }
}

/// Where a test component lies.
pub fn component_path(component: &str) -> PathBuf {
    built::root()
        .join("tests/components")
        .join(format!("{component}.wasm"))
}
