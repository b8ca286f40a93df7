//! Network namespaces, as a thread makes one and a child enters it. Nothing else is ever unshared.

use std::io;
use std::os::fd::RawFd;

use super::child::check;

/// Puts the calling thread, and no other, into a new network namespace.
#[allow(
    unsafe_code,
    reason = "a system call on a number; the library's own wrapper is unsafe for the sake of other flags"
)]
pub(crate) fn leave_network() -> io::Result<()> {
    // SAFETY: a system call on a constant. Descriptors and the view of the file system stay shared with the other threads.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })
}

/// Puts the calling child into the network namespace that a descriptor stands for.
#[allow(unsafe_code, reason = "a system call on numbers")]
pub(super) fn enter_network(namespace: RawFd) -> io::Result<()> {
    // SAFETY: a system call on numbers. What it changes is the child's own, although it borrows the worker's memory.
    check(unsafe { libc::setns(namespace, libc::CLONE_NEWNET) })
}
