//! Compiling in a child process: this very program, started with [`ARGUMENT`].
//!
//! A crafted component can make a compiler work for minutes and take all memory. In a child that costs the child: it has
//! a limit on memory and computing time of its own, the worker ends it at the time limit, and reads no more than the limit
//! on its output. The child yields to everybody else, has none of the worker's capabilities and dies with the worker. Nothing of
//! a plugin runs in it.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::refusal::{Broken, Rule};
use crate::sandbox;

/// The argument that has the program compile instead of doing anything else.
pub(crate) const ARGUMENT: &str = "compile-plugin";

/// Computing time that it may take, in seconds: the limit that judges, the same under any load. An interpreter of 18 MB takes 8 s.
const CPU_SECONDS: u64 = 30;
/// How many times longer the clock may run. On a machine whose cores are busy the child gets a fraction of one.
const WALL_FACTOR: u64 = 8;
/// Memory that the child may write to. That interpreter takes 400 MB.
const MEMORY: u64 = 1 << 30;
/// The largest result: three times the largest file there may be.
const MAX_OUTPUT: u64 = 512 << 20;
/// The largest input.
const MAX_INPUT: u64 = 128 << 20;
/// How much of its complaint is kept.
const MAX_COMPLAINT: u64 = 2048;
/// Between two looks at the child.
const POLL: Duration = Duration::from_millis(3);

/// Starts children that compile.
#[derive(Debug, Clone)]
pub struct Compiler {
    program: PathBuf,
    cpu_seconds: u64,
}

impl Compiler {
    /// Children of this very program, whose `main` must call [`compile_as_child`] when [`is_child`].
    pub fn this_program() -> std::io::Result<Self> {
        // By this link a program that was replaced on disk still starts as what runs.
        let own = PathBuf::from("/proc/self/exe");
        let program = if own.exists() {
            own
        } else {
            std::env::current_exe()?
        };
        Ok(Self {
            program,
            cpu_seconds: cpu_seconds(),
        })
    }

    fn wall(&self) -> Duration {
        Duration::from_secs(self.cpu_seconds * WALL_FACTOR)
    }

    /// The machine code of a component, as the engine writes it. Blocks.
    pub(crate) fn compile(&self, bytes: &[u8]) -> Result<Vec<u8>, Broken> {
        let refused = |why: String| Rule::Compiles.broken(why);
        let mut child = Command::new(&self.program)
            .arg(ARGUMENT)
            .arg(self.cpu_seconds.to_string())
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| {
                Rule::Compiles.unmet(format!("the compiler cannot be started: {error}"))
            })?;
        let (input, output, complaint) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let ended = thread::scope(|scope| {
            scope.spawn(move || {
                // A child that ended early does not read; its end says why.
                let _ = input.map(|mut input| input.write_all(bytes));
            });
            let output = scope.spawn(move || read(output, MAX_OUTPUT + 1));
            let complaint = scope.spawn(move || read(complaint, MAX_COMPLAINT));
            let ended = wait(&mut child, self.wall());
            let output = output.join().unwrap_or_default();
            (ended, output, complaint.join().unwrap_or_default())
        });
        match ended {
            (Ended::Well, output, _) if output.len() as u64 <= MAX_OUTPUT => Ok(output),
            (Ended::Well, ..) => Err(refused(format!(
                "compiles to more than {} MiB",
                MAX_OUTPUT >> 20
            ))),
            (Ended::Badly, _, complaint) => {
                let said = String::from_utf8_lossy(&complaint).trim().to_owned();
                Err(refused(said))
            }
            // It had so little of the machine that its computing time was not even used up.
            (Ended::Late, ..) => Err(Rule::Compiles.unmet(format!(
                "compiling it did not end within {} s",
                self.wall().as_secs()
            ))),
            (Ended::Killed(why), ..) => Err(refused(format!(
                "compiling it was ended: {why}; it takes more than {} MiB or {} s of computing",
                MEMORY >> 20,
                self.cpu_seconds
            ))),
        }
    }
}

/// Tests of the limit need not wait for it.
fn cpu_seconds() -> u64 {
    #[cfg(debug_assertions)]
    if let Some(seconds) = std::env::var("STUDIO_WORKER_COMPILE_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
    {
        return seconds;
    }
    CPU_SECONDS
}

enum Ended {
    Well,
    Badly,
    Late,
    Killed(String),
}

fn wait(child: &mut Child, limit: Duration) -> Ended {
    let until = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ended::Well,
            Ok(Some(status)) if status.code().is_some() => return Ended::Badly,
            Ok(Some(status)) => return Ended::Killed(status.to_string()),
            Ok(None) if Instant::now() < until => thread::sleep(POLL),
            Ok(None) | Err(_) => {
                // It may have ended by itself in between.
                let _ = child.kill();
                let _ = child.wait();
                return Ended::Late;
            }
        }
    }
}

fn read(from: Option<impl Read>, limit: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut from) = from {
        // What could not be read is missing from the result, and that is found by its seal or its decoder.
        let _ = from.by_ref().take(limit).read_to_end(&mut bytes);
    }
    bytes
}

/// Whether this process was started to compile.
pub fn is_child(first_argument: Option<&OsStr>) -> bool {
    first_argument.is_some_and(|argument| argument == ARGUMENT)
}

/// What such a process does: a component from standard input, its machine code to standard output.
pub fn compile_as_child() -> ExitCode {
    match compile() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // Whoever started it reads this; where nobody does, there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "{why}");
            ExitCode::FAILURE
        }
    }
}

fn compile() -> Result<(), String> {
    confine().map_err(|error| format!("the compiler's limits cannot be set: {error}"))?;
    let mut bytes = Vec::new();
    std::io::stdin()
        .take(MAX_INPUT)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("the component cannot be read: {error}"))?;
    let engine = sandbox::compiling_engine().map_err(|error| format!("{error:#}"))?;
    let code = engine
        .precompile_component(&bytes)
        .map_err(|error| format!("{error:#}"))?;
    std::io::stdout()
        .write_all(&code)
        .map_err(|error| format!("the result cannot be written: {error}"))
}

#[cfg(unix)]
fn confine() -> std::io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let limit = |most: u64| Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // Reserved address space does not count, written memory does.
    setrlimit(Resource::Data, limit(MEMORY))?;
    let asked = std::env::args().nth(2).and_then(|text| text.parse().ok());
    setrlimit(Resource::Cpu, limit(asked.unwrap_or(CPU_SECONDS)))?;
    setrlimit(Resource::Core, limit(0))?;
    setrlimit(Resource::Fsize, limit(0))?;
    rustix::process::nice(5)?;
    #[cfg(target_os = "linux")]
    drop_capabilities()?;
    Ok(())
}

/// A worker that may make network namespaces by capabilities of its service compiles without them, and so does root's. Of this
/// thread: nothing has made another yet.
#[cfg(target_os = "linux")]
fn drop_capabilities() -> std::io::Result<()> {
    use rustix::thread::{CapabilitySet, CapabilitySets};
    const NONE: CapabilitySets = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    // What it would execute does not get them back.
    rustix::thread::set_no_new_privs(true)?;
    // Not where there are none: a service may be kept from changing any. The ambient ones go with those that are permitted.
    if rustix::thread::capabilities(None)? != NONE {
        rustix::thread::set_capabilities(None, NONE)?;
    }
    Ok(())
}

#[cfg(not(unix))]
fn confine() -> std::io::Result<()> {
    // The time limit is the worker's; a limit on memory needs a job object, which this build does not have.
    Ok(())
}
