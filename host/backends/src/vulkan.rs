//! Whether programs can reach a GPU through Vulkan, as far as files tell.
//!
//! The loader is looked for and not loaded: a driver in trouble would take the worker down with it. A program that needs
//! it and finds none says so when it is asked for help; this is for telling the operator beforehand.

use std::fs;
use std::path::{Path, PathBuf};

/// What is installed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vulkan {
    /// The loader that programs link to.
    pub loader: Option<PathBuf>,
    /// Names of the driver manifests, sorted; without one the loader finds no GPU.
    pub drivers: Vec<String>,
}

/// Folders of shared objects, below which systems keep one more level per architecture.
const LIBRARIES: [&str; 5] = ["usr/lib", "usr/lib64", "lib", "lib64", "usr/local/lib"];
/// Folders of driver manifests.
const DRIVERS: [&str; 4] = [
    "usr/share/vulkan/icd.d",
    "usr/local/share/vulkan/icd.d",
    "etc/vulkan/icd.d",
    "run/opengl-driver/share/vulkan/icd.d",
];
/// The loader's name in this system's convention.
const LOADER: &str = if cfg!(target_os = "macos") {
    "libvulkan.1.dylib"
} else {
    "libvulkan.so.1"
};
/// More entries than these are no folder of libraries.
const LOOKED_AT: usize = 10_000;

/// Looks below `root`, which is `/` but in tests.
#[must_use]
pub fn vulkan(root: &Path) -> Vulkan {
    let loader = LIBRARIES.iter().find_map(|dir| {
        let dir = root.join(dir);
        let below = entries(&dir).into_iter().filter(|path| path.is_dir());
        std::iter::once(dir.clone())
            .chain(below)
            .map(|dir| dir.join(LOADER))
            .find(|path| path.is_file())
    });
    let manifests = DRIVERS.iter().flat_map(|dir| entries(&root.join(dir)));
    let mut drivers: Vec<String> = manifests
        .filter(|path| path.extension().is_some_and(|ext| ext == "json"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    drivers.sort();
    drivers.dedup();
    Vulkan { loader, drivers }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.take(LOOKED_AT).map(|entry| entry.path()).collect()
}
