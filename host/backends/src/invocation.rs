//! One run of a program, described.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

use crate::ending::RunError;
use crate::environment::{check_env_name, check_env_value};
use crate::network::Network;
use crate::sandbox::SandboxPolicy;
use crate::watch::Clock;

/// What a program reads on standard input.
#[derive(Debug, Clone)]
pub enum Stdin {
    /// A file, from its beginning.
    File(PathBuf),
    /// Bytes; the end follows. A program that does not read them is no error.
    Bytes(Bytes),
}

/// Processes and threads of one run. Fewer refuses a program that starts some threads for each of a large machine's cores; more
/// lets one that forks without end take more of what the user's other programs, this worker included, may start.
const MOST_TASKS: u64 = 2048;

/// Bounds of one run.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes kept of each stream's end. Larger costs memory per running program; smaller loses the line that says why.
    pub tail_bytes: usize,
    /// Lines kept of each stream's end.
    pub tail_lines: usize,
    /// Most bytes of standard output where it is kept in a file; a program that prints more is ended.
    pub stdout_bytes: u64,
    /// From the request to end until the group is killed. Smaller cuts off a program that is writing its result's last
    /// bytes; larger keeps the GPU from the next job.
    pub grace: Duration,
    /// Longest that it may print nothing, on either stream. None: as long as it likes.
    pub silence: Option<Duration>,
    /// Longest from its start to its first progress: what it needs to load. None: as long as it likes.
    pub first_progress: Option<Duration>,
    /// Longest from one progress to the next. None: as long as it likes.
    pub next_progress: Option<Duration>,
    /// Most bytes that the folders of [`Invocation::written`] may hold while it runs.
    pub written_bytes: u64,
    /// Most bytes of a single file that it writes; the kernel ends it there. None: no bound.
    pub file_bytes: Option<u64>,
    /// Most memory that it and its children may hold; see [`crate::Exit::out_of_memory`]. None: no bound, and no control
    /// group of its own.
    pub memory_bytes: Option<u64>,
    /// Most processes and threads that it and its children may be at once.
    pub tasks: u64,
    /// Most arguments.
    pub arguments: usize,
    /// Most bytes of all arguments together, their ends counted.
    pub argument_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tail_bytes: 64 * 1024,
            tail_lines: 200,
            stdout_bytes: 2 << 30,
            grace: Duration::from_secs(5),
            silence: None,
            first_progress: None,
            next_progress: None,
            written_bytes: 8 << 30,
            file_bytes: None,
            memory_bytes: None,
            tasks: MOST_TASKS,
            arguments: 1024,
            argument_bytes: 128 * 1024,
        }
    }
}

/// One run of a native program.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// Absolute.
    pub program: PathBuf,
    /// Without the program itself. They are passed as they are: no shell sees them.
    pub args: Vec<OsString>,
    /// Beyond what every program gets; names that [`check_env_name`] refuses are refused.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub cwd: PathBuf,
    /// What the program sees as `HOME` and `TMPDIR`.
    pub home: PathBuf,
    /// None: it reads the end at once.
    pub stdin: Option<Stdin>,
    /// A new file that standard output goes to, byte for byte; else its lines are reported.
    pub stdout_to: Option<PathBuf>,
    /// Time on the clock, from start to end.
    pub timeout: Duration,
    /// Bounds.
    pub limits: Limits,
    /// Folder of shared objects beside the program, for the loader. See [`crate::library_dir`].
    pub library_dir: Option<PathBuf>,
    /// Told by whoever reads its lines, each time that the program's work has gone on.
    pub progress: Clock,
    /// Folders that it writes to and that are looked at while it runs; see [`Limits::written_bytes`].
    pub written: Vec<PathBuf>,
    /// What it may reach. None: whatever the worker's user may.
    pub sandbox: Option<SandboxPolicy>,
    /// The network that it runs in. None: the worker's.
    pub network: Option<Network>,
}

impl Invocation {
    /// A run of `program` with nothing special, in `dir`, which is also its home.
    #[must_use]
    pub fn new(program: PathBuf, args: Vec<OsString>, dir: PathBuf, timeout: Duration) -> Self {
        Self {
            program,
            args,
            env: Vec::new(),
            home: dir.clone(),
            cwd: dir,
            stdin: None,
            stdout_to: None,
            timeout,
            limits: Limits::default(),
            library_dir: None,
            progress: Clock::default(),
            written: Vec::new(),
            sandbox: None,
            network: None,
        }
    }

    /// What can be said before anything is spawned.
    pub(crate) fn check(&self) -> Result<(), RunError> {
        if !self.program.is_absolute() {
            return Err(RunError::RelativeProgram {
                program: self.program.clone(),
            });
        }
        let bytes: usize = self
            .args
            .iter()
            .map(|argument| argument.len().saturating_add(1))
            .sum();
        if self.args.len() > self.limits.arguments || bytes > self.limits.argument_bytes {
            return Err(RunError::TooManyArguments {
                count: self.args.len(),
                bytes,
            });
        }
        if let Some(index) = self
            .args
            .iter()
            .position(|argument| argument.as_bytes().contains(&0))
        {
            return Err(RunError::NulInArgument { index });
        }
        for (name, value) in &self.env {
            check_env_name(name)?;
            check_env_value(name, value)?;
        }
        Ok(())
    }
}
