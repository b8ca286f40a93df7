//! Components whose every kind, engine and role has another word.
//!
//! The host must serve them unchanged: that is how a test shows that it knows none of the words.
//! `tests/guests/renamed.toml` names the packages and the replacements; a copy of the sources with
//! the words replaced is built like any other workspace.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::component::{Component, write_whole};
use crate::error::BuildError;
use crate::workspace::Workspace;

/// The file that says what is renamed.
pub(crate) const WORDS: &str = "tests/guests/renamed.toml";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    /// Package to the name that its renamed component has.
    packages: BTreeMap<String, String>,
    /// Word to word, replaced wherever one stands alone between quotes.
    replace: BTreeMap<String, String>,
}

impl Words {
    fn read(root: &Path) -> Result<Option<Self>, BuildError> {
        let path = root.join(WORDS);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path).map_err(BuildError::file(&path))?;
        toml::from_str(&text)
            .map(Some)
            .map_err(|error| BuildError::Unreadable {
                what: WORDS.to_owned(),
                detail: error.to_string(),
            })
    }

    fn apply(&self, text: &str) -> String {
        // With the quotes: only what a plugin says at run time changes, not the names in its code,
        // and a word inside a longer one is left to the longer one's own line.
        self.replace
            .iter()
            .fold(text.to_owned(), |text, (from, to)| {
                text.replace(&format!("\"{from}\""), &format!("\"{to}\""))
            })
    }
}

/// The renamed twins of the components listed.
pub(crate) fn components(
    root: &Path,
    components: &[Component],
) -> Result<Vec<Component>, BuildError> {
    let Some(words) = Words::read(root)? else {
        return Ok(Vec::new());
    };
    Ok(components
        .iter()
        .filter_map(|component| {
            let name = words.packages.get(&component.name)?;
            Some(Component {
                name: format!("renamed/{name}"),
                file: Path::new("tests/components/renamed").join(format!("{name}.wasm")),
                grants: words.apply(&component.grants),
                renamed: true,
                ..component.clone()
            })
        })
        .collect())
}

/// Where the copy is made.
pub(crate) fn folder(workspace: &Workspace) -> PathBuf {
    workspace.guests().join("renamed")
}

/// A copy of the workspace's guests with the words replaced; its folder.
pub(crate) fn copy(workspace: &Workspace) -> Result<PathBuf, BuildError> {
    let copy = folder(workspace);
    let Some(words) = Words::read(&workspace.root)? else {
        return Ok(copy);
    };
    let mut members = vec!["plugins/sdk".to_owned()];
    copy_folder(&words, &workspace.root, &copy, Path::new("plugins/sdk"))?;
    copy_folder(&words, &workspace.root, &copy, Path::new("wit"))?;
    for package in workspace.plugin_packages() {
        if words.packages.contains_key(&package.name) {
            let folder = workspace.relative(package.folder());
            copy_folder(&words, &workspace.root, &copy, folder)?;
            members.push(folder.to_string_lossy().replace('\\', "/"));
        }
    }
    let lock = workspace.root.join("Cargo.lock");
    let text = fs::read_to_string(&lock).map_err(BuildError::file(&lock))?;
    place(&copy.join("Cargo.lock"), &text)?;
    place(&copy.join("Cargo.toml"), &manifest(workspace, &members)?)?;
    Ok(copy)
}

/// The root manifest with these members alone, and of another version: cargo tells packages apart
/// by name and version, and the copy's must not be taken for those they were copied from.
fn manifest(workspace: &Workspace, members: &[String]) -> Result<String, BuildError> {
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
    package.insert("version".to_owned(), "0.0.0-renamed".into());
    Ok(manifest.to_string())
}

fn copy_folder(words: &Words, from: &Path, to: &Path, folder: &Path) -> Result<(), BuildError> {
    let source = from.join(folder);
    for entry in fs::read_dir(&source).map_err(BuildError::file(&source))? {
        let entry = entry.map_err(BuildError::file(&source))?;
        let path = folder.join(entry.file_name());
        let name = entry.file_name();
        if entry.path().is_dir() {
            if name != "tests" && name != "benches" {
                copy_folder(words, from, to, &path)?;
            }
            continue;
        }
        let text = fs::read_to_string(entry.path()).map_err(BuildError::file(entry.path()))?;
        // Package names stay: only what a plugin says at run time is renamed.
        let is_manifest = name == "Cargo.toml";
        let text = if is_manifest {
            text
        } else {
            words.apply(&text)
        };
        place(&to.join(&path), &text)?;
    }
    Ok(())
}

/// Leaves a file alone that says this already, so that cargo need not build it again.
fn place(path: &Path, text: &str) -> Result<(), BuildError> {
    if fs::read(path).is_ok_and(|found| found == text.as_bytes()) {
        return Ok(());
    }
    write_whole(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_words_between_quotes_are_replaced() {
        let words: Words = toml::from_str(
            "[packages]\n[replace]\n\"image\" = \"picture\"\n\"image-1\" = \"picture-1\"\n",
        )
        .unwrap();
        assert_eq!(
            words.apply(r#"use image::Image; ["image", "image-1", "images", "an image"]"#),
            r#"use image::Image; ["picture", "picture-1", "images", "an image"]"#
        );
    }
}
