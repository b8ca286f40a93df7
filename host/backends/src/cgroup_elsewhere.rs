//! Where there are no control groups, programs are held to their memory by looking, as far as the system tells.

use std::fmt;
use std::os::fd::OwnedFd;

use crate::invocation::Limits;

/// Who holds programs to their memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryKeeper {
    /// The worker, by looking; on this system it sees nothing.
    Watchdog,
}

impl MemoryKeeper {
    /// Whether it is the kernel, at once and without gaps.
    #[must_use]
    pub fn is_kernel(&self) -> bool {
        false
    }
}

impl fmt::Display for MemoryKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody: this system does not tell what a program holds")
    }
}

/// Who would hold programs of a worker that is started as this process was.
#[must_use]
pub fn memory_keeper() -> MemoryKeeper {
    MemoryKeeper::Watchdog
}

pub(crate) fn take(_installation: &str, _sweep: bool) {}

/// No group.
#[derive(Debug)]
pub(crate) struct RunGroup;

impl RunGroup {
    pub(crate) fn or_looking(_name: &str, _limits: &Limits) -> Option<(Self, OwnedFd)> {
        None
    }

    pub(crate) fn holds_tasks(&self) -> bool {
        false
    }

    pub(crate) fn ran_out_of_memory(&self) -> bool {
        false
    }

    pub(crate) fn kill(&self) {}
}
