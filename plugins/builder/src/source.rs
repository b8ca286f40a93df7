//! The digest of everything that a component is made of.
//!
//! It covers the package's folder, the kit, `wit/`, the build profile and the versions and
//! features of the dependencies that end up in this component, taken from the lock file. A change
//! elsewhere in the workspace, the host's dependencies among it, leaves it as it is.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::component::Component;
use crate::error::{BuildError, output};
use crate::toolchain::TARGET;
use crate::workspace::{Workspace, cargo};

/// Folders of a package that never reach the component.
const LEFT_OUT: [&str; 4] = ["tests", "benches", "examples", "target"];

/// Hex SHA-256 of a component's source.
pub(crate) fn digest(workspace: &Workspace, component: &Component) -> Result<String, BuildError> {
    let mut hasher = Sha256::new();
    let mut add = |name: &str, content: &[u8]| {
        // With lengths, so that no two lists of files give one stream.
        hasher.update((name.len() as u64).to_le_bytes());
        hasher.update(name);
        hasher.update((content.len() as u64).to_le_bytes());
        hasher.update(content);
    };
    add("features", component.features.join(",").as_bytes());
    add("grants", component.grants.as_bytes());
    add("stack", &component.stack_kib.to_le_bytes());
    add("profile", profile(workspace)?.as_bytes());
    add(
        "dependencies",
        dependencies(workspace, component)?.as_bytes(),
    );
    let mut files = Vec::new();
    for folder in [
        component.package.folder(),
        &workspace.root.join("plugins/sdk"),
        &workspace.root.join("wit"),
    ] {
        collect(folder, &mut files)?;
    }
    if let Some(twin) = component.twin {
        files.extend(twin.definition(&workspace.root, component)?);
    }
    files.sort();
    for file in files {
        let content = fs::read(&file).map_err(BuildError::file(&file))?;
        let name = workspace
            .relative(&file)
            .to_string_lossy()
            .replace('\\', "/");
        add(&name, &content);
    }
    Ok(hex::encode(hasher.finalize()))
}

/// Hex SHA-256 of a file's bytes.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), BuildError> {
    let entries = fs::read_dir(folder).map_err(BuildError::file(folder))?;
    for entry in entries {
        let entry = entry.map_err(BuildError::file(folder))?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if path.is_dir() {
            if !LEFT_OUT.contains(&name.as_ref()) && !name.starts_with('.') {
                collect(&path, files)?;
            }
        } else if name.ends_with(".rs") || name.ends_with(".toml") || name.ends_with(".wit") {
            files.push(path);
        }
    }
    Ok(())
}

/// The parts of the root manifest that change what comes out.
fn profile(workspace: &Workspace) -> Result<String, BuildError> {
    let path = workspace.root.join("Cargo.toml");
    let text = fs::read_to_string(&path).map_err(BuildError::file(&path))?;
    let manifest: toml::Table =
        text.parse()
            .map_err(|error: toml::de::Error| BuildError::Unreadable {
                what: "Cargo.toml".to_owned(),
                detail: error.message().to_owned(),
            })?;
    let part = |table: &str, key: &str| {
        manifest
            .get(table)
            .and_then(|table| table.get(key))
            .cloned()
    };
    let mut parts = toml::Table::new();
    for (table, key) in [
        ("profile", "guest"),
        // The guests' profile inherits it.
        ("profile", "release"),
        ("workspace", "package"),
    ] {
        if let Some(value) = part(table, key) {
            parts.insert(format!("{table}.{key}"), value);
        }
    }
    Ok(parts.to_string())
}

/// Each package that is compiled into the component, with version and features, sorted.
fn dependencies(workspace: &Workspace, component: &Component) -> Result<String, BuildError> {
    let package = &component.package.name;
    let tree = output(
        cargo()
            .args(["tree", "--package", package, "--target", TARGET])
            .args(["--edges", "normal,build", "--prefix", "none", "--no-dedupe"])
            .args(["--format", "{p} {f}", "--features"])
            .arg(component.features.join(","))
            .current_dir(&workspace.root),
        &format!("cargo tree of {package}"),
    )?;
    let root = workspace.root.to_string_lossy();
    let mut lines: Vec<String> = tree
        .lines()
        // The place of a checkout is no part of its source.
        .map(|line| line.replace(root.as_ref(), ""))
        .collect();
    lines.sort();
    lines.dedup();
    Ok(lines.join("\n"))
}
