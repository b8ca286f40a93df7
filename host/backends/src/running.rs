//! A program that runs, until the last of its group is gone.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::cgroup::RunGroup;
use crate::ending::{Exit, RunError, Stall};
use crate::environment::environment;
use crate::exec::{self, Input, Pipes, Program, Spawned};
use crate::group::Group;
use crate::invocation::{Invocation, Stdin};
use crate::lines::Tail;
use crate::marker::Mark;
use crate::memory;
use crate::output::{Problem, Stream, create, keep};
use crate::sandbox::Confinement;
use crate::watch::{LookedAt, Watch};

/// How long the pipes may stay open after the program itself is gone: a moment for what is still in them. Longer makes
/// every job wait whose program leaves something behind; shorter may lose last lines on a busy machine.
const PIPES_AFTER_EXIT: Duration = Duration::from_secs(1);
/// How long a killed program may take to go. One that a driver holds in the kernel may never.
const AFTER_KILL: Duration = Duration::from_secs(10);

/// Why we ended it ourselves.
#[derive(Debug)]
pub(crate) enum Ended {
    TimedOut,
    Cancelled,
    TooMuchOutput,
    TooMuchDisk,
    TooMuchMemory,
    TooManyTasks,
    Stalled(Stall),
    Store(io::Error),
}

impl From<Problem> for Ended {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::TooMuch => Self::TooMuchOutput,
            Problem::Store(source) => Self::Store(source),
        }
    }
}

/// How far ending it has come.
struct Ending {
    why: Ended,
    /// When the next, harder step is due.
    due: Instant,
    killed: bool,
}

/// A program that runs, at the head of a process group of its own. What it prints is read by a task of its own, so it
/// never waits for us. Its limits (silence, disk, memory) are looked after while [`Running::exited`] is awaited. Dropped,
/// its whole group is killed.
pub struct Running {
    group: Group,
    reading: JoinHandle<(String, String)>,
    /// Cancelled when what the streams gave so far has to do.
    enough: DropGuard,
    problems: mpsc::Receiver<Problem>,
    watch: Watch,
    ending: Option<Ending>,
    gone: bool,
    started: Instant,
    kills_before: Option<u64>,
    grace: Duration,
}

/// Starts a program and does not wait for it. `lines` gets what it prints, in batches, cleaned; those that nobody takes in
/// time are dropped. The invocation's `timeout` does not count here.
///
/// # Errors
/// When it cannot be started.
pub async fn start(
    invocation: &Invocation,
    lines: mpsc::Sender<Vec<String>>,
) -> Result<Running, RunError> {
    invocation.check()?;
    let spawn_error = |source| RunError::Spawn {
        program: invocation.program.clone(),
        source,
    };
    let program = program(invocation)?;
    let mark = Mark::new().map_err(&spawn_error)?;
    let mut variables = environment(invocation, std::env::vars_os());
    variables.push(mark.variable());
    let sandbox_error = |source| RunError::Sandbox {
        program: invocation.program.clone(),
        source,
    };
    let policy = invocation.sandbox.as_ref();
    let confinement = policy.map(|policy| Confinement::new(policy, &invocation.home));
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
    let control = RunGroup::or_looking(&mark.name(), &invocation.limits);
    let looked_at = LookedAt::unless_held(control.as_ref().map(|(group, _)| group));
    let start = exec::Start {
        environment: variables,
        mark,
        group: control,
        confinement: confinement.transpose().map_err(sandbox_error)?,
        file_bytes: invocation.limits.file_bytes,
        network: invocation.network.clone(),
    };
    let kills_before = memory::kernel_kills();
    let started = Instant::now();
    let Spawned { group, pipes } = exec::spawn(program, start).await.map_err(spawn_error)?;
    let watch = Watch::new(invocation, group.id(), looked_at);
    let (problem, problems) = mpsc::channel(1);
    let enough = CancellationToken::new();
    let reading = tokio::spawn(read(
        Reading {
            pipes,
            file,
            stdin: invocation.stdin.clone(),
            stdout_bytes: invocation.limits.stdout_bytes,
            problem,
            streams: [lines.clone(), lines].map(|lines| {
                let tail = Tail::new(invocation.limits.tail_lines, invocation.limits.tail_bytes);
                Stream::new(lines, tail, watch.output())
            }),
        },
        enough.clone(),
    ));
    Ok(Running {
        group,
        reading,
        enough: enough.drop_guard(),
        problems,
        watch,
        ending: None,
        gone: false,
        started,
        kills_before,
        grace: invocation.limits.grace,
    })
}

impl Running {
    /// The number of its process, which is that of its group.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.group.id()
    }

    /// Waits until it is gone, ending it where a limit is reached. May be dropped and called again. Its limits are looked
    /// after only while this is awaited, so somebody should be waiting here all the time.
    pub async fn exited(&mut self) {
        while !self.gone {
            let due = self.ending.as_ref().map(|ending| ending.due);
            let ended = tokio::select! {
                () = self.group.exited() => {
                    self.gone = true;
                    None
                }
                Some(problem) = self.problems.recv() => Some(problem.into()),
                why = self.watch.reached(), if self.ending.is_none() => Some(why),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    if self.harder() {
                        continue;
                    }
                    return;
                }
            };
            if let Some(why) = ended {
                // One that forks without end would go on in its time of grace.
                let grace = match why {
                    Ended::TooManyTasks => Duration::ZERO,
                    _ => self.grace,
                };
                self.end(why, grace);
            }
        }
    }

    /// Ends it unless it is gone: TERM to its group, and after `grace` KILL. Answers how it ended, with what it printed
    /// last; [`Exit::cancelled`] says that it ended because of this.
    ///
    /// # Errors
    /// When it does not go even though it is killed, or its status cannot be had.
    pub async fn stop(mut self, grace: Duration) -> Result<Exit, RunError> {
        // One look, so that a program that is gone already is not called stopped.
        let _ = timeout(Duration::ZERO, self.exited()).await;
        if !self.gone {
            self.end(Ended::Cancelled, grace);
        }
        self.finish().await
    }

    /// Begins to end it. The first reason stays.
    pub(crate) fn end(&mut self, why: Ended, grace: Duration) {
        if self.ending.is_some() || self.gone {
            return;
        }
        self.group.signal(Signal::TERM);
        self.ending = Some(Ending {
            why,
            due: Instant::now() + grace,
            killed: false,
        });
    }

    /// The next step of ending it. False when there is none left.
    fn harder(&mut self) -> bool {
        let Some(ending) = &mut self.ending else {
            return true;
        };
        if ending.killed {
            return false;
        }
        self.group.signal(Signal::KILL);
        ending.killed = true;
        ending.due = Instant::now() + AFTER_KILL;
        true
    }

    /// Waits until it is gone and its streams are read, ends what it left behind, and tells how it went.
    ///
    /// # Errors
    /// When it does not go even though it is killed, its output could not be stored, or its status cannot be had.
    pub async fn finish(mut self) -> Result<Exit, RunError> {
        self.exited().await;
        if !self.gone {
            return Err(RunError::Unkillable {
                pid: self.group.id(),
            });
        }
        let wall = self.started.elapsed();
        let (stdout_tail, stderr_tail) = self.last_lines().await;
        let late = self.problems.try_recv().ok().map(Ended::from);
        let reaped = self.group.reap().await.map_err(RunError::Status)?;
        let status = reaped.status;
        let ended = self.ending.map(|ending| ending.why).or(late);

        let killed = ended.is_none() && status.signal() == Some(libc::SIGKILL);
        let mut exit = Exit {
            code: status.code(),
            signal: status.signal(),
            // The kernel's word on this very run, where it has one.
            out_of_memory: killed
                && reaped
                    .out_of_memory
                    .unwrap_or_else(|| memory::kernel_kills() > self.kills_before),
            too_much_disk: ended.is_none() && status.signal() == Some(libc::SIGXFSZ),
            stdout_tail,
            stderr_tail,
            wall,
            ..Exit::default()
        };
        match ended {
            Some(Ended::Store(source)) => return Err(RunError::Store(source)),
            Some(Ended::TimedOut) => exit.timed_out = true,
            Some(Ended::Cancelled) => exit.cancelled = true,
            Some(Ended::TooMuchOutput) => exit.too_much_output = true,
            Some(Ended::TooMuchDisk) => exit.too_much_disk = true,
            Some(Ended::TooMuchMemory) => exit.out_of_memory = true,
            Some(Ended::TooManyTasks) => exit.too_many_tasks = true,
            Some(Ended::Stalled(stall)) => exit.stalled = Some(stall),
            None => {}
        }
        Ok(exit)
    }

    /// What is still in the pipes, without waiting for whoever else holds them.
    async fn last_lines(&mut self) -> (String, String) {
        if let Ok(tails) = timeout(PIPES_AFTER_EXIT, &mut self.reading).await {
            return tails.unwrap_or_default();
        }
        // Somebody whom the program left behind holds them.
        self.group.signal(Signal::KILL);
        if let Ok(tails) = timeout(PIPES_AFTER_EXIT, &mut self.reading).await {
            return tails.unwrap_or_default();
        }
        let never = CancellationToken::new().drop_guard();
        drop(std::mem::replace(&mut self.enough, never));
        (&mut self.reading).await.unwrap_or_default()
    }
}

/// What the reading task works with.
struct Reading {
    pipes: Pipes,
    file: Option<tokio::fs::File>,
    stdin: Option<Stdin>,
    stdout_bytes: u64,
    problem: mpsc::Sender<Problem>,
    streams: [Stream; 2],
}

/// Reads both streams to their end, or until it is enough. Answers the last lines of each.
async fn read(reading: Reading, enough: CancellationToken) -> (String, String) {
    let Reading {
        pipes,
        file,
        stdin,
        stdout_bytes,
        problem,
        streams: [mut out, mut err],
    } = reading;
    let io = async {
        let read_out = async {
            match (receiver(pipes.stdout), file) {
                (Some(from), Some(file)) => {
                    keep(from, file, stdout_bytes, problem, out.clock()).await;
                }
                (Some(from), None) => out.read(from).await,
                (None, _) => {}
            }
        };
        let read_err = async {
            if let Some(from) = receiver(pipes.stderr) {
                err.read(from).await;
            }
        };
        tokio::join!(feed(pipes.stdin, stdin), read_out, read_err);
    };
    tokio::select! {
        () = io => {}
        () = enough.cancelled() => {}
    }
    (out.into_tail(), err.into_tail())
}

fn program(invocation: &Invocation) -> Result<Program, RunError> {
    let input = match &invocation.stdin {
        None => Input::Nothing,
        Some(Stdin::Bytes(_)) => Input::Pipe,
        Some(Stdin::File(path)) => {
            let io = |source| RunError::File {
                path: path.clone(),
                source,
            };
            Input::File(open_input(path).map_err(io)?)
        }
    };
    Ok(Program {
        path: invocation.program.clone(),
        arguments: invocation.args.clone(),
        directory: invocation.cwd.clone(),
        input,
    })
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

fn receiver(pipe: OwnedFd) -> Option<pipe::Receiver> {
    pipe::Receiver::from_owned_fd(pipe).ok()
}

/// Writes standard input. That the program does not read it all is its own affair.
async fn feed(pipe: Option<OwnedFd>, input: Option<Stdin>) {
    let (Some(pipe), Some(Stdin::Bytes(bytes))) = (pipe, input) else {
        return;
    };
    if let Ok(mut pipe) = pipe::Sender::from_owned_fd(pipe) {
        let _ = pipe.write_all(&bytes).await;
    }
}
