//! Finds a compiler that can make wasm32 modules, or makes one out of what the machine has.
//!
//! With rustup's target there is nothing to do. Debian ships no such target, but a compiler and
//! the sources of its standard library (`rustc-web`, `rust-web-src`): the library is compiled
//! once, into a folder under the user's cache, which then serves as sysroot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{BuildError, output};
use crate::workspace::cargo;

/// The only target of guests: it has no operating system, so nothing is imported but the log.
pub(crate) const TARGET: &str = "wasm32-unknown-unknown";

/// Part of the cache folder's name: raise it when the recipe below changes.
const RECIPE: u32 = 2;

/// A compiler and what it needs besides.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    rustc: PathBuf,
    /// What `rustc --version` says, and the linker when it is not the compiler's own: the lock file
    /// names both, since both shape the bytes.
    pub(crate) version: String,
    /// Folder with the compiled standard library, when the compiler brings none.
    sysroot: Option<PathBuf>,
    linker: Option<PathBuf>,
}

impl Toolchain {
    /// The usual compiler when it has the target, else Debian's.
    pub(crate) fn find() -> Result<Self, BuildError> {
        let usual = std::env::var_os("RUSTC").map_or_else(|| PathBuf::from("rustc"), PathBuf::from);
        let version = version(&usual)?;
        let sysroot = sysroot(&usual)?;
        if has_library(&sysroot) {
            return Ok(Self {
                rustc: usual,
                version,
                sysroot: None,
                linker: None,
            });
        }
        let linker = linker_in(&sysroot);
        Self::with_sources(&usual, linker.as_deref())
            .or_else(|| Self::with_sources(Path::new("/usr/bin/rustc"), linker.as_deref()))
            .unwrap_or_else(|| {
                Err(BuildError::NoTarget {
                    detail: format!(
                        "{version} has neither the target nor the sources of its standard library"
                    ),
                })
            })
    }

    /// A compiler that has the library's sources beside it; none when it has not.
    fn with_sources(rustc: &Path, linker: Option<&Path>) -> Option<Result<Self, BuildError>> {
        let root = sysroot(rustc).ok()?;
        if !root.join("lib/rustlib/src/rust/library/std").is_dir() {
            return None;
        }
        Some(Self::compile_library(rustc, &root, linker))
    }

    fn compile_library(
        rustc: &Path,
        root: &Path,
        linker: Option<&Path>,
    ) -> Result<Self, BuildError> {
        let version = version(rustc)?;
        let linker = linker
            .map(Path::to_path_buf)
            .or_else(|| linker_in(root))
            .or_else(|| on_path("rust-lld"))
            .or_else(|| on_path("wasm-ld"))
            .ok_or_else(|| BuildError::NoTarget {
                detail: "there is no rust-lld and no wasm-ld".to_owned(),
            })?;
        let cache = cache_folder()?.join(folder_name(&version));
        if !has_library(&cache) {
            println!("compiling the standard library for {TARGET}, once");
            make_sysroot(rustc, root, &cache)?;
        }
        let version = format!("{version} with {}", linker_version(&linker)?);
        Ok(Self {
            rustc: rustc.to_path_buf(),
            version,
            sysroot: Some(cache),
            linker: Some(linker),
        })
    }

    /// Has a `cargo build` use this compiler, with these flags for the guests' code.
    pub(crate) fn apply(&self, command: &mut Command, mut flags: Vec<String>) {
        command.env("RUSTC", &self.rustc);
        if let Some(sysroot) = &self.sysroot {
            flags.push(format!("--sysroot={}", sysroot.display()));
        }
        if let Some(linker) = &self.linker {
            flags.push(format!("-Clinker={}", linker.display()));
        }
        // Separated by what cannot occur in a path.
        command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    }
}

fn version(rustc: &Path) -> Result<String, BuildError> {
    let text = output(Command::new(rustc).arg("--version"), "rustc --version")?;
    Ok(text.trim().to_owned())
}

fn sysroot(rustc: &Path) -> Result<PathBuf, BuildError> {
    let text = output(
        Command::new(rustc).args(["--print", "sysroot"]),
        "rustc --print sysroot",
    )?;
    Ok(PathBuf::from(text.trim()))
}

fn library_folder(sysroot: &Path) -> PathBuf {
    sysroot.join("lib/rustlib").join(TARGET).join("lib")
}

fn has_library(sysroot: &Path) -> bool {
    fs::read_dir(library_folder(sysroot)).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
    })
}

fn linker_in(sysroot: &Path) -> Option<PathBuf> {
    fs::read_dir(sysroot.join("lib/rustlib"))
        .ok()?
        .flatten()
        .map(|entry| entry.path().join("bin").join(executable("rust-lld")))
        .find(|path| path.is_file())
}

/// `LLD 22.1.2`, without the revision that it was built from.
fn linker_version(linker: &Path) -> Result<String, BuildError> {
    let text = output(
        Command::new(linker).args(["-flavor", "wasm", "--version"]),
        "the linker's --version",
    )?;
    let words: Vec<&str> = text.split_whitespace().take(2).collect();
    Ok(words.join(" "))
}

fn on_path(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(executable(program)))
        .find(|path| path.is_file())
}

fn executable(program: &str) -> String {
    format!("{program}{}", std::env::consts::EXE_SUFFIX)
}

fn folder_name(version: &str) -> String {
    let name: String = version
        .chars()
        .map(|letter| {
            if letter.is_ascii_alphanumeric() || letter == '.' {
                letter
            } else {
                '-'
            }
        })
        .collect();
    format!("{name}-{RECIPE}")
}

/// Outside of the tree, so that `cargo clean` does not cost another compile of the library.
fn cache_folder() -> Result<PathBuf, BuildError> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache")))
        .ok_or_else(|| BuildError::NoTarget {
            detail: "no home folder to keep the compiled standard library in".to_owned(),
        })?;
    Ok(base.join("studio-worker/wasm-std"))
}

/// Compiles an empty library with `build-std`, and keeps what that left of the standard one.
fn make_sysroot(rustc: &Path, root: &Path, cache: &Path) -> Result<(), BuildError> {
    let parent = cache.parent().unwrap_or(cache);
    fs::create_dir_all(parent).map_err(BuildError::file(parent))?;
    let scratch = tempfile::tempdir_in(parent).map_err(BuildError::file(parent))?;
    write(
        &scratch.path().join("Cargo.toml"),
        "[package]\nname = \"empty\"\nedition = \"2024\"\n[workspace]\n",
    )?;
    write(&scratch.path().join("src/lib.rs"), "")?;
    let mut flags = vec![
        "-Cembed-bitcode=yes".to_owned(),
        // As in the compilers that rustup installs, whose panics name no machine's folders.
        remap(&root.join("lib/rustlib/src/rust"), "/rustc"),
    ];
    flags.extend(remap_dependencies());
    output(
        cargo()
            .args([
                "build",
                "--release",
                "-Zbuild-std=std,panic_abort",
                "--target",
                TARGET,
            ])
            .arg("--target-dir")
            .arg(scratch.path().join("target"))
            .current_dir(scratch.path())
            .env("RUSTC", rustc)
            // The sources of a stable compiler's library use what only that compiler may.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}")),
        "compiling the standard library",
    )?;
    let made = scratch.path().join("sysroot");
    let library = library_folder(&made);
    fs::create_dir_all(&library).map_err(BuildError::file(&library))?;
    let built = scratch
        .path()
        .join("target")
        .join(TARGET)
        .join("release/deps");
    for entry in fs::read_dir(&built)
        .map_err(BuildError::file(&built))?
        .flatten()
    {
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if text.ends_with(".rlib") && !text.starts_with("libempty-") {
            fs::copy(entry.path(), library.join(&name)).map_err(BuildError::file(entry.path()))?;
        }
    }
    // In one move, so that a half-made folder is never taken for a whole one.
    match fs::rename(&made, cache) {
        Err(_) if has_library(cache) => Ok(()),
        moved => moved.map_err(BuildError::file(cache)),
    }
}

fn write(path: &Path, text: &str) -> Result<(), BuildError> {
    crate::component::write_whole(path, text.as_bytes())
}

/// A compiler's flag that has a folder called something else in what it makes.
pub(crate) fn remap(folder: &Path, name: &str) -> String {
    format!("--remap-path-prefix={}={name}", folder.display())
}

/// Flags that hide where cargo keeps the sources of dependencies: the folder's name says which
/// registry they came through, and the same sources may come through another.
pub(crate) fn remap_dependencies() -> Vec<String> {
    let cargo = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
        .unwrap_or_else(|| PathBuf::from(".cargo"));
    let mut folders: Vec<PathBuf> = fs::read_dir(cargo.join("registry/src"))
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    folders.sort();
    folders
        .iter()
        .map(|folder| remap(folder, "/dependencies"))
        .collect()
}
