//! Starting a program so that it dies with the worker.
//!
//! On Linux the kernel can be told to kill a child when its parent dies, but by parent it means the *thread* that forked.
//! An asynchronous runtime's threads come and go, so one thread of our own does all the forking and lives as long as the
//! process. Between fork and exec only calls are made that may be made there; this is the one module that may do so.
//! The other half of a clean start, that no descriptor of ours is inherited, the standard library sees to by opening
//! everything close-on-exec; the child marks all others once more, for libraries that are less careful.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::iter;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::ptr;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use tokio::sync::oneshot;

use crate::cgroup::RunGroup;
use crate::group::Group;
use crate::marker::Mark;
use crate::sandbox::Confinement;

/// A program that runs, and the ends of its pipes.
pub(crate) struct Spawned {
    pub(crate) group: Group,
    pub(crate) pipes: Pipes,
}

/// Our ends of the pipes that were asked for.
pub(crate) struct Pipes {
    pub(crate) stdin: Option<std::process::ChildStdin>,
    pub(crate) stdout: Option<std::process::ChildStdout>,
    pub(crate) stderr: Option<std::process::ChildStderr>,
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
}

struct Request {
    command: Command,
    image: Image,
    start: Start,
    answer: oneshot::Sender<io::Result<Spawned>>,
}

/// Starts `command` at the head of a process group of its own. When the caller goes away meanwhile, the group is killed.
pub(crate) async fn spawn(command: Command, start: Start) -> io::Result<Spawned> {
    let image = Image::new(&command, &start.environment)?;
    let (answer, answered) = oneshot::channel();
    let gone = || io::Error::other("the thread that starts programs is gone");
    spawner()?
        .send(Request {
            command,
            image,
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
        mut command,
        image,
        mut start,
        answer,
    } in requests
    {
        let mark = start.mark.clone();
        let (group, entrance) = start.group.take().unzip();
        prepare(&mut command, image, start, entrance);
        let started = command.spawn().and_then(|child| own(child, mark, group));
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

fn own(mut child: Child, mark: Mark, group: Option<RunGroup>) -> io::Result<Spawned> {
    let pipes = Pipes {
        stdin: child.stdin.take(),
        stdout: child.stdout.take(),
        stderr: child.stderr.take(),
    };
    Ok(Spawned {
        group: Group::new(child, mark, group)?,
        pipes,
    })
}

/// What is executed, laid out for the system call before the fork, since nothing may be allocated after it.
///
/// The standard library would search and, worse, hand a file that the system cannot run (one for another processor, say)
/// to a shell. So the system call is made directly.
struct Image {
    program: CString,
    arguments: Table,
    environment: Table,
}

impl Image {
    fn new(command: &Command, environment: &[(OsString, OsString)]) -> io::Result<Self> {
        let program = CString::new(command.get_program().as_bytes())?;
        let arguments = iter::once(command.get_program())
            .chain(command.get_args())
            .map(OsStr::to_owned);
        let variables = environment.iter().map(|(name, value)| {
            let mut variable = name.clone();
            variable.push("=");
            variable.push(value);
            variable
        });
        Ok(Self {
            program,
            arguments: Table::new(arguments)?,
            environment: Table::new(variables)?,
        })
    }
}

impl Image {
    /// Becomes the program. Comes back only with the reason why not. Called between fork and exec.
    #[allow(
        unsafe_code,
        reason = "a system call on arrays that were laid out for it"
    )]
    fn execute(&self) -> io::Error {
        let (arguments, environment) = (
            self.arguments.pointers.as_ptr(),
            self.environment.pointers.as_ptr(),
        );
        // SAFETY: the path ends in NUL, the tables end in null, and all outlive the call.
        unsafe { libc::execve(self.program.as_ptr(), arguments, environment) };
        io::Error::last_os_error()
    }
}

/// Strings, and the array of pointers to them that ends in null.
struct Table {
    _strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl Table {
    fn new(strings: impl Iterator<Item = OsString>) -> io::Result<Self> {
        let strings = strings
            .map(|string| CString::new(string.into_vec()))
            .collect::<Result<Vec<_>, _>>()?;
        let pointers = strings
            .iter()
            .map(|string| string.as_ptr())
            .chain(iter::once(ptr::null()))
            .collect();
        Ok(Self {
            _strings: strings,
            pointers,
        })
    }
}

#[allow(
    unsafe_code,
    reason = "the pointers lead into strings on the heap that the same value owns and never changes"
)]
// SAFETY: as the reason says; moving the value to another thread moves no string.
unsafe impl Send for Table {}
#[allow(unsafe_code, reason = "nothing is ever written through the pointers")]
// SAFETY: as the reason says.
unsafe impl Sync for Table {}

#[allow(
    unsafe_code,
    reason = "code between fork and exec: asynchronous-signal-safe system calls only, no allocation"
)]
fn prepare(command: &mut Command, image: Image, start: Start, entrance: Option<OwnedFd>) {
    let parent = std::process::id().cast_signed();
    command.process_group(0);
    // SAFETY: the closure runs in the forked child, where only asynchronous-signal-safe functions may be called. All that
    // it calls are plain system calls; nothing allocates or locks: an error made from a number holds no memory.
    unsafe {
        command.pre_exec(move || {
            harden(parent, &start, entrance.as_ref())?;
            Err(image.execute())
        });
    }
}

/// What the child does to itself before it becomes the program.
#[cfg(target_os = "linux")]
#[allow(
    unsafe_code,
    reason = "code between fork and exec: asynchronous-signal-safe system calls only, no allocation"
)]
fn harden(parent: libc::pid_t, start: &Start, entrance: Option<&OwnedFd>) -> io::Result<()> {
    // SAFETY: plain system calls on numbers, constants, and one structure on the stack.
    unsafe {
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
        // The worker may have died before that took effect; its death is not signalled again.
        if libc::getppid() != parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        // Before anything is allocated, so that all of it counts. `0` is whoever writes.
        if let Some(entrance) = entrance
            && libc::write(entrance.as_raw_fd(), c"0".as_ptr().cast(), 1) != 1
        {
            return Err(io::Error::last_os_error());
        }
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

#[cfg(target_os = "linux")]
#[allow(
    unsafe_code,
    reason = "code between fork and exec: asynchronous-signal-safe system calls only, no allocation"
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
#[cfg(target_os = "linux")]
#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: i32,
}

/// Puts the rules in force. The filter comes last: it would refuse what comes before.
#[cfg(target_os = "linux")]
#[allow(
    unsafe_code,
    reason = "code between fork and exec: asynchronous-signal-safe system calls only, no allocation"
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

#[cfg(target_os = "linux")]
fn check(result: libc::c_int) -> io::Result<()> {
    check_long(result.into())
}

#[cfg(target_os = "linux")]
fn check_long(result: libc::c_long) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// No signal of a parent's death here: a worker that is killed leaves its programs running.
#[cfg(not(target_os = "linux"))]
fn harden(_parent: libc::pid_t, _start: &Start, _entrance: Option<&OwnedFd>) -> io::Result<()> {
    Ok(())
}
