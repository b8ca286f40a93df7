//! Whether the system has a shared object, as far as files tell.
//!
//! It is looked for and not loaded: a driver in trouble would take the worker down with it. Programs get no `LD_LIBRARY_PATH` from
//! their operator, so what counts is where the system's loader looks by itself: its cache, and its folders.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Folders of shared objects, below which systems keep one more level per architecture.
const FOLDERS: [&str; 5] = ["usr/lib", "usr/lib64", "lib", "lib64", "usr/local/lib"];
/// What the loader knows by heart: names and paths, each ended by a zero.
const CACHE: &str = "etc/ld.so.cache";
/// Longer is no such cache; usual ones have some hundred kilobytes.
const CACHE_BYTES: u64 = 16 << 20;
/// More entries than these are no folder of libraries.
pub(crate) const LOOKED_AT: usize = 10_000;

/// How shared objects are named here: one whose name does not hold this is another system's.
const CONVENTION: &str = if cfg!(target_os = "macos") {
    ".dylib"
} else if cfg!(windows) {
    ".dll"
} else {
    ".so"
};

/// Whether a shared object of this name is one of this kind of system.
#[must_use]
pub fn is_library_here(name: &str) -> bool {
    name.contains(CONVENTION)
}

/// Where a shared object is, below `root`, which is `/` but in tests.
#[must_use]
pub fn library(root: &Path, name: &str) -> Option<PathBuf> {
    in_folders(root, name).or_else(|| in_cache(root, name))
}

fn in_folders(root: &Path, name: &str) -> Option<PathBuf> {
    FOLDERS.iter().find_map(|dir| {
        let dir = root.join(dir);
        let below = entries(&dir).into_iter().filter(|path| path.is_dir());
        std::iter::once(dir.clone())
            .chain(below)
            .map(|dir| dir.join(name))
            .find(|path| path.is_file())
    })
}

/// By the loader's cache, for folders that its operator added.
fn in_cache(root: &Path, name: &str) -> Option<PathBuf> {
    let mut cache = Vec::new();
    let file = fs::File::open(root.join(CACHE)).ok()?;
    file.take(CACHE_BYTES).read_to_end(&mut cache).ok()?;
    cache
        .split(|byte| *byte == 0)
        .filter_map(|text| {
            Path::new(std::str::from_utf8(text).ok()?)
                .strip_prefix("/")
                .ok()
        })
        .filter(|path| path.file_name().is_some_and(|file| file == name))
        .map(|path| root.join(path))
        .find(|path| path.is_file())
}

pub(crate) fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.take(LOOKED_AT).map(|entry| entry.path()).collect()
}
