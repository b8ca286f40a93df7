//! How a child comes to be, on Linux.
//!
//! A fork copies the worker's table of pages, and makes every page that the worker writes afterwards fault once: with
//! components, models' pages and buffers mapped, that costs more than all else about a start. So the child borrows the
//! worker's memory instead, on a stack of its own, until it becomes the program; the thread that made it, and it alone,
//! waits meanwhile. This is how the C library's own `posix_spawn` works, which cannot be used, since it has no place for
//! the rules that a child puts itself under.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use rustix::process::{Pid, WaitOptions, waitpid};

use super::child::Plan;
use super::image::Image;
use super::{Input, Pipes, Program, Start};

/// Bytes of a child's stack. It makes a few dozen system calls, none with more than a page on the stack; less would overrun.
const STACK: usize = 128 * 1024;

/// Starts it. Its head of a group, by number, and our ends of its pipes.
pub(super) fn start(
    program: Program,
    start: Start,
    entrance: Option<&OwnedFd>,
) -> io::Result<(Pid, Pipes)> {
    let image = Image::new(&program, &start.environment)?;
    let (their_input, input) = match program.input {
        Input::Nothing => (above(File::open("/dev/null")?.into())?, None),
        Input::File(file) => (above(file.into())?, None),
        Input::Pipe => {
            let (theirs, ours) = io::pipe()?;
            (above(theirs.into())?, Some(above(ours.into())?))
        }
    };
    let (output, their_output) = io::pipe()?;
    let (error, their_error) = io::pipe()?;
    let (their_output, their_error) = (above(their_output.into())?, above(their_error.into())?);
    let plan = Plan {
        image: &image,
        start: &start,
        parent: std::process::id().cast_signed(),
        streams: [
            their_input.as_raw_fd(),
            their_output.as_raw_fd(),
            their_error.as_raw_fd(),
        ],
        entrance: entrance.map(AsRawFd::as_raw_fd),
        error: AtomicI32::new(0),
        shut_out: AtomicBool::new(false),
    };
    let id = with_signals_blocked(|| bear(&plan))??;
    match plan.error.load(Ordering::Acquire) {
        0 => {
            let pipes = Pipes {
                stdin: input,
                stdout: output.into(),
                stderr: error.into(),
            };
            Ok((id, pipes))
        }
        number => {
            // It has ended, and waits to be waited for.
            while let Err(rustix::io::Errno::INTR) = waitpid(Some(id), WaitOptions::empty()) {}
            let error = io::Error::from_raw_os_error(number);
            if plan.shut_out.load(Ordering::Acquire) {
                let about = format!("its network namespace cannot be entered: {error}");
                return Err(io::Error::other(about));
            }
            Err(error)
        }
    }
}

/// The same descriptor with a number above the three streams, so that putting one in its place never closes another. A worker
/// that was started without them gets such low numbers.
fn above(descriptor: OwnedFd) -> io::Result<OwnedFd> {
    const LOWEST: c_int = 3;
    if descriptor.as_raw_fd() >= LOWEST {
        return Ok(descriptor);
    }
    Ok(rustix::io::fcntl_dupfd_cloexec(descriptor, LOWEST)?)
}

thread_local! {
    /// Used by one child after the other: the thread waits while one is on it.
    static CHILDS_STACK: RefCell<Vec<u128>> = RefCell::new(vec![0; STACK / size_of::<u128>()]);
}

/// Makes the child and comes back when it has become the program, or has ended without.
#[allow(
    unsafe_code,
    reason = "the one place where a process is made: in our memory, on a stack of its own"
)]
fn bear(plan: &Plan<'_>) -> io::Result<Pid> {
    CHILDS_STACK.with_borrow_mut(|stack| {
        let top = stack.as_mut_ptr_range().end;
        // Borrowed memory until it is the program; its end is signalled as any child's is.
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let plan = std::ptr::from_ref(plan).cast_mut().cast::<c_void>();
        // SAFETY: `top` is the end of a stack that is aligned to 16 and that nobody else uses. The calling thread is suspended
        // until the child has executed or exited, so plan and stack outlive the child's use of them. The child
        // only makes system calls and writes into `Plan::error`, which is atomic.
        let id = unsafe { libc::clone(child, top.cast(), flags, plan) };
        Pid::from_raw(id)
            .filter(|_| id > 0)
            .ok_or_else(io::Error::last_os_error)
    })
}

/// Where the child begins. What it answers is its exit code, which nobody reads.
#[allow(unsafe_code, reason = "the system hands over a plain pointer")]
extern "C" fn child(plan: *mut c_void) -> c_int {
    // SAFETY: it is the plan that `bear` passed on, which outlives the child's use of it, and nothing changes it.
    let plan = unsafe { &*plan.cast_const().cast::<Plan<'_>>() };
    plan.carry_out();
    127
}

/// Does something while this thread takes no signal: what is done about one must not happen in a child that borrows our memory.
#[allow(
    unsafe_code,
    reason = "system calls on structures on the stack, for which all zeros is a value"
)]
fn with_signals_blocked<T>(work: impl FnOnce() -> T) -> io::Result<T> {
    // SAFETY: the structures are on the stack and outlive the calls.
    unsafe {
        let (mut all, mut before) = (
            std::mem::zeroed::<libc::sigset_t>(),
            std::mem::zeroed::<libc::sigset_t>(),
        );
        libc::sigfillset(&raw mut all);
        match libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before) {
            0 => {}
            number => return Err(io::Error::from_raw_os_error(number)),
        }
        let done = work();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        Ok(done)
    }
}
