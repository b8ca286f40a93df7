//! Ending what a program left behind: those who went to another group or session, and those whose worker was killed.

use std::time::{Duration, Instant};

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpid, pidfd_open, pidfd_send_signal, waitid,
};

use crate::marker::Mark;
use crate::processes::{self, stat};

/// How long killed processes may take to go. Longer holds up the job's end for one that a driver holds; shorter may leave
/// one that was about to go, which the next start finds.
const GOING: Duration = Duration::from_secs(2);
/// Between two looks.
const AGAIN: Duration = Duration::from_millis(2);

/// Ends the descendants of a program that became our children: its group's, and those that carry its mark. Its head, which
/// is not waited for yet, is left alone. Those that have ended are waited for.
pub(crate) fn end(mark: &Mark, group: i32) {
    let text = mark.text();
    let deadline = Instant::now() + GOING;
    while end_children(&text, group) && Instant::now() < deadline {
        std::thread::sleep(AGAIN);
    }
}

/// One look at our children. Whether there was one that should not be.
fn end_children(mark: &str, group: i32) -> bool {
    let own_session = stat(std::process::id()).map(|own| own.session);
    let mut found = false;
    for pid in processes::children() {
        if i32::try_from(pid) == Ok(group) {
            continue;
        }
        let Some(child) = stat(pid) else { continue };
        // Of a dead process only its group and its session are left to know it by. Nobody but the programs that we run
        // opens a session below us.
        let dead = child.state == 'Z';
        let foreign = own_session.is_some_and(|own| own != child.session);
        let theirs =
            child.group == group || (dead && foreign) || (!dead && processes::is_marked(pid, mark));
        if !theirs {
            continue;
        }
        found = true;
        if dead {
            reap(pid);
        } else {
            kill(pid, || {
                processes::is_marked(pid, mark) || stat(pid).is_some_and(|it| it.group == group)
            });
        }
    }
    found
}

/// Kills every process whose mark begins so, until none is left. How many.
pub(crate) fn end_all(prefix: &str) -> usize {
    let deadline = Instant::now() + GOING;
    let mut ended = std::collections::HashSet::new();
    loop {
        let mut found = false;
        for pid in processes::all() {
            if pid != std::process::id()
                && processes::is_marked(pid, prefix)
                && stat(pid).is_some_and(|it| it.state != 'Z')
            {
                found = true;
                if kill(pid, || processes::is_marked(pid, prefix)) {
                    ended.insert(pid);
                }
            }
        }
        if !found || Instant::now() >= deadline {
            return ended.len();
        }
        std::thread::sleep(AGAIN);
    }
}

/// Kills a process that is still the one that was looked at: the number may have become another's meanwhile.
fn kill(pid: u32, is_still: impl Fn() -> bool) -> bool {
    let Some(pid) = raw(pid) else { return false };
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
        return false;
    };
    is_still() && pidfd_send_signal(&process, Signal::KILL).is_ok()
}

fn reap(pid: u32) {
    if let Some(pid) = raw(pid).filter(|pid| *pid != getpid()) {
        let _ = waitid(
            WaitId::Pid(pid),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        );
    }
}

fn raw(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}
