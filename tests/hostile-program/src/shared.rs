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

/// Takes processor or disk from a process, or where 0, from itself.
pub(crate) fn slowed(call: &str, process: i32) -> io::Result<()> {
    let pid = process;
    // By number: the library's type of the first argument differs from system to system.
    let nice = |which: i32| match unsafe { libc::syscall(libc::SYS_setpriority, which, pid, 1) } {
        -1 => -1,
        _ => 0,
    };
    let (of_process, of_user) = (0, 2);
    let parameters = libc::sched_param { sched_priority: 0 };
    let answer = match call {
        "nice" => nice(of_process),
        "nice-user" => nice(of_user),
        "scheduler" => unsafe { libc::sched_setscheduler(pid, libc::SCHED_BATCH, &parameters) },
        "parameters" => unsafe { libc::sched_setparam(pid, &parameters) },
        "disk" => {
            // A process, and the lowest of the best-effort priorities.
            let (process, lowest) = (1, (2 << 13) | 7);
            let answer = unsafe { libc::syscall(libc::SYS_ioprio_set, process, pid, lowest) };
            if answer == -1 { -1 } else { 0 }
        }
        _ => return Err(io::Error::other("nothing of this kind")),
    };
    checked(answer).map(drop)
}

fn checked(answer: i32) -> io::Result<i32> {
    match answer {
        -1 => Err(io::Error::last_os_error()),
        number => Ok(number),
    }
}
