//! Whether each component is the one that its source makes.

use std::fs;
use std::path::PathBuf;

use crate::compile::Compiler;
use crate::component::Component;
use crate::error::{BuildError, output};
use crate::lock::{Lock, file_digest};
use crate::source;
use crate::twin::Twin;
use crate::workspace::{Workspace, cargo};

/// Fails naming each component that is stale. With `rebuild`, components that were made by this
/// machine's compiler are made again and compared byte by byte.
pub(crate) fn check(rebuild: bool) -> Result<(), BuildError> {
    // Before anything is compared: cargo would quietly resolve a stale Cargo.lock anew, and what is
    // checked would not be what is committed.
    output(
        cargo().args(["metadata", "--locked", "--format-version", "1"]),
        "checking Cargo.lock",
    )?;
    let workspace = Workspace::read()?;
    let components = workspace.components()?;
    let lock = Lock::read(&workspace)?;
    let mut stale = strangers(&workspace, &components, &lock)?;
    let mut sound = Vec::new();
    for component in &components {
        match compare(&workspace, &lock, component)? {
            None => sound.push(component),
            Some(why) => stale.push(format!("{}: {why}", component.name)),
        }
    }
    if rebuild {
        stale.extend(rebuilt(&workspace, &lock, &sound)?);
    }
    if !stale.is_empty() {
        return Err(BuildError::Stale { stale });
    }
    println!("{} components agree with their sources", components.len());
    Ok(())
}

/// Why a component is not what the lock says; none when it is.
fn compare(
    workspace: &Workspace,
    lock: &Lock,
    component: &Component,
) -> Result<Option<&'static str>, BuildError> {
    let Some(entry) = lock.entry(component) else {
        return Ok(Some("never built"));
    };
    if entry.source != source::digest(workspace, component)? {
        return Ok(Some("its source changed"));
    }
    let found = file_digest(&workspace.root.join(&component.file));
    Ok(match found {
        None => Some("its file is missing"),
        Some(digest) if digest != entry.sha256 => Some("its file is another than the one built"),
        Some(_) => None,
    })
}

/// Lock entries and component files that no source makes.
fn strangers(
    workspace: &Workspace,
    components: &[Component],
    lock: &Lock,
) -> Result<Vec<String>, BuildError> {
    let mut found: Vec<String> = lock
        .names()
        .filter(|name| !components.iter().any(|component| component.name == **name))
        .map(|name| format!("{name}: in the lock, and made by no source"))
        .collect();
    let twins = Twin::ALL.map(Twin::components);
    let own = ["plugins", "tests/components"].map(PathBuf::from);
    for folder in own.into_iter().chain(twins) {
        let path = workspace.root.join(&folder);
        if !path.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&path)
            .map_err(BuildError::file(&path))?
            .flatten()
        {
            let file = folder.join(entry.file_name());
            let is_component = file.extension().is_some_and(|ext| ext == "wasm");
            if is_component && !components.iter().any(|component| component.file == file) {
                found.push(format!("{}: made by no source", file.display()));
            }
        }
    }
    Ok(found)
}

/// Components whose bytes are others when made again here.
fn rebuilt(
    workspace: &Workspace,
    lock: &Lock,
    components: &[&Component],
) -> Result<Vec<String>, BuildError> {
    let compiler = match Compiler::find() {
        Ok(compiler) => compiler,
        // The digests of the sources were compared: that much is checked on every machine.
        Err(BuildError::NoTarget { detail }) => {
            println!("not rebuilt: this machine cannot ({detail})");
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut stale = Vec::new();
    for component in components {
        let Some(entry) = lock.entry(component) else {
            continue;
        };
        if entry.toolchain != compiler.version() {
            println!(
                "{}: not rebuilt, it was made by {} and this is {}",
                component.name,
                entry.toolchain,
                compiler.version()
            );
            continue;
        }
        let bytes = compiler.compile(workspace, component)?;
        if source::digest_of(&bytes) != entry.sha256 {
            stale.push(format!("{}: a rebuild gives other bytes", component.name));
        }
    }
    Ok(stale)
}
