//! `plugins/plugins.lock`: per component its source's digest, its own, and the compiler.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::component::{Component, write_whole};
use crate::error::BuildError;
use crate::source::digest_of;
use crate::workspace::Workspace;

const FILE: &str = "plugins/plugins.lock";
const HEAD: &str =
    "# Written by `cargo plugins build`, compared by `cargo plugins check`. Not to be edited.\n\n";

/// What was built of what, with what.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Lock {
    #[serde(default)]
    component: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Entry {
    pub(crate) file: PathBuf,
    /// Of everything that the component is made of.
    pub(crate) source: String,
    /// Of the file's bytes.
    pub(crate) sha256: String,
    /// Bytes are compared only with this compiler: others make other bytes of the same source.
    pub(crate) toolchain: String,
}

impl Lock {
    /// The lock file; empty where there is none yet.
    pub(crate) fn read(workspace: &Workspace) -> Result<Self, BuildError> {
        let path = workspace.root.join(FILE);
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(&path).map_err(BuildError::file(&path))?;
        toml::from_str(&text).map_err(|error| BuildError::Unreadable {
            what: FILE.to_owned(),
            detail: error.to_string(),
        })
    }

    /// Changes the file as it is now, so that two builds of different components at a time keep
    /// each other's entries.
    pub(crate) fn update(
        workspace: &Workspace,
        change: impl FnOnce(&mut Self),
    ) -> Result<(), BuildError> {
        let mut lock = Self::read(workspace)?;
        change(&mut lock);
        lock.write(workspace)
    }

    fn write(&self, workspace: &Workspace) -> Result<(), BuildError> {
        let text = toml::to_string(self).map_err(|error| BuildError::Unreadable {
            what: FILE.to_owned(),
            detail: error.to_string(),
        })?;
        write_whole(
            &workspace.root.join(FILE),
            format!("{HEAD}{text}").as_bytes(),
        )
    }

    /// What is recorded of a component.
    pub(crate) fn entry(&self, component: &Component) -> Option<&Entry> {
        self.component.get(&component.name)
    }

    /// Names that are recorded.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.component.keys().map(String::as_str)
    }

    /// Drops entries of components that are no more.
    pub(crate) fn keep_only(&mut self, components: &[Component]) {
        self.component
            .retain(|name, _| components.iter().any(|component| component.name == *name));
    }

    /// Records a component that was just written.
    pub(crate) fn record(
        &mut self,
        component: &Component,
        source: String,
        bytes: &[u8],
        toolchain: &str,
    ) {
        let entry = Entry {
            file: component.file.clone(),
            source,
            sha256: digest_of(bytes),
            toolchain: toolchain.to_owned(),
        };
        self.component.insert(component.name.clone(), entry);
    }

    /// Whether the file is the one that this source makes with this compiler.
    pub(crate) fn is_current(
        &self,
        workspace: &Workspace,
        component: &Component,
        source: &str,
        toolchain: &str,
    ) -> bool {
        self.entry(component).is_some_and(|entry| {
            entry.source == source
                && entry.toolchain == toolchain
                && entry.file == component.file
                && file_digest(&workspace.root.join(&component.file)).as_deref()
                    == Some(entry.sha256.as_str())
        })
    }
}

/// Digest of a file; none when it cannot be read.
pub(crate) fn file_digest(path: &Path) -> Option<String> {
    fs::read(path).ok().map(|bytes| digest_of(&bytes))
}
