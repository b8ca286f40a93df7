//! A process group that is ours to end.
//!
//! A number of a process that was waited for may be given to another at once, and a signal to it would hit a stranger. So
//! the head of the group is first waited for without being reaped, and reaped only when nothing more will be sent to its
//! group. A thread per program does the waiting: it works on every Unix, and keeps no runtime from shutting down.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::mpsc;
use std::thread;

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process_group, waitid, waitpid,
};
use tokio::sync::oneshot;

use crate::cgroup::RunGroup;
use crate::marker::Mark;

/// What is known of a group that is gone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reaped {
    /// How its head ended.
    pub(crate) status: ExitStatus,
    /// Whether the kernel ended any of it for want of memory; none where it had no control group.
    pub(crate) out_of_memory: Option<bool>,
}

/// The group of one running program. Dropped, it is killed and reaped, and with it what left it.
#[derive(Debug)]
pub(crate) struct Group {
    id: Pid,
    exited: Option<oneshot::Receiver<()>>,
    status: oneshot::Receiver<io::Result<Reaped>>,
    /// Sent to, or dropped, when the head may be reaped.
    release: Option<mpsc::Sender<()>>,
}

impl Group {
    /// Takes over a child that heads its own group, and the control group that it runs in, which goes with it.
    pub(crate) fn new(id: Pid, mark: Mark, control: Option<RunGroup>) -> io::Result<Self> {
        let (on_exit, exited) = oneshot::channel();
        let (on_status, status) = oneshot::channel();
        let (release, released) = mpsc::channel();
        let waiter = move || {
            wait_unreaped(id);
            let _ = on_exit.send(());
            let _ = released.recv();
            kill(id, Signal::KILL);
            if let Some(control) = &control {
                control.kill();
            }
            crate::orphans::end(&mark, id.as_raw_nonzero().get());
            let status = reap(id);
            let out_of_memory = control.as_ref().map(RunGroup::ran_out_of_memory);
            drop(control);
            drop(on_status.send(status.map(|status| Reaped {
                status,
                out_of_memory,
            })));
        };
        let waiting = thread::Builder::new()
            .name("waiter".to_owned())
            .stack_size(128 * 1024)
            .spawn(waiter);
        if let Err(error) = waiting {
            kill(id, Signal::KILL);
            reap(id)?;
            return Err(error);
        }
        Ok(Self {
            id,
            exited: Some(exited),
            status,
            release: Some(release),
        })
    }

    /// Waits for the head to exit. It is not reaped yet, so that [`Group::signal`] still reaches its group.
    pub(crate) async fn exited(&mut self) {
        if let Some(exited) = &mut self.exited {
            let _ = exited.await;
            self.exited = None;
        }
    }

    /// Sends a signal to all of the group.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.id, signal);
    }

    /// The number of the head, for messages.
    pub(crate) fn id(&self) -> i32 {
        self.id.as_raw_nonzero().get()
    }

    /// Kills what is left of the group and reaps its head, which must have exited.
    pub(crate) async fn reap(mut self) -> io::Result<Reaped> {
        drop(self.release.take());
        (&mut self.status)
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the thread that waits is gone")))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Once released it may be reaped, and the number another's.
        if self.release.is_some() {
            kill(self.id, Signal::KILL);
        }
    }
}

fn kill(group: Pid, signal: Signal) {
    // The only failure is that nobody is left, or that all who are left changed their user.
    let _ = kill_process_group(group, signal);
}

/// Waits for a child of ours, whose number may be another's afterwards.
fn reap(id: Pid) -> io::Result<ExitStatus> {
    loop {
        match waitpid(Some(id), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(ExitStatus::from_raw(status.as_raw())),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn wait_unreaped(id: Pid) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(id), options) {}
}
