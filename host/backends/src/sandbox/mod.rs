//! What a program may reach.
//!
//! The rules are made before the fork, as a Landlock ruleset and a seccomp filter; between fork and exec they are only put
//! in force, by two system calls. See `docs/sandbox.md` for what is open and why.

use std::path::PathBuf;

/// What one program may reach. Everything that is not named here, or part of the system that every program needs, is
/// closed to it.
#[derive(Debug, Clone, Default)]
pub struct SandboxPolicy {
    /// Files that it may read, exactly these; a folder among them shows what lies in it.
    pub readable: Vec<PathBuf>,
    /// Its own folder, which it may read and execute.
    pub program_dir: PathBuf,
    /// Its working folder, to read and write. [`crate::Invocation::home`] is open in the same way.
    pub scratch: PathBuf,
    /// A folder of its own that outlives the run, to read and write; for compiled shaders and the like.
    pub cache_dir: Option<PathBuf>,
    /// A server's port, the only one that it may listen on. None: it has no sockets at all.
    pub listen: Option<u16>,
    /// Whether it may use the GPU: its devices, its driver's configuration.
    pub gpu: bool,
    /// Most memory that it and its children may hold; see [`crate::Exit::out_of_memory`]. None: no bound.
    pub memory_bytes: Option<u64>,
    /// Further files and folders that the operator opened to every program, to read.
    pub also_readable: Vec<PathBuf>,
    /// And to read and write.
    pub also_writable: Vec<PathBuf>,
}
