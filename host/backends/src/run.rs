//! One run of a program, from start to the last of its group.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::environment::{EnvironmentRefusal, environment};
use crate::exec::{self, Pipes, Spawned};
use crate::group::Group;
use crate::invocation::{Invocation, Stdin};
use crate::lines::Tail;
use crate::output::{Problem, Stream, create, keep};

/// How long the pipes may stay open after the program itself is gone: a moment for what is still in them. Longer makes
/// every job wait whose program leaves something behind; shorter may lose last lines on a busy machine.
const PIPES_AFTER_EXIT: Duration = Duration::from_secs(1);
/// How long a killed program may take to go. One that a driver holds in the kernel may never.
const AFTER_KILL: Duration = Duration::from_secs(10);

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exit {
    /// None when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// It was ended because its time was up.
    pub timed_out: bool,
    /// It was ended because the caller wished so.
    pub cancelled: bool,
    /// It was ended because it printed more to its output file than allowed.
    pub too_much_output: bool,
    /// The kernel killed it, or something beside it, for want of memory: it got a KILL that was not ours while the
    /// kernel's own counter went up.
    pub out_of_memory: bool,
    /// The last lines of standard output; empty when that went to a file.
    pub stdout_tail: String,
    /// The last lines of standard error.
    pub stderr_tail: String,
    /// From start to exit.
    pub wall: Duration,
}

/// Why a program was not run, or its run cannot be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A path that depends on the working directory.
    #[error("{} is not an absolute path", .program.display())]
    RelativeProgram {
        /// The program.
        program: PathBuf,
    },
    /// An argument cannot hold a NUL.
    #[error("argument {index} holds a NUL character")]
    NulInArgument {
        /// Its number, from 0.
        index: usize,
    },
    /// More arguments than allowed, or longer ones.
    #[error("{count} arguments of {bytes} bytes together are more than a command may have")]
    TooManyArguments {
        /// How many.
        count: usize,
        /// How long.
        bytes: usize,
    },
    /// A variable that is not passed on.
    #[error(transparent)]
    Environment(#[from] EnvironmentRefusal),
    /// Its standard input cannot be opened or its output file not be made.
    #[error("{}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What it printed cannot be stored. It was ended.
    #[error("the program's output cannot be stored: {0}; check the disk")]
    Store(io::Error),
    /// The system does not start it.
    #[error("{} cannot be started: {source}{}", .program.display(), start_hint(.source))]
    Spawn {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It was killed and is still there.
    #[error(
        "process {pid} does not go although it was killed: a driver holds it; the machine may have to be restarted"
    )]
    Unkillable {
        /// Its number.
        pid: i32,
    },
    /// Its status cannot be had.
    #[error("the program's exit status cannot be read: {0}")]
    Status(io::Error),
}

fn start_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => "; make it executable",
        io::ErrorKind::NotFound => {
            "; it, or the loader that it names, is not there: install a build for this system"
        }
        _ if source.raw_os_error() == Some(libc::ENOEXEC) => {
            "; it is built for another kind of machine"
        }
        _ => "",
    }
}

/// Why we ended it ourselves.
enum Ended {
    TimedOut,
    Cancelled,
    TooMuch,
    Store(io::Error),
}

/// Runs a program to its end, and its whole group with it. `lines` gets what it prints, in batches, cleaned; those that
/// nobody takes in time are dropped. Every way out leaves no process of the group: ended by `cancel`, by its time, or by
/// this future being dropped.
///
/// # Errors
/// When it cannot be started, or its output not be stored. That it fails is no error: see [`Exit`].
pub async fn run(
    invocation: &Invocation,
    lines: mpsc::Sender<Vec<String>>,
    cancel: &CancellationToken,
) -> Result<Exit, RunError> {
    invocation.check()?;
    if cancel.is_cancelled() {
        return Ok(Exit {
            cancelled: true,
            ..Exit::default()
        });
    }
    let command = command(invocation)?;
    let variables = environment(invocation, std::env::vars_os());
    let file = match &invocation.stdout_to {
        Some(path) => {
            let io = |source| RunError::File {
                path: path.clone(),
                source,
            };
            Some(create(path.clone()).await.map_err(io)?)
        }
        None => None,
    };
    let spawn_error = |source| RunError::Spawn {
        program: invocation.program.clone(),
        source,
    };
    let kills_before = kernel_kills();
    let started = Instant::now();
    let Spawned { mut group, pipes } = exec::spawn(command, &variables)
        .await
        .map_err(spawn_error)?;

    let limits = &invocation.limits;
    let tail = || Tail::new(limits.tail_lines, limits.tail_bytes);
    let (mut out, mut err) = (
        Stream::new(lines.clone(), tail()),
        Stream::new(lines, tail()),
    );
    let (problem, mut problems) = mpsc::channel(1);
    let ended = {
        let io = async {
            let Pipes {
                stdin,
                stdout,
                stderr,
            } = pipes;
            let read_out = async {
                match (stdout.and_then(receiver), file) {
                    (Some(from), Some(file)) => {
                        keep(from, file, limits.stdout_bytes, problem).await
                    }
                    (Some(from), None) => out.read(from).await,
                    (None, _) => {}
                }
            };
            let read_err = async {
                if let Some(from) = stderr.and_then(receiver) {
                    err.read(from).await;
                }
            };
            tokio::join!(feed(stdin, invocation.stdin.as_ref()), read_out, read_err);
        };
        supervise(&mut group, io, &mut problems, invocation, cancel).await?
    };
    let wall = started.elapsed();
    let status = group.reap().await.map_err(RunError::Status)?;

    let killed = ended.is_none() && status.signal() == Some(libc::SIGKILL);
    let mut exit = Exit {
        code: status.code(),
        signal: status.signal(),
        out_of_memory: killed && kernel_kills() > kills_before,
        stdout_tail: out.into_tail(),
        stderr_tail: err.into_tail(),
        wall,
        ..Exit::default()
    };
    match ended {
        Some(Ended::Store(source)) => return Err(RunError::Store(source)),
        Some(Ended::TimedOut) => exit.timed_out = true,
        Some(Ended::Cancelled) => exit.cancelled = true,
        Some(Ended::TooMuch) => exit.too_much_output = true,
        None => {}
    }
    Ok(exit)
}

fn command(invocation: &Invocation) -> Result<Command, RunError> {
    let mut command = Command::new(&invocation.program);
    command.args(&invocation.args).current_dir(&invocation.cwd);
    command.stdin(match &invocation.stdin {
        None => Stdio::null(),
        Some(Stdin::Bytes(_)) => Stdio::piped(),
        Some(Stdin::File(path)) => {
            let io = |source| RunError::File {
                path: path.clone(),
                source,
            };
            open_input(path).map_err(io)?.into()
        }
    });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

/// Opens what a program reads. Not a pipe, whose other end might keep us waiting, nor a device.
fn open_input(path: &Path) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it is not a regular file"))
    }
}

/// Waits until the program is gone and its pipes are empty, ending it when it must. Says why we ended it, if we did.
async fn supervise(
    group: &mut Group,
    io: impl Future<Output = ()>,
    problems: &mut mpsc::Receiver<Problem>,
    invocation: &Invocation,
    cancel: &CancellationToken,
) -> Result<Option<Ended>, RunError> {
    let mut io = pin!(io);
    let mut open = true;
    let mut deadline = pin!(sleep(invocation.timeout));
    let mut ended = None;
    loop {
        tokio::select! {
            () = group.exited() => break,
            () = &mut io, if open => open = false,
            () = &mut deadline => ended = Some(Ended::TimedOut),
            () = cancel.cancelled() => ended = Some(Ended::Cancelled),
            Some(problem) = problems.recv() => ended = Some(problem.into()),
        }
        if ended.is_some() {
            break;
        }
    }
    if ended.is_some() {
        let pid = group.id();
        let gone = async {
            group.signal(Signal::TERM);
            if timeout(invocation.limits.grace, group.exited())
                .await
                .is_err()
            {
                group.signal(Signal::KILL);
                return timeout(AFTER_KILL, group.exited()).await.is_ok();
            }
            true
        };
        let mut gone = pin!(gone);
        // The pipes are read on meanwhile: a program that is stuck writing cannot heed a signal.
        let gone = loop {
            tokio::select! {
                gone = &mut gone => break gone,
                () = &mut io, if open => open = false,
            }
        };
        if !gone {
            return Err(RunError::Unkillable { pid });
        }
    }
    if open && timeout(PIPES_AFTER_EXIT, &mut io).await.is_err() {
        // Somebody whom the program left behind holds them.
        group.signal(Signal::KILL);
        let _ = timeout(PIPES_AFTER_EXIT, &mut io).await;
    }
    // A problem that came with the last bytes.
    Ok(ended.or_else(|| problems.try_recv().ok().map(Ended::from)))
}

impl From<Problem> for Ended {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::TooMuch => Self::TooMuch,
            Problem::Store(source) => Self::Store(source),
        }
    }
}

fn receiver(pipe: impl Into<std::os::fd::OwnedFd>) -> Option<pipe::Receiver> {
    pipe::Receiver::from_owned_fd(pipe.into()).ok()
}

/// Writes standard input. That the program does not read it all is its own affair.
async fn feed(pipe: Option<std::process::ChildStdin>, input: Option<&Stdin>) {
    let (Some(pipe), Some(Stdin::Bytes(bytes))) = (pipe, input) else {
        return;
    };
    if let Ok(mut pipe) = pipe::Sender::from_owned_fd(pipe.into()) {
        let _ = pipe.write_all(bytes).await;
    }
}

/// How many processes the kernel has killed for want of memory since it started. None where it does not say.
fn kernel_kills() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/vmstat").ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill "))?
        .trim()
        .parse()
        .ok()
}
