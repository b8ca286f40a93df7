//! Whether programs can reach a GPU through Vulkan, as far as files tell: for telling the operator.

use std::path::{Path, PathBuf};

use crate::library::{entries, library};

/// What is installed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vulkan {
    /// The loader that programs link to.
    pub loader: Option<PathBuf>,
    /// Names of the driver manifests, sorted; without one the loader finds no GPU.
    pub drivers: Vec<String>,
}

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

/// Looks below `root`, which is `/` but in tests.
#[must_use]
pub fn vulkan(root: &Path) -> Vulkan {
    let manifests = DRIVERS.iter().flat_map(|dir| entries(&root.join(dir)));
    let mut drivers: Vec<String> = manifests
        .filter(|path| path.extension().is_some_and(|ext| ext == "json"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    drivers.sort();
    drivers.dedup();
    Vulkan {
        loader: library(root, LOADER),
        drivers,
    }
}
