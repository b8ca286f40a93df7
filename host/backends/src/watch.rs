//! Looks after a running program's limits: silence, progress, disk, memory, processes.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use worker_files::{Walk, walk};

use crate::cgroup::RunGroup;
use crate::ending::Stall;
use crate::invocation::Invocation;
use crate::processes;
use crate::running::Ended;

/// How often is looked. Smaller costs the worker more; larger lets a fast writer put more on the disk, and a fast
/// allocator take more memory, before it is ended.
const EVERY: Duration = Duration::from_millis(200);
/// Most files that are added up, and most folders in folders. A program that makes more has made too many.
const MOST_ENTRIES: u64 = 100_000;

/// When something last happened, for a task that happens to look. Cheap to clone; clones are one clock.
#[derive(Debug, Clone)]
pub struct Clock {
    /// What `since` counts from.
    began: Instant,
    /// Milliseconds from `began` to the last time, plus one; 0 for never.
    since: Arc<AtomicU64>,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            since: Arc::default(),
        }
    }
}

impl Clock {
    /// It happened now.
    pub fn now(&self) {
        let passed = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.since.store(passed + 1, Ordering::Relaxed);
    }

    /// When it last happened.
    fn last(&self) -> Option<Instant> {
        let passed = self.since.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.began + Duration::from_millis(passed))
    }
}

/// What is looked at because nobody else does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LookedAt {
    memory: bool,
    tasks: bool,
}

impl LookedAt {
    /// All of it, but for what the kernel holds by a control group.
    pub(crate) fn unless_held(group: Option<&RunGroup>) -> Self {
        Self {
            memory: group.is_none(),
            tasks: !group.is_some_and(RunGroup::holds_tasks),
        }
    }
}

/// The limits of one program.
pub(crate) struct Watch {
    tick: tokio::time::Interval,
    started: Instant,
    output: Clock,
    progress: Clock,
    silence: Option<Duration>,
    first_progress: Option<Duration>,
    next_progress: Option<Duration>,
    written: Vec<PathBuf>,
    written_bytes: u64,
    memory: Option<u64>,
    tasks: Option<u64>,
    group: i32,
    /// The look that goes on. Kept here, since whoever waits for it may be called away and come back.
    looking: Option<JoinHandle<Option<Ended>>>,
}

impl Watch {
    pub(crate) fn new(invocation: &Invocation, group: i32, looked_at: LookedAt) -> Self {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first comes at once: nothing can be over a limit yet.
        tick.reset();
        let limits = &invocation.limits;
        Self {
            tick,
            started: Instant::now(),
            output: Clock::default(),
            progress: invocation.progress.clone(),
            silence: limits.silence,
            first_progress: limits.first_progress,
            next_progress: limits.next_progress,
            written: invocation.written.clone(),
            written_bytes: limits.written_bytes,
            memory: limits.memory_bytes.filter(|_| looked_at.memory),
            tasks: looked_at.tasks.then_some(limits.tasks),
            group,
            looking: None,
        }
    }

    /// To be told whenever the program prints.
    pub(crate) fn output(&self) -> Clock {
        self.output.clone()
    }

    /// Comes back when a limit is reached, with which. May be dropped and called again: a look that goes on is waited for.
    pub(crate) async fn reached(&mut self) -> Ended {
        loop {
            if let Some(looking) = &mut self.looking {
                let looked = looking.await;
                self.looking = None;
                if let Ok(Some(ended)) = looked {
                    return ended;
                }
            }
            self.tick.tick().await;
            if let Some(stall) = self.stalled() {
                return Ended::Stalled(stall);
            }
            self.look();
        }
    }

    /// Begins to look at disk, memory and processes, where they are bounded.
    fn look(&mut self) {
        let (written, bound) = (self.written.clone(), self.written_bytes);
        let (group, memory, tasks) = (self.group, self.memory, self.tasks);
        if written.is_empty() && memory.is_none() && tasks.is_none() {
            return;
        }
        self.looking = Some(tokio::task::spawn_blocking(move || {
            // First of all: the more there are, the longer takes all else.
            if memory.is_some() || tasks.is_some() {
                let held = processes::held_by_group(group);
                if tasks.is_some_and(|most| held.tasks > most) {
                    return Some(Ended::TooManyTasks);
                }
                if memory.is_some_and(|most| held.memory > most) {
                    return Some(Ended::TooMuchMemory);
                }
            }
            (!written.is_empty() && is_over(&written, group, bound)).then_some(Ended::TooMuchDisk)
        }));
    }

    fn stalled(&self) -> Option<Stall> {
        let over = |limit: Option<Duration>, last: Option<Instant>| {
            limit.is_some_and(|limit| last.unwrap_or(self.started).elapsed() > limit)
        };
        let progress = self.progress.last();
        if over(self.silence, self.output.last()) {
            Some(Stall::Silent)
        } else if progress.is_none() && over(self.first_progress, None) {
            Some(Stall::Starting)
        } else if progress.is_some() && over(self.next_progress, progress) {
            Some(Stall::Working)
        } else {
            None
        }
    }
}

/// Whether the folders hold more than `bound` bytes, files that were deleted but are still open in the group counted.
fn is_over(folders: &[PathBuf], group: i32, bound: u64) -> bool {
    let mut sum = Sum {
        bytes: 0,
        left: MOST_ENTRIES,
    };
    let fits = folders.iter().all(|folder| sum.add(folder));
    let deleted = processes::deleted_bytes_of_group(group);
    !fits || sum.bytes.saturating_add(deleted) > bound
}

struct Sum {
    bytes: u64,
    left: u64,
}

impl Sum {
    /// Adds up a folder without following links. False when it holds too many entries, or one that cannot be looked into:
    /// a program that hides what it writes has written too much.
    fn add(&mut self, folder: &Path) -> bool {
        let walked = walk(folder, |found| {
            let Some(left) = self.left.checked_sub(1) else {
                return ControlFlow::Break(());
            };
            self.left = left;
            if !found.is_dir() {
                self.bytes = self.bytes.saturating_add(processes::size(found));
            }
            ControlFlow::Continue(())
        });
        walked == Walk::Whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_added_up_with_what_lies_deeper_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("deeper")).unwrap();
        std::fs::write(dir.path().join("deeper/a"), vec![0; 100_000]).unwrap();
        std::fs::write(dir.path().join("b"), vec![0; 100_000]).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("root")).unwrap();
        let folders = [dir.path().to_owned()];
        let nobody = 0;
        assert!(is_over(&folders, nobody, 199_999));
        assert!(!is_over(&folders, nobody, 300_000));
        // A hole counts as what it would be once filled.
        let hole = std::fs::File::create(dir.path().join("hole")).unwrap();
        hole.set_len(10 << 30).unwrap();
        assert!(is_over(&folders, nobody, 9 << 30));
    }

    #[test]
    fn what_no_path_leads_to_is_too_much() {
        let dir = tempfile::tempdir().unwrap();
        let folders = [dir.path().to_owned()];
        assert!(!is_over(&folders, 0, 1 << 30));
        let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::PATH;
        let none = rustix::fs::Mode::empty();
        let mut at = rustix::fs::open(dir.path(), flags, none).unwrap();
        for _ in 0..25 {
            let name = "d".repeat(200);
            rustix::fs::mkdirat(&at, name.as_str(), rustix::fs::Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, name.as_str(), flags, none).unwrap();
        }
        assert!(is_over(&folders, 0, 1 << 30));
        worker_files::remove_tree(dir.path()).unwrap();
    }

    #[tokio::test]
    async fn a_look_is_brought_to_its_end_though_whoever_waits_is_called_away() {
        let dir = tempfile::tempdir().unwrap();
        // So many that no look ends between two calls.
        for file in 0..5_000 {
            std::fs::write(dir.path().join(file.to_string()), "x").unwrap();
        }
        let mut invocation = Invocation::new(
            "/bin/true".into(),
            Vec::new(),
            dir.path().to_owned(),
            Duration::MAX,
        );
        invocation.written = vec![dir.path().to_owned()];
        invocation.limits.written_bytes = 1;
        let nobody = i32::MAX;
        let mut watch = Watch::new(&invocation, nobody, LookedAt::unless_held(None));
        let called_away = async {
            loop {
                tokio::select! {
                    ended = watch.reached() => break ended,
                    () = tokio::time::sleep(Duration::from_millis(1)) => {}
                }
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(30), called_away).await;
        assert!(matches!(ended, Ok(Ended::TooMuchDisk)));
    }
}
