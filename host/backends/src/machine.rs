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

use crate::invocation::Invocation;
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
    failed: Mutex<Option<Instant>>,
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
        }
    }

    /// The machine now, or as it was within the last two seconds.
    pub async fn state(&self, cancel: &CancellationToken) -> MachineState {
        let last = self
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some((at, state)) = last
            && at.elapsed() < FRESH
        {
            return state;
        }
        let gpus = self.nvidia(cancel).await.into_iter();
        let gpus = gpus
            .chain(self.amd())
            .chain(apple(&self.work, cancel).await);
        let state = MachineState {
            gpu: gpus.max_by_key(|gpu| gpu.total),
            host_available: self.host_available(),
        };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((Instant::now(), state.clone()));
        state
    }

    async fn nvidia(&self, cancel: &CancellationToken) -> Vec<Gpu> {
        // Looked for each time: a driver may be installed while the worker runs.
        let Some(program) = self.nvidia_smi.iter().find(|path| path.is_file()) else {
            return Vec::new();
        };
        let failed = *self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.is_some_and(|at| at.elapsed() < AFTER_FAILURE) {
            return Vec::new();
        }
        let args = [
            "--query-gpu=name,memory.total,memory.free",
            "--format=csv,noheader,nounits",
        ];
        let args = args.into_iter().map(OsString::from).collect();
        let mut invocation = Invocation::new(program.clone(), args, self.work.clone(), PATIENCE);
        invocation.limits.grace = Duration::from_secs(1);
        let (lines, _) = mpsc::channel(1);
        let problem = match run(&invocation, lines, cancel).await {
            Ok(exit) if exit.code == Some(0) => {
                return exit.stdout_tail.lines().filter_map(parse_nvidia).collect();
            }
            Ok(exit) if exit.cancelled => return Vec::new(),
            Ok(exit) if exit.timed_out => "it does not answer".to_owned(),
            Ok(exit) => [exit.stdout_tail, exit.stderr_tail]
                .concat()
                .lines()
                .next_back()
                .unwrap_or_default()
                .to_owned(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(program = %program.display(), problem, "the NVIDIA driver's program fails; GPU memory is unknown");
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Vec::new()
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
