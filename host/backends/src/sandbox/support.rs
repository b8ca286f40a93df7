//! What this system can enforce.

use std::fmt;
use std::sync::OnceLock;

/// What of the sandbox this system has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Support {
    /// Version of Landlock's interface that is used; it governs files, ports, abstract sockets and signals.
    pub landlock_abi: Option<u32>,
    /// Whether system calls are filtered.
    pub seccomp: bool,
    /// Whether the kernel says, in the worker's own control group, how many processes it killed for want of memory. Else
    /// its count for the whole machine serves.
    pub own_memory_counter: bool,
}

/// The oldest version of Landlock that keeps a program from signalling others (Linux 6.12). Smaller, a program may kill the
/// worker and all else of its user; below 4 a server may take any port, below 3 files may be cut short.
const LANDLOCK_NEEDED: u32 = 6;

impl Support {
    /// Whether programs are kept as the documentation says. Where they are not, only first-party plugins run any, unless
    /// the operator says otherwise.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.seccomp && self.landlock_abi.is_some_and(|abi| abi >= LANDLOCK_NEEDED)
    }
}

impl fmt::Display for Support {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.landlock_abi {
            Some(abi) if abi >= LANDLOCK_NEEDED => write!(f, "Landlock version {abi}")?,
            Some(abi) => write!(
                f,
                "Landlock version {abi}, too old: programs can send signals to others{} (version {LANDLOCK_NEEDED} comes with Linux 6.12)",
                match abi {
                    0..=2 => ", take any port and cut files short",
                    3 => " and take any port",
                    _ => "",
                }
            )?,
            None => f.write_str(
                "no Landlock (a Linux kernel of 6.12 or later has it, where `lsm=` names it)",
            )?,
        }
        f.write_str(if self.seccomp {
            ", seccomp"
        } else {
            ", no seccomp"
        })
    }
}

/// What this system can enforce; looked at once.
pub fn support() -> Support {
    static SUPPORT: OnceLock<Support> = OnceLock::new();
    *SUPPORT.get_or_init(look)
}

#[cfg(target_os = "linux")]
fn look() -> Support {
    Support {
        landlock_abi: super::files::abi(),
        seccomp: super::seccomp::ARCHITECTURE.is_some()
            && std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
                status.contains("\nSeccomp_filters:") || status.contains("\nSeccomp:")
            }),
        own_memory_counter: crate::memory::has_own_counter(),
    }
}

#[cfg(not(target_os = "linux"))]
fn look() -> Support {
    Support::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_sandbox_is_none() {
        let with = |landlock_abi, seccomp| Support {
            landlock_abi,
            seccomp,
            own_memory_counter: false,
        };
        assert!(with(Some(6), true).is_complete());
        for half in [
            with(Some(2), true),
            with(Some(3), true),
            with(Some(5), true),
            with(None, true),
            with(Some(7), false),
        ] {
            assert!(!half.is_complete(), "{half}");
        }
        assert!(with(Some(5), true).to_string().contains("6.12"));
        assert!(with(Some(3), true).to_string().contains("any port"));
    }
}
