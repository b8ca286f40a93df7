//! Starting a program so that it dies with the worker.
//!
//! On Linux the kernel can be told to kill a child when its parent dies, but by parent it means the *thread* that made it.
//! An asynchronous runtime's threads come and go, so one thread of our own starts everything and lives as long as the
//! process. What the child does before it is the program ([`child`]), and how it comes to be ([`born`]), is the only code
//! here that the compiler cannot vouch for. That no descriptor of ours is inherited the standard library sees to by opening
//! everything close-on-exec; the child marks all others once more, for libraries that are less careful.

#[cfg(not(target_os = "linux"))]
#[path = "born_elsewhere.rs"]
mod born;
#[cfg(target_os = "linux")]
mod born;
#[cfg(target_os = "linux")]
mod child;
#[cfg(target_os = "linux")]
mod image;
#[cfg(target_os = "linux")]
mod namespaces;

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use tokio::sync::oneshot;

use crate::cgroup::RunGroup;
use crate::group::Group;
use crate::marker::Mark;
use crate::network::Network;
use crate::sandbox::Confinement;

#[cfg(target_os = "linux")]
pub(crate) use namespaces::leave_network;

/// A program that runs, and the ends of its pipes.
pub(crate) struct Spawned {
    pub(crate) group: Group,
    pub(crate) pipes: Pipes,
}

/// Our ends of the pipes that were asked for.
pub(crate) struct Pipes {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// What is started. Its output comes through pipes.
pub(crate) struct Program {
    /// Taken as it is, never searched for.
    pub(crate) path: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    /// Where it runs.
    pub(crate) directory: PathBuf,
    pub(crate) input: Input,
}

/// What it reads.
pub(crate) enum Input {
    Nothing,
    Pipe,
    File(File),
}

/// How a program is started.
pub(crate) struct Start {
    /// Exactly this environment.
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// By which its descendants are known.
    pub(crate) mark: Mark,
    /// What it may reach; none: whatever our user may.
    pub(crate) confinement: Option<Confinement>,
    /// Most bytes of a single file that it writes.
    pub(crate) file_bytes: Option<u64>,
    /// The control group that it runs in, with the file by which it joins.
    pub(crate) group: Option<(RunGroup, OwnedFd)>,
    /// The network that it runs in; none: the worker's.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "there is none"))]
    pub(crate) network: Option<Network>,
}

struct Request {
    program: Program,
    start: Start,
    answer: oneshot::Sender<io::Result<Spawned>>,
}

/// Starts a program at the head of a process group of its own. When the caller goes away meanwhile, the group is killed.
pub(crate) async fn spawn(program: Program, start: Start) -> io::Result<Spawned> {
    let (answer, answered) = oneshot::channel();
    let gone = || io::Error::other("the thread that starts programs is gone");
    spawner()?
        .send(Request {
            program,
            start,
            answer,
        })
        .map_err(|_| gone())?;
    answered.await.map_err(|_| gone())?
}

fn spawner() -> io::Result<&'static Sender<Request>> {
    static SPAWNER: OnceLock<Sender<Request>> = OnceLock::new();
    if let Some(sender) = SPAWNER.get() {
        return Ok(sender);
    }
    let (sender, requests) = channel();
    thread::Builder::new()
        .name("spawner".to_owned())
        .spawn(move || serve(requests))?;
    // Where two calls race here, the sender of one is dropped and its thread ends.
    Ok(SPAWNER.get_or_init(|| sender))
}

fn serve(requests: Receiver<Request>) {
    adopt_orphans();
    for Request {
        program,
        mut start,
        answer,
    } in requests
    {
        let mark = start.mark.clone();
        let (group, entrance) = start.group.take().unzip();
        let started = born::start(program, start, entrance.as_ref()).and_then(|(id, pipes)| {
            Group::new(id, mark, group).map(|group| Spawned { group, pipes })
        });
        // An answer that nobody takes is dropped, and with it its group.
        drop(answer.send(started));
    }
}

/// Descendants that lose their parent become ours, so that they can be found, ended and waited for.
fn adopt_orphans() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
        tracing::warn!(target: "job", %error, "orphans of programs are found only at the next start");
    }
}
