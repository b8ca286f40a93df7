//! Things of the system's that any program of the user's can find by a number or a name, and that outlive whoever made them.
#![allow(
    unsafe_code,
    reason = "no safe library makes these calls; none of them takes a pointer but to nothing or to a name"
)]

use std::io;

const PRIVATE: libc::key_t = libc::IPC_PRIVATE;
const MODE: libc::c_int = libc::IPC_CREAT | 0o600;
/// A page of memory.
const BYTES: usize = 4096;

/// Makes one of a kind, and takes it away again.
pub(crate) fn made(kind: &str) -> io::Result<()> {
    match kind {
        "segment" => removed(segment()?),
        "messages" => {
            let id = checked(unsafe { libc::msgget(PRIVATE, MODE) })?;
            checked(unsafe { libc::msgctl(id, libc::IPC_RMID, std::ptr::null_mut()) }).map(drop)
        }
        "semaphore" => {
            let id = checked(unsafe { libc::semget(PRIVATE, 1, MODE) })?;
            checked(unsafe { libc::semctl(id, 0, libc::IPC_RMID) }).map(drop)
        }
        "queue" => {
            let name = c"/studio-worker-test";
            let flags = libc::O_CREAT | libc::O_RDWR;
            let mode: libc::mode_t = 0o600;
            let nothing = std::ptr::null_mut::<libc::mq_attr>();
            let queue = checked(unsafe { libc::mq_open(name.as_ptr(), flags, mode, nothing) })?;
            unsafe { libc::mq_close(queue) };
            checked(unsafe { libc::mq_unlink(name.as_ptr()) }).map(drop)
        }
        _ => Err(io::Error::other("nothing of this kind")),
    }
}

/// Makes a segment that stays.
pub(crate) fn segment() -> io::Result<i32> {
    checked(unsafe { libc::shmget(PRIVATE, BYTES, MODE) })
}

/// Takes a segment into this program's memory, whoever made it.
pub(crate) fn attached(id: i32) -> io::Result<()> {
    let at = unsafe { libc::shmat(id, std::ptr::null(), 0) };
    match at.addr() == usize::MAX {
        true => Err(io::Error::last_os_error()),
        false => Ok(()),
    }
}

pub(crate) fn removed(id: i32) -> io::Result<()> {
    checked(unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) }).map(drop)
}

fn checked(answer: i32) -> io::Result<i32> {
    match answer {
        -1 => Err(io::Error::last_os_error()),
        number => Ok(number),
    }
}
