//! What a child does to itself before it becomes the program.
//!
//! It runs in the worker's own memory, on a stack of its own, while the thread that made it waits: it may call the system,
//! and may neither allocate nor lock nor leave anything behind.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use super::Start;
use super::image::Image;
use super::namespaces::enter_network;
use crate::sandbox::Confinement;

/// All that a child needs to know.
pub(super) struct Plan<'a> {
    pub(super) image: &'a Image,
    pub(super) start: &'a Start,
    /// The worker.
    pub(super) parent: libc::pid_t,
    /// What becomes its standard input, output and error; none is one of these three.
    pub(super) streams: [RawFd; 3],
    pub(super) entrance: Option<RawFd>,
    /// Where it leaves the number of the error that kept it from becoming the program.
    pub(super) error: AtomicI32,
    /// Whether that was at the entrance of its network: its number alone would be taken for one about the program.
    pub(super) shut_out: AtomicBool,
}

impl Plan<'_> {
    /// Becomes the program, or leaves the reason why not and comes back.
    pub(super) fn carry_out(&self) {
        let error = match self.ready() {
            Ok(()) => self.image.execute(),
            Err(error) => error,
        };
        let number = error.raw_os_error().unwrap_or(libc::EINVAL);
        self.error.store(number, Ordering::Release);
    }

    fn ready(&self) -> io::Result<()> {
        for (stream, target) in self.streams.into_iter().zip(0..) {
            take(stream, target)?;
        }
        self.image.enter_directory()?;
        lead_group()?;
        heed_signals()?;
        self.enter_network()?;
        harden(self.parent, self.start, self.entrance)
    }

    /// First of all that confines it, since the rest takes away what this needs.
    fn enter_network(&self) -> io::Result<()> {
        let Some(network) = &self.start.network else {
            return Ok(());
        };
        enter_network(network.entrance())
            .inspect_err(|_| self.shut_out.store(true, Ordering::Release))
    }
}

#[allow(unsafe_code, reason = "a system call on numbers")]
fn take(stream: RawFd, target: RawFd) -> io::Result<()> {
    // SAFETY: a system call on numbers; descriptors are the child's own.
    if unsafe { libc::dup2(stream, target) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[allow(unsafe_code, reason = "a system call on numbers")]
fn lead_group() -> io::Result<()> {
    // SAFETY: a system call on numbers.
    check(unsafe { libc::setpgid(0, 0) })
}

/// All were blocked when the child was made, since what the worker does about a signal must not happen in here. Now that is
/// undone, for the program to begin with none blocked and each as the system has it; what the worker was started to
/// ignore stays ignored, but for broken pipes, which only we ignore.
#[allow(
    unsafe_code,
    reason = "system calls on structures on the stack, for which all zeros is a value"
)]
fn heed_signals() -> io::Result<()> {
    // The highest number of a signal on Linux.
    const HIGHEST: libc::c_int = 64;
    // SAFETY: the structures are on the stack and outlive the calls. The table of handlers is the child's own.
    unsafe {
        for signal in 1..=HIGHEST {
            let mut action: libc::sigaction = std::mem::zeroed();
            // Those of the C library's own cannot be asked for; nobody sends them here.
            if libc::sigaction(signal, std::ptr::null(), &raw mut action) != 0 {
                continue;
            }
            let is_kept = action.sa_sigaction == libc::SIG_DFL
                || (action.sa_sigaction == libc::SIG_IGN && signal != libc::SIGPIPE);
            if !is_kept {
                let mut usual: libc::sigaction = std::mem::zeroed();
                usual.sa_sigaction = libc::SIG_DFL;
                check(libc::sigaction(
                    signal,
                    &raw const usual,
                    std::ptr::null_mut(),
                ))?;
            }
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        check(libc::sigemptyset(&raw mut none))?;
        match libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) {
            0 => Ok(()),
            number => Err(io::Error::from_raw_os_error(number)),
        }
    }
}

/// Limits and rules.
#[allow(
    unsafe_code,
    reason = "code before exec in the worker's own memory: plain system calls only, no allocation"
)]
fn harden(parent: libc::pid_t, start: &Start, entrance: Option<RawFd>) -> io::Result<()> {
    // SAFETY: plain system calls on numbers, constants, and one structure on the stack.
    unsafe {
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
        // The worker may have died before that took effect; its death is not signalled again.
        if libc::getppid() != parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        // Before anything is allocated, so that all of it counts. `0` is whoever writes.
        if let Some(entrance) = entrance
            && libc::write(entrance, c"0".as_ptr().cast(), 1) != 1
        {
            return Err(io::Error::last_os_error());
        }
        // A worker that may make network namespaces by capabilities of its service does not pass them on. Kernels that
        // know of none (before 4.3) refuse, and have nothing to clear.
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        );
        // A program with the set-user-id bit gains nothing.
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        // A core of a program that holds a model takes minutes and gigabytes to write.
        limit(libc::RLIMIT_CORE, 0);
        if let Some(bytes) = start.file_bytes {
            limit(libc::RLIMIT_FSIZE, bytes);
        }
        // When memory runs out, the program is to go before the worker that reports it.
        let adjust = libc::open(
            c"/proc/self/oom_score_adj".as_ptr(),
            libc::O_WRONLY | libc::O_CLOEXEC,
        );
        if adjust >= 0 {
            libc::write(adjust, c"500".as_ptr().cast(), 3);
            libc::close(adjust);
        }
        // Fails on kernels before 5.11, where the standard library's own care has to do.
        libc::syscall(
            libc::SYS_close_range,
            3_u32,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
    }
    match &start.confinement {
        Some(confinement) => confine(confinement),
        None => Ok(()),
    }
}

#[allow(
    unsafe_code,
    reason = "code before exec in the worker's own memory: plain system calls only, no allocation"
)]
fn limit(resource: libc::__rlimit_resource_t, most: u64) {
    let both = libc::rlimit {
        rlim_cur: most,
        rlim_max: most,
    };
    // SAFETY: the structure is on the stack and outlives the call.
    unsafe { libc::setrlimit(resource, &raw const both) };
}

/// A rule of Landlock, as the kernel takes it.
#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: i32,
}

/// Puts the rules in force. The filter comes last: it would refuse what comes before.
#[allow(
    unsafe_code,
    reason = "code before exec in the worker's own memory: plain system calls only, no allocation"
)]
fn confine(confinement: &Confinement) -> io::Result<()> {
    // Read files and list folders.
    const READ: u64 = 1 << 2 | 1 << 3;
    const BENEATH: u32 = 1;
    const MODE_FILTER: u32 = 1;

    if let Some(ruleset) = &confinement.ruleset {
        let ruleset = ruleset.as_raw_fd();
        // SAFETY: plain system calls on numbers, constants, and one structure on the stack. What it says of itself is
        // opened here, since each process has its own.
        unsafe {
            let own = libc::open(
                c"/proc/self".as_ptr(),
                libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC,
            );
            if own >= 0 {
                let rule = PathBeneath {
                    allowed: READ,
                    parent: own,
                };
                libc::syscall(
                    libc::SYS_landlock_add_rule,
                    ruleset,
                    BENEATH,
                    &raw const rule,
                    0_u32,
                );
                libc::close(own);
            }
            check_long(libc::syscall(
                libc::SYS_landlock_restrict_self,
                ruleset,
                0_u32,
            ))?;
        }
    }
    let Ok(length @ 1..) = u16::try_from(confinement.filter.len()) else {
        return Ok(());
    };
    let program = libc::sock_fprog {
        len: length,
        filter: confinement.filter.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel reads `length` instructions of an array that has as many and outlives the call.
    unsafe {
        check_long(libc::syscall(
            libc::SYS_seccomp,
            MODE_FILTER,
            0_u32,
            &raw const program,
        ))
    }
}

pub(super) fn check(result: libc::c_int) -> io::Result<()> {
    check_long(result.into())
}

fn check_long(result: libc::c_long) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
