//! What a program may reach.
//!
//! The rules are made before the fork, as a Landlock ruleset and a seccomp filter; between fork and exec they are only put
//! in force, by a handful of system calls. See `docs/sandbox.md` for what is open and why.

#[cfg(target_os = "linux")]
mod files;
#[cfg(target_os = "linux")]
mod seccomp;
mod support;

use std::io;
use std::path::{Path, PathBuf};

pub use support::{Support, support};

/// What one program may reach. Everything that is not named here, or part of the system that every program needs, is
/// closed to it.
#[derive(Debug, Clone, Default)]
pub struct SandboxPolicy {
    /// Files that it may read, exactly these; a folder among them shows what lies in it.
    pub readable: Vec<PathBuf>,
    /// Its own folder, which it may read and execute; or the program alone.
    pub program_dir: PathBuf,
    /// Its working folder, to read and write. [`crate::Invocation::home`] is open in the same way.
    pub scratch: PathBuf,
    /// A folder of its own that outlives the run, to read and write; for compiled shaders and the like.
    pub cache_dir: Option<PathBuf>,
    /// A server's port, the only one that it may listen on. None: it has no sockets at all.
    pub listen: Option<u16>,
    /// Whether it may use the GPU: its devices, its driver's configuration.
    pub gpu: bool,
    /// Further files and folders that the operator opened to every program, to read and execute.
    pub also_readable: Vec<PathBuf>,
    /// And to read and write.
    pub also_writable: Vec<PathBuf>,
}

/// The rules of one program, ready to be put in force.
#[derive(Debug, Default)]
pub(crate) struct Confinement {
    /// None where the kernel has no Landlock.
    #[cfg(target_os = "linux")]
    pub(crate) ruleset: Option<std::os::fd::OwnedFd>,
    /// Empty where the kernel has no seccomp, or no filter is known for this kind of machine.
    #[cfg(target_os = "linux")]
    pub(crate) filter: Vec<libc::sock_filter>,
}

impl Confinement {
    /// Makes the rules as far as this system can enforce them; see [`support`] for how far that is.
    #[cfg(target_os = "linux")]
    pub(crate) fn new(policy: &SandboxPolicy, home: &Path) -> io::Result<Self> {
        let support = support();
        Ok(Self {
            ruleset: match support.landlock_abi {
                Some(_) => files::ruleset(policy, home)?,
                None => None,
            },
            filter: if support.seccomp {
                seccomp::filter(policy.listen.is_some())
            } else {
                Vec::new()
            },
        })
    }

    /// Nothing is enforced here.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn new(_policy: &SandboxPolicy, _home: &Path) -> io::Result<Self> {
        Ok(Self {})
    }
}
