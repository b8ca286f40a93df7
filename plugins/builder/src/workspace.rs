//! What cargo knows of the workspace, and which of its packages are components.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;

use crate::component::Component;
use crate::error::{BuildError, output};
use crate::twin;

/// Where things are.
#[derive(Debug, Deserialize)]
pub(crate) struct Workspace {
    #[serde(rename = "workspace_root")]
    pub(crate) root: PathBuf,
    #[serde(rename = "target_directory")]
    pub(crate) target: PathBuf,
    packages: Vec<Package>,
}

/// One package, as `cargo metadata` tells it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) license: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) repository: Option<String>,
    manifest_path: PathBuf,
    #[serde(default)]
    metadata: Value,
}

impl Package {
    /// The folder of its manifest.
    pub(crate) fn folder(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(Path::new("."))
    }

    /// `[package.metadata.studio-worker]`, which marks it as a component.
    pub(crate) fn plugin_table(&self) -> Option<&Value> {
        self.metadata.get("studio-worker")
    }
}

/// The cargo that started this program, so that both are of one toolchain.
pub(crate) fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    // What the outer build set for itself must not reach the guests' build.
    for name in [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO_MANIFEST_DIR",
    ] {
        command.env_remove(name);
    }
    command
}

impl Workspace {
    /// Of the current directory.
    pub(crate) fn read() -> Result<Self, BuildError> {
        Self::read_at(Path::new("."))
    }

    /// Of another directory.
    pub(crate) fn read_at(folder: &Path) -> Result<Self, BuildError> {
        let text = output(
            cargo()
                .args(["metadata", "--no-deps", "--format-version", "1"])
                .current_dir(folder),
            "cargo metadata",
        )?;
        serde_json::from_str(&text).map_err(|error| BuildError::Unreadable {
            what: "cargo metadata".to_owned(),
            detail: error.to_string(),
        })
    }

    /// Every component there is to build, first-party ones first.
    pub(crate) fn components(&self) -> Result<Vec<Component>, BuildError> {
        let mut components = Vec::new();
        for package in self.plugin_packages() {
            components.extend(Component::of_package(&self.root, package)?);
        }
        components.extend(twin::components(&self.root, &components)?);
        components.sort_by(|one, other| one.file.cmp(&other.file));
        Ok(components)
    }

    /// Packages that are marked as components.
    pub(crate) fn plugin_packages(&self) -> impl Iterator<Item = &Package> {
        self.packages
            .iter()
            .filter(|package| package.plugin_table().is_some())
    }

    /// Where guests are compiled: apart, so that neither they nor the host's build waits for the other.
    pub(crate) fn guests(&self) -> PathBuf {
        self.target.join("guests")
    }

    /// A path of the workspace, relative to its root.
    pub(crate) fn relative<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(&self.root).unwrap_or(path)
    }
}
