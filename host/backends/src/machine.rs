//! What this machine has: GPU memory and main memory.
//!
//! A model must fit on one GPU, so what counts is the largest one, not the sum. Each way of asking fails on some machine
//! (a driver that stopped offering the number has made workers report 0), so several are tried, and where none answers
//! that is said: unknown is `None`, never 0.

use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::ending::{Exit, RunError};
use crate::invocation::Invocation;
use crate::processes;
use crate::run::run;

/// How long a measurement stands. Longer takes offers that do not fit any more; shorter runs a program for every
/// heartbeat.
const FRESH: Duration = Duration::from_secs(2);
/// How long the driver's program may take. A driver in trouble hangs for ever.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the driver's program is left alone after it failed.
const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// As its driver calls it.
    pub name: String,
    /// Memory in bytes.
    pub total: u64,
    /// Of these, free now; none where the driver does not say.
    pub free: Option<u64>,
}

/// The machine at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MachineState {
    /// The GPU with the most memory; none where there is none or nothing can be asked.
    pub gpu: Option<Gpu>,
    /// What is wrong with the NVIDIA driver, where its program is there and fails.
    pub gpu_problem: Option<String>,
    /// Main memory that programs can still have, in bytes.
    pub host_available: Option<u64>,
}

/// Bytes in GiB, as the studio counts memory.
#[must_use]
#[allow(
    clippy::cast_precision_loss,
    reason = "memory sizes are far below 2^52 pages and shown with one digit"
)]
pub fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

/// Measures the machine, at most every two seconds.
#[derive(Debug)]
pub struct Machine {
    /// Where the NVIDIA driver's program may be.
    nvidia_smi: Vec<PathBuf>,
    sys: PathBuf,
    proc: PathBuf,
    work: PathBuf,
    last: Mutex<Option<(Instant, MachineState)>>,
    failed: Mutex<Option<Failed>>,
    /// Held while the drivers are asked: whoever comes meanwhile gets that answer.
    asking: tokio::sync::Mutex<()>,
}

/// How the NVIDIA driver's program failed.
#[derive(Debug, Clone)]
struct Failed {
    at: Instant,
    problem: String,
    /// The process, where not even KILL ended it: the driver holds it in the kernel.
    stuck: Option<i32>,
}

impl Failed {
    /// Whether the program is not to be asked yet. One more beside a stuck one would be stuck too, and take a process and a
    /// thread for good.
    fn holds(&self) -> bool {
        self.at.elapsed() < AFTER_FAILURE || self.stuck.is_some_and(processes::is_there)
    }
}

impl Machine {
    /// `work` is a directory that the driver's program sees as its own.
    #[must_use]
    pub fn new(work: PathBuf) -> Self {
        let places = [
            "/usr/bin/nvidia-smi",
            "/usr/local/bin/nvidia-smi",
            "/opt/bin/nvidia-smi",
            "/usr/lib/wsl/lib/nvidia-smi",
        ];
        let nvidia_smi = places.iter().map(PathBuf::from);
        Self::with_roots(nvidia_smi, "/sys".into(), "/proc".into(), work)
    }

    /// For tests: other places to look at.
    #[must_use]
    pub fn with_roots(
        nvidia_smi: impl IntoIterator<Item = PathBuf>,
        sys: PathBuf,
        proc: PathBuf,
        work: PathBuf,
    ) -> Self {
        Self {
            nvidia_smi: nvidia_smi.into_iter().collect(),
            sys,
            proc,
            work,
            last: Mutex::default(),
            failed: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        }
    }

    /// The machine now, or as it was within the last two seconds.
    pub async fn state(&self, cancel: &CancellationToken) -> MachineState {
        if let Some(state) = self.fresh() {
            return state;
        }
        let _asking = tokio::select! {
            biased;
            () = cancel.cancelled() => None,
            asking = self.asking.lock() => Some(asking),
        };
        if let Some(state) = self.fresh() {
            return state;
        }
        let (gpus, gpu_problem) = match self.nvidia(cancel).await {
            Ok(gpus) => (gpus, None),
            Err(problem) => (Vec::new(), Some(problem)),
        };
        let gpus = gpus
            .into_iter()
            .chain(self.amd())
            .chain(apple(&self.work, cancel).await);
        let state = MachineState {
            gpu: gpus.max_by_key(|gpu| gpu.total),
            gpu_problem,
            host_available: self.host_available(),
        };
        // Whoever was called away has not waited for the answer.
        if !cancel.is_cancelled() {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) =
                Some((Instant::now(), state.clone()));
        }
        state
    }

    fn fresh(&self) -> Option<MachineState> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref()
            .filter(|(at, _)| at.elapsed() < FRESH)
            .map(|(_, state)| state.clone())
    }

    /// The GPUs that the driver names; what is wrong where its program fails, or failed a moment ago.
    async fn nvidia(&self, cancel: &CancellationToken) -> Result<Vec<Gpu>, String> {
        // Looked for each time: a driver may be installed while the worker runs.
        let Some(program) = self.nvidia_smi.iter().find(|path| path.is_file()) else {
            return Ok(Vec::new());
        };
        if let Some(problem) = self.known_problem() {
            return Err(problem);
        }
        let (problem, stuck) = match self.ask_nvidia(program, cancel).await {
            Ok(exit) if exit.code == Some(0) => {
                return Ok(exit.stdout_tail.lines().filter_map(parse_nvidia).collect());
            }
            Ok(exit) if exit.cancelled => return Ok(Vec::new()),
            Ok(exit) if exit.timed_out => ("it does not answer".to_owned(), None),
            Ok(exit) => {
                let said = [exit.stdout_tail, exit.stderr_tail].concat();
                (
                    said.lines().next_back().unwrap_or_default().to_owned(),
                    None,
                )
            }
            Err(RunError::Unkillable { pid }) => (
                format!(
                    "it hangs in the driver and cannot be ended (process {pid}), so it is not asked again until that is gone: restart the machine"
                ),
                Some(pid),
            ),
            Err(error) => (error.to_string(), None),
        };
        tracing::warn!(program = %program.display(), problem, "the NVIDIA driver's program fails; GPU memory is unknown");
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Failed {
            at: Instant::now(),
            problem: problem.clone(),
            stuck,
        });
        Err(problem)
    }

    /// What was wrong a moment ago, or is as long as its program is stuck.
    fn known_problem(&self) -> Option<String> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = failed.as_ref().filter(|failed| failed.holds());
        failed.map(|failed| failed.problem.clone())
    }

    async fn ask_nvidia(
        &self,
        program: &Path,
        cancel: &CancellationToken,
    ) -> Result<Exit, RunError> {
        let args = [
            "--query-gpu=name,memory.total,memory.free",
            "--format=csv,noheader,nounits",
        ];
        let args = args.into_iter().map(OsString::from).collect();
        let mut invocation = Invocation::new(program.to_owned(), args, self.work.clone(), PATIENCE);
        invocation.limits.grace = Duration::from_secs(1);
        let (lines, _) = mpsc::channel(1);
        run(&invocation, lines, cancel).await
    }

    fn amd(&self) -> Vec<Gpu> {
        let cards = fs::read_dir(self.sys.join("class/drm"))
            .into_iter()
            .flatten()
            .flatten();
        let device = |entry: fs::DirEntry| {
            // `card0`, not its connectors `card0-DP-1`.
            let name = entry.file_name().into_string().ok()?;
            let number = name.strip_prefix("card")?;
            number
                .chars()
                .all(|c| c.is_ascii_digit())
                .then(|| entry.path().join("device"))
        };
        let gpu = |dir: PathBuf| {
            let total = number(&dir.join("mem_info_vram_total"))?;
            let used = number(&dir.join("mem_info_vram_used"));
            let name = fs::read_to_string(dir.join("product_name")).unwrap_or_default();
            let name = if name.trim().is_empty() {
                "AMD GPU"
            } else {
                name.trim()
            };
            Some(Gpu {
                name: name.to_owned(),
                total,
                free: used.map(|used| total.saturating_sub(used)),
            })
        };
        cards.filter_map(device).filter_map(gpu).collect()
    }

    /// The least of what the machine has free and what the control groups that the worker is in leave it.
    fn host_available(&self) -> Option<u64> {
        let machine = self.machine_available();
        let groups = self.control_groups();
        groups
            .into_iter()
            .filter_map(|dir| room_in(&dir))
            .chain(machine)
            .min()
    }

    fn machine_available(&self) -> Option<u64> {
        let text = fs::read_to_string(self.proc.join("meminfo")).ok()?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("MemAvailable:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    }

    /// The folders of the worker's own group and of those around it, where the unified hierarchy is mounted.
    fn control_groups(&self) -> Vec<PathBuf> {
        let text = fs::read_to_string(self.proc.join("self/cgroup")).unwrap_or_default();
        let Some(own) = text.lines().find_map(|line| line.strip_prefix("0::/")) else {
            return Vec::new();
        };
        let root = self.sys.join("fs/cgroup");
        let own = Path::new(own);
        // A group that lies outside what this container sees is named with `..`.
        let plain = own
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        own.ancestors()
            .filter(|_| plain)
            .map(|part| root.join(part))
            .collect()
    }
}

/// What a control group may still take: its limit without what cannot be given back. None where it has no limit.
fn room_in(group: &Path) -> Option<u64> {
    let limit = number(&group.join("memory.max"))?;
    let stat = fs::read_to_string(group.join("memory.stat")).ok()?;
    let anonymous = stat.lines().find_map(|line| line.strip_prefix("anon "))?;
    Some(limit.saturating_sub(anonymous.trim().parse().ok()?))
}

/// Three quarters of the memory that processor and GPU share: what the system lets one program's GPU work have.
#[cfg(target_os = "macos")]
async fn apple(work: &Path, cancel: &CancellationToken) -> Option<Gpu> {
    let args = ["-n", "hw.memsize"]
        .into_iter()
        .map(OsString::from)
        .collect();
    let program = PathBuf::from("/usr/sbin/sysctl");
    let invocation = Invocation::new(program, args, work.to_owned(), PATIENCE);
    let (lines, _) = mpsc::channel(1);
    let exit = run(&invocation, lines, cancel).await.ok()?;
    let memory: u64 = exit.stdout_tail.trim().parse().ok()?;
    Some(Gpu {
        name: "Apple GPU".to_owned(),
        total: memory / 4 * 3,
        free: None,
    })
}

#[cfg(not(target_os = "macos"))]
async fn apple(_work: &Path, _cancel: &CancellationToken) -> Option<Gpu> {
    None
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// `NVIDIA GeForce RTX 3090, 24576, 23871`, in MiB. Where the driver says `[N/A]` for free, that is unknown.
fn parse_nvidia(line: &str) -> Option<Gpu> {
    let mut fields = line.rsplitn(3, ',').map(str::trim);
    let (free, total, name) = (fields.next()?, fields.next()?, fields.next()?);
    let bytes = |text: &str| text.parse::<u64>().ok()?.checked_mul(1 << 20);
    Some(Gpu {
        name: name.to_owned(),
        total: bytes(total)?,
        free: bytes(free),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A machine whose driver's program writes a line each time it is asked.
    fn machine(dir: &Path) -> Machine {
        let smi = dir.join("nvidia-smi");
        let text = "#!/bin/sh\necho x >> \"${0%/*}/asked\"\nsleep 0.1\necho 'A, 1024, 512'\n";
        fs::write(&smi, text).unwrap();
        fs::set_permissions(&smi, fs::Permissions::from_mode(0o755)).unwrap();
        let nowhere = dir.join("nowhere");
        Machine::with_roots([smi], nowhere.clone(), nowhere, dir.to_owned())
    }

    fn asked(dir: &Path) -> usize {
        let lines = fs::read_to_string(dir.join("asked")).unwrap_or_default();
        lines.lines().count()
    }

    #[tokio::test]
    async fn no_other_is_started_beside_one_that_cannot_be_ended() {
        let dir = tempfile::tempdir().unwrap();
        let machine = machine(dir.path());
        // Stands for one in the kernel's hands: it is there, and stays.
        let mut stuck = std::process::Command::new("sleep");
        let mut stuck = stuck.arg("600").spawn().unwrap();
        let long_ago = Instant::now().checked_sub(AFTER_FAILURE).unwrap();
        *machine.failed.lock().unwrap() = Some(Failed {
            at: long_ago,
            problem: "it hangs".to_owned(),
            stuck: i32::try_from(stuck.id()).ok(),
        });
        let never = CancellationToken::new();
        let state = machine.state(&never).await;
        assert_eq!(
            (state.gpu, state.gpu_problem.as_deref()),
            (None, Some("it hangs"))
        );
        assert_eq!(asked(dir.path()), 0);
        stuck.kill().unwrap();
        stuck.wait().unwrap();
        *machine.last.lock().unwrap() = None;
        assert!(machine.state(&never).await.gpu.is_some());
        assert_eq!(asked(dir.path()), 1);
    }

    #[tokio::test]
    async fn who_asks_while_somebody_asks_gets_that_answer() {
        let dir = tempfile::tempdir().unwrap();
        let machine = machine(dir.path());
        let never = CancellationToken::new();
        let cancelled = CancellationToken::new();
        cancelled.cancel();
        // One that was called away leaves no answer behind.
        assert_eq!(machine.state(&cancelled).await.gpu, None);
        let (a, b) = tokio::join!(machine.state(&never), machine.state(&never));
        assert!(a.gpu.is_some());
        assert_eq!(a, b);
        assert_eq!(asked(dir.path()), 1);
    }
}
