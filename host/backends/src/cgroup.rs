//! A control group per run, where the worker was given a part of the hierarchy for its own: the kernel holds the program
//! and all its descendants to their memory and number, counts whom it ended for want of memory, and ends them all by one word.
//!
//! Version 2 only. A group with processes in it cannot divide memory among groups below, so the worker first goes down into
//! a leaf of its own. Whether the hierarchy is ours to use is asked before anything is changed; whatever fails is undone,
//! and programs are then held by looking (see [`crate::watch`]).

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::invocation::Limits;

/// What our groups' names begin with.
const NAME: &str = "studio-worker";
/// Set by the system's manager on what it hands over.
const DELEGATED: [&str; 2] = ["trusted.delegate", "user.delegate"];
/// How long a group may take to empty after its processes were killed. Longer holds up the job's end for a process that a
/// driver holds; shorter leaves an empty group, which the next start removes.
const GOING: Duration = Duration::from_secs(2);
/// Between two looks.
const AGAIN: Duration = Duration::from_millis(2);

static KEEPER: OnceLock<MemoryKeeper> = OnceLock::new();

/// Who holds programs to their memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryKeeper {
    /// The kernel, by a control group per run below this one.
    ControlGroup(PathBuf),
    /// The worker, by looking.
    Watchdog(NotDelegated),
}

impl MemoryKeeper {
    /// Whether it is the kernel, at once and without gaps.
    #[must_use]
    pub fn is_kernel(&self) -> bool {
        matches!(self, Self::ControlGroup(_))
    }
}

impl fmt::Display for MemoryKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ControlGroup(base) => {
                write!(f, "a control group per run, below {}", base.display())
            }
            Self::Watchdog(why) => write!(f, "the worker, which looks five times a second: {why}"),
        }
    }
}

/// Why there is no control group to use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotDelegated {
    /// The system has none, or the worker is outside of what it sees of them.
    #[error("no control groups of version 2 here")]
    None,
    /// They are there, and memory is not among what they divide.
    #[error("the control group {} has no memory controller; start the worker as a service with Delegate=yes", .group.display())]
    NoMemory {
        /// The worker's group.
        group: PathBuf,
    },
    /// It is somebody else's.
    #[error("the control group {} is not the worker's to divide; start the worker as a service with Delegate=yes", .group.display())]
    Foreign {
        /// The worker's group.
        group: PathBuf,
    },
    /// Others are in it.
    #[error("other processes are in the worker's control group {}; start the worker as a service of its own with Delegate=yes", .group.display())]
    Company {
        /// The worker's group.
        group: PathBuf,
    },
    /// The system refused.
    #[error("the control group {} cannot be divided ({why}); start the worker as a service of its own with Delegate=yes", .group.display())]
    Refused {
        /// The worker's group.
        group: PathBuf,
        /// What it said, of which step.
        why: String,
    },
}

/// Who would hold programs of a worker that is started as this process was. Changes nothing.
#[must_use]
pub fn memory_keeper() -> MemoryKeeper {
    KEEPER
        .get()
        .cloned()
        .unwrap_or_else(|| match base(Path::new("/proc")) {
            Ok(base) => MemoryKeeper::ControlGroup(base),
            Err(why) => MemoryKeeper::Watchdog(why),
        })
}

/// Takes the control group that was handed over into use, once: moves this process into a leaf of it, and removes what an
/// earlier worker of the same `installation` left in it, where it is known to be gone. To be called before any program is
/// started.
pub(crate) fn take(installation: &str, is_gone: bool) {
    KEEPER.get_or_init(
        || match base(Path::new("/proc")).and_then(|base| divide(&base)) {
            Ok(base) => {
                if is_gone {
                    sweep(&base, installation);
                }
                MemoryKeeper::ControlGroup(base)
            }
            Err(why) => MemoryKeeper::Watchdog(why),
        },
    );
}

/// The group that may be divided: the worker's own, where it was handed over and knows memory.
fn base(proc: &Path) -> Result<PathBuf, NotDelegated> {
    let own = own(proc).ok_or(NotDelegated::None)?;
    // A worker that was started by another one, or again in the same process, is in a leaf already.
    let leaf = own
        .file_name()
        .is_some_and(|name| name == leaf_name().as_str());
    let group = match own.parent() {
        Some(parent) if leaf => parent.to_owned(),
        _ => own,
    };
    if !lists(&group.join("cgroup.controllers"), "memory") {
        return Err(NotDelegated::NoMemory { group });
    }
    let writable = |name: &str| {
        let access = rustix::fs::Access::WRITE_OK;
        rustix::fs::access(group.join(name), access).is_ok()
    };
    let ours = writable("") && writable("cgroup.procs") && writable("cgroup.subtree_control");
    if !ours || !is_handed_over(&group) {
        return Err(NotDelegated::Foreign { group });
    }
    if has_company(&group) {
        return Err(NotDelegated::Company { group });
    }
    Ok(group)
}

/// Whether other processes are in the group itself. It could not be divided then, unless it is the root of all.
fn has_company(group: &Path) -> bool {
    let own = std::process::id().to_string();
    let is_root = !group.join("cgroup.type").exists();
    let members = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    !is_root && members.lines().any(|pid| pid != own)
}

/// Where no manager rules the hierarchy, as in most containers, what can be written is ours.
fn is_handed_over(group: &Path) -> bool {
    !Path::new("/run/systemd/system").is_dir() || is_marked(group) || is_given(group)
}

/// What can be written may still be the manager's to divide: of root that is everything, of others the groups of a manager of their
/// own. So its mark decides.
fn is_marked(group: &Path) -> bool {
    DELEGATED.iter().any(|name| {
        let mut value = [0_u8; 8];
        rustix::fs::getxattr(group, *name, &mut value).is_ok()
    })
}

/// Managers before the mark that everybody can read (systemd 251) are known by what they did: a group that is ours and lies in one
/// that is not was given to us.
fn is_given(group: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let own = rustix::process::geteuid();
    let is_ours = |path: &Path| fs::metadata(path).is_ok_and(|it| it.uid() == own.as_raw());
    !own.is_root() && is_ours(group) && !group.parent().is_some_and(is_ours)
}

/// This process's group as a folder, by where the hierarchy is mounted.
fn own(proc: &Path) -> Option<PathBuf> {
    let groups = fs::read_to_string(proc.join("self/cgroup")).ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mounts = fs::read_to_string(proc.join("self/mountinfo")).ok()?;
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        if kind.split(' ').next() != Some("cgroup2") {
            return None;
        }
        // What is mounted may be a part of the hierarchy only.
        let below = Path::new(own).strip_prefix(root).ok()?;
        let plain = below
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        // A blank in the path is written as a number, and nobody has one there.
        (plain && !place.contains('\\')).then(|| Path::new(place).join(below))
    })
}

/// Writes to a file of the hierarchy, which is there or not: none can be made.
fn set(path: &Path, value: &str) -> io::Result<()> {
    File::options()
        .write(true)
        .open(path)?
        .write_all(value.as_bytes())
}

fn lists(path: &Path, word: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.split_whitespace().any(|it| it == word))
}

/// Moves this process into a leaf and lets memory be divided among the groups beside it, and the number of tasks where the
/// hierarchy counts them.
fn divide(base: &Path) -> Result<PathBuf, NotDelegated> {
    let refused = |step: &str, error: io::Error| NotDelegated::Refused {
        group: base.to_owned(),
        why: format!("{step}: {error}"),
    };
    let leaf = base.join(leaf_name());
    match fs::create_dir(&leaf) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(refused("making a group", error));
        }
        _ => {}
    }
    let enter = |group: &Path| {
        let own = std::process::id().to_string();
        set(&group.join("cgroup.procs"), &own)
    };
    let control = base.join("cgroup.subtree_control");
    // In the reverse of the order in which it is done: a group that divides memory takes no process.
    let undo = |divided: bool| {
        if divided {
            let _ = set(&control, "-memory");
            let _ = set(&control, "-pids");
        }
        let _ = enter(base);
        let _ = fs::remove_dir(&leaf);
    };
    let before = lists(&control, "memory");
    let entered = enter(&leaf).map_err(|error| refused("moving the worker into it", error));
    let divided = entered.and_then(|()| match before {
        true => Ok(()),
        false => set(&control, "+memory").map_err(|error| refused("dividing memory", error)),
    });
    if let Err(why) = divided {
        undo(false);
        return Err(why);
    }
    // Where it cannot be, tasks are counted by looking.
    let _ = set(&control, "+pids");
    // Shows that the groups can do what they are for.
    let name = format!("probe.{}", std::process::id());
    match RunGroup::make(base, &name, 1 << 30, 64) {
        Ok(_removed) => Ok(base.to_owned()),
        Err(error) => {
            undo(!before);
            Err(refused("making a group with a limit", error))
        }
    }
}

fn leaf_name() -> String {
    format!("{NAME}.self")
}

/// Ends and removes the groups of runs whose worker is gone.
fn sweep(base: &Path, installation: &str) {
    let prefix = format!("{NAME}.{installation}.");
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let is_ours = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(&prefix));
        if is_ours && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            empty(&entry.path());
        }
    }
}

/// The group of one run. Ended and removed when it is dropped.
#[derive(Debug)]
pub(crate) struct RunGroup {
    path: PathBuf,
    /// Whether the kernel holds its tasks to their number, too.
    holds_tasks: bool,
}

impl RunGroup {
    /// A group for a run of this name (`INSTALLATION.RUN`), holding it to its bounds, and its entrance. None where the
    /// worker has no groups, or the run no bound on memory. Where none can be made any more, this run is held by looking, which is
    /// said.
    pub(crate) fn or_looking(name: &str, limits: &Limits) -> Option<(Self, OwnedFd)> {
        let keeper = KEEPER.get();
        let (Some(MemoryKeeper::ControlGroup(base)), Some(bytes)) = (keeper, limits.memory_bytes)
        else {
            return None;
        };
        Self::below(base, name, bytes, limits.tasks)
    }

    fn below(base: &Path, name: &str, bytes: u64, tasks: u64) -> Option<(Self, OwnedFd)> {
        let made = Self::make(base, name, bytes, tasks);
        match made.and_then(|group| Ok((group.entrance()?, group))) {
            Ok((entrance, group)) => Some((group, entrance)),
            Err(error) => {
                tracing::warn!(target: "job", %error, "no control group can be made for a program: the worker looks at its memory itself. Restart the worker, or set Delegate=yes in its service");
                None
            }
        }
    }

    fn make(base: &Path, name: &str, bytes: u64, tasks: u64) -> io::Result<Self> {
        let path = base.join(format!("{NAME}.{name}"));
        let about =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        fs::create_dir(&path).map_err(about)?;
        let mut group = Self {
            path: path.clone(),
            holds_tasks: false,
        };
        set(&path.join("memory.max"), &bytes.to_string()).map_err(about)?;
        // All of it goes, or what is left waits for the part that went.
        set(&path.join("memory.oom.group"), "1").map_err(about)?;
        // Beyond the bound it would go on, slowly; where there is no swap there is nothing to say.
        match set(&path.join("memory.swap.max"), "0") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(about(error)),
            _ => {}
        }
        group.holds_tasks = set(&path.join("pids.max"), &tasks.to_string()).is_ok();
        Ok(group)
    }

    /// Whether the kernel refuses it more tasks than it may have.
    pub(crate) fn holds_tasks(&self) -> bool {
        self.holds_tasks
    }

    /// The file by which the forked child joins it: a plain write, so that it may be done between fork and exec.
    pub(crate) fn entrance(&self) -> io::Result<OwnedFd> {
        let file = File::options()
            .write(true)
            .open(self.path.join("cgroup.procs"))?;
        Ok(file.into())
    }

    /// Whether the kernel ended anybody in it for want of memory.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        let text = fs::read_to_string(self.path.join("memory.events")).unwrap_or_default();
        crate::memory::counter(&text, "oom_kill ").is_some_and(|count| count > 0)
    }

    /// Kills all that is in it.
    pub(crate) fn kill(&self) {
        kill(&self.path);
    }
}

impl Drop for RunGroup {
    fn drop(&mut self) {
        empty(&self.path);
    }
}

fn kill(path: &Path) {
    if set(&path.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    // Linux before 5.14.
    let members = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    let members = members
        .lines()
        .filter_map(|pid| rustix::process::Pid::from_raw(pid.parse().ok()?));
    for pid in members {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// Kills what is in a group and removes it, groups below it first.
fn empty(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            empty(&entry.path());
        }
    }
    let deadline = Instant::now() + GOING;
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) if Instant::now() >= deadline => {
                tracing::warn!(target: "job", group = %path.display(), %error, "a control group is not empty; the next start removes it");
                return;
            }
            Err(_) => kill(path),
        }
        std::thread::sleep(AGAIN);
    }
}

#[cfg(test)]
mod tests;
