//! Components that are built from a changed copy of the sources.
//!
//! The copy holds the packages concerned, the kit and `wit/`, and is built like any other workspace. Its packages have another
//! version: cargo tells packages apart by name and version, and the copy's must not be taken for those they were copied from.

use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::component::{Component, write_whole};
use crate::error::BuildError;
use crate::workspace::Workspace;
use crate::{patched, renamed};

/// How a copy differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Twin {
    /// Its words are replaced.
    Renamed,
    /// A patch is applied.
    Patched,
}

/// What is done to a copy.
pub(crate) trait Change {
    /// Packages that are copied.
    fn has(&self, package: &str) -> bool;

    /// Version of the copy's packages.
    fn version(&self) -> &str;

    /// A file's text in the copy; `path` is relative to the root, with `/`.
    fn apply(&self, path: &str, text: String) -> Result<String, BuildError>;
}

impl Twin {
    pub(crate) const ALL: [Self; 2] = [Self::Renamed, Self::Patched];

    /// Folder of its components, and first part of their names.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Renamed => "renamed",
            Self::Patched => "patched",
        }
    }

    /// Where its components are written, relative to the root.
    pub(crate) fn components(self) -> PathBuf {
        Path::new("tests/components").join(self.word())
    }

    /// Where the copy is made.
    pub(crate) fn folder(self, workspace: &Workspace) -> PathBuf {
        workspace.guests().join(self.word())
    }

    /// Files that say what is changed in a component.
    pub(crate) fn definition(
        self,
        root: &Path,
        component: &Component,
    ) -> Result<Vec<PathBuf>, BuildError> {
        match self {
            Self::Renamed => Ok(vec![root.join(renamed::WORDS)]),
            Self::Patched => patched::definition(root, &component.package.name),
        }
    }

    /// A copy of the workspace's guests with the change applied; its folder.
    pub(crate) fn copy(self, workspace: &Workspace) -> Result<PathBuf, BuildError> {
        let to = self.folder(workspace);
        match self {
            Self::Renamed => {
                if let Some(words) = renamed::Words::read(&workspace.root)? {
                    copy(workspace, &to, &words)?;
                }
            }
            Self::Patched => {
                if let Some(patches) = patched::Patches::read(&workspace.root)? {
                    copy(workspace, &to, &patches)?;
                    patches.all_used()?;
                }
            }
        }
        Ok(to)
    }
}

/// The twins of the components listed.
pub(crate) fn components(
    root: &Path,
    components: &[Component],
) -> Result<Vec<Component>, BuildError> {
    let mut twins = renamed::components(root, components)?;
    twins.extend(patched::components(root, components)?);
    Ok(twins)
}

impl Component {
    /// Its twin, under a name.
    pub(crate) fn twin(&self, twin: Twin, name: &str) -> Self {
        Self {
            name: format!("{}/{name}", twin.word()),
            file: twin.components().join(format!("{name}.wasm")),
            twin: Some(twin),
            ..self.clone()
        }
    }
}

/// A file that says what is changed; none where there is none.
pub(crate) fn definition_in<T: DeserializeOwned>(
    root: &Path,
    file: &str,
) -> Result<Option<T>, BuildError> {
    let path = root.join(file);
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).map_err(BuildError::file(&path))?;
    toml::from_str(&text)
        .map(Some)
        .map_err(|error| BuildError::Unreadable {
            what: file.to_owned(),
            detail: error.to_string(),
        })
}

fn copy(workspace: &Workspace, to: &Path, change: &dyn Change) -> Result<(), BuildError> {
    let mut members = vec!["plugins/sdk".to_owned()];
    copy_folder(change, &workspace.root, to, Path::new("plugins/sdk"))?;
    copy_folder(change, &workspace.root, to, Path::new("wit"))?;
    for package in workspace.plugin_packages() {
        if change.has(&package.name) {
            let folder = workspace.relative(package.folder());
            copy_folder(change, &workspace.root, to, folder)?;
            members.push(slashes(folder));
        }
    }
    let lock = workspace.root.join("Cargo.lock");
    let text = fs::read_to_string(&lock).map_err(BuildError::file(&lock))?;
    place(&to.join("Cargo.lock"), &text)?;
    let manifest = manifest(workspace, &members, change.version())?;
    place(&to.join("Cargo.toml"), &manifest)
}

/// The root manifest with these members alone, and of another version.
fn manifest(
    workspace: &Workspace,
    members: &[String],
    version: &str,
) -> Result<String, BuildError> {
    let path = workspace.root.join("Cargo.toml");
    let text = fs::read_to_string(&path).map_err(BuildError::file(&path))?;
    let unreadable = |detail: String| BuildError::Unreadable {
        what: "Cargo.toml".to_owned(),
        detail,
    };
    let mut manifest: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| unreadable(error.message().to_owned()))?;
    let table = manifest
        .get_mut("workspace")
        .and_then(toml::Value::as_table_mut)
        .ok_or_else(|| unreadable("it has no [workspace]".to_owned()))?;
    table.insert("members".to_owned(), members.to_vec().into());
    table.remove("default-members");
    let package = table
        .get_mut("package")
        .and_then(toml::Value::as_table_mut)
        .ok_or_else(|| unreadable("it has no [workspace.package]".to_owned()))?;
    package.insert("version".to_owned(), version.into());
    Ok(manifest.to_string())
}

fn copy_folder(
    change: &dyn Change,
    from: &Path,
    to: &Path,
    folder: &Path,
) -> Result<(), BuildError> {
    let source = from.join(folder);
    for entry in fs::read_dir(&source).map_err(BuildError::file(&source))? {
        let entry = entry.map_err(BuildError::file(&source))?;
        let path = folder.join(entry.file_name());
        let name = entry.file_name();
        if entry.path().is_dir() {
            if name != "tests" && name != "benches" {
                copy_folder(change, from, to, &path)?;
            }
            continue;
        }
        let text = fs::read_to_string(entry.path()).map_err(BuildError::file(entry.path()))?;
        place(&to.join(&path), &change.apply(&slashes(&path), text)?)?;
    }
    Ok(())
}

fn slashes(path: &Path) -> String {
    path.to_string_lossy().replace('\\', "/")
}

/// Leaves a file alone that says this already, so that cargo need not build it again.
fn place(path: &Path, text: &str) -> Result<(), BuildError> {
    if fs::read(path).is_ok_and(|found| found == text.as_bytes()) {
        return Ok(());
    }
    write_whole(path, text.as_bytes())
}
