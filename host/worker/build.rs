//! Lists the components in `plugins/` for embedding, so that the worker serves without a folder of its own.
//!
//! The list comes from the folder: no name of a plugin stands in the worker's sources.

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let folder = manifest.join("../../plugins").canonicalize()?;
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|p| embedded(p))
        .collect();
    files.sort();
    let mut list = String::from("&[\n");
    for file in files {
        println!("cargo::rerun-if-changed={}", file.display());
        let name = file
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or("a plugin's name is not UTF-8")?;
        writeln!(
            list,
            "    EmbeddedFile {{ name: {name:?}, bytes: include_bytes!({:?}) }},",
            file.display().to_string()
        )?;
    }
    list.push_str("]\n");
    fs::write(Path::new(&env::var("OUT_DIR")?).join("embedded.rs"), list)?;
    Ok(())
}

fn embedded(path: &Path) -> bool {
    path.extension().is_some_and(|ext| ext == "wasm") || path.ends_with("plugins.toml")
}
