//! How a run ended, and why one was not.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::environment::EnvironmentRefusal;

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
    /// It was ended because it wrote more to the disk than allowed: by us, or by the kernel at a single file's bound.
    pub too_much_disk: bool,
    /// It was ended because it had more processes and threads than allowed. Where the kernel holds it to their number it is not
    /// ended: it gets no more.
    pub too_many_tasks: bool,
    /// It was ended because it was silent for too long, or its work did not go on.
    pub stalled: Option<Stall>,
    /// It was ended for want of memory: by the kernel (it got a KILL that was not ours while the kernel's own counter went
    /// up) or because it held more than allowed.
    pub out_of_memory: bool,
    /// The last lines of standard output; empty when that went to a file.
    pub stdout_tail: String,
    /// The last lines of standard error.
    pub stderr_tail: String,
    /// From start to exit.
    pub wall: Duration,
}

/// What did not happen for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stall {
    /// It printed nothing.
    Silent,
    /// Its first progress did not come.
    Starting,
    /// Its next progress did not come.
    Working,
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
    /// The rules that it is to be held by cannot be made.
    #[error("{} cannot be kept in its sandbox: {source}; it was not started", .program.display())]
    Sandbox {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
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

impl RunError {
    /// Whether the same run may come to something later although nobody changes anything: what the disk or the system did can
    /// pass; what was asked for, and a program that the system cannot load or keep in its sandbox, cannot.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::File { .. } | Self::Store(_) | Self::Unkillable { .. } | Self::Status(_) => true,
            Self::Spawn { source, .. } | Self::Sandbox { source, .. } => is_scarcity(source),
            Self::RelativeProgram { .. }
            | Self::NulInArgument { .. }
            | Self::TooManyArguments { .. }
            | Self::Environment(_) => false,
        }
    }
}

/// Whether the system had no room for one more process just then, no descriptor for what it needs, or the program's file was
/// still being written.
fn is_scarcity(error: &io::Error) -> bool {
    use std::io::ErrorKind::{OutOfMemory, WouldBlock};
    matches!(error.kind(), OutOfMemory | WouldBlock)
        || matches!(
            error.raw_os_error(),
            Some(libc::EMFILE | libc::ENFILE | libc::ETXTBSY)
        )
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
