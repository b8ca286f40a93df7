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
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::ptr;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use tokio::sync::oneshot;

use crate::group::Group;

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

struct Request {
    command: Command,
    image: Image,
    answer: oneshot::Sender<io::Result<Spawned>>,
}

/// Starts `command`, with exactly this environment, at the head of a process group of its own. When the caller goes away
/// meanwhile, the group is killed.
pub(crate) async fn spawn(
    command: Command,
    environment: &[(OsString, OsString)],
) -> io::Result<Spawned> {
    let image = Image::new(&command, environment)?;
    let (answer, answered) = oneshot::channel();
    let gone = || io::Error::other("the thread that starts programs is gone");
    spawner()?
        .send(Request {
            command,
            image,
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
    for Request {
        mut command,
        image,
        answer,
    } in requests
    {
        prepare(&mut command, image);
        let started = command.spawn().and_then(own);
        // An answer that nobody takes is dropped, and with it its group.
        drop(answer.send(started));
    }
}

fn own(mut child: Child) -> io::Result<Spawned> {
    let pipes = Pipes {
        stdin: child.stdin.take(),
        stdout: child.stdout.take(),
        stderr: child.stderr.take(),
    };
    Ok(Spawned {
        group: Group::new(child)?,
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
fn prepare(command: &mut Command, image: Image) {
    let parent = std::process::id().cast_signed();
    command.process_group(0);
    // SAFETY: the closure runs in the forked child, where only asynchronous-signal-safe functions may be called. All that
    // it calls are plain system calls; nothing allocates or locks: an error made from a number holds no memory.
    unsafe {
        command.pre_exec(move || {
            harden(parent)?;
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
fn harden(parent: libc::pid_t) -> io::Result<()> {
    // SAFETY: plain system calls on numbers, constants, and one structure on the stack.
    unsafe {
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
            return Err(io::Error::last_os_error());
        }
        // The worker may have died before that took effect; its death is not signalled again.
        if libc::getppid() != parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        // A program with the set-user-id bit gains nothing.
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
            return Err(io::Error::last_os_error());
        }
        // A core of a program that holds a model takes minutes and gigabytes to write.
        let none = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
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
    Ok(())
}

/// No signal of a parent's death here: a worker that is killed leaves its programs running.
#[cfg(not(target_os = "linux"))]
fn harden(_parent: libc::pid_t) -> io::Result<()> {
    Ok(())
}
