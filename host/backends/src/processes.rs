//! What the system knows of running processes. Linux only: elsewhere nothing is known.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// What a group's processes hold together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Bytes of memory that the system cannot take back by itself: their own and shared memory, not mapped files.
    pub(crate) memory: u64,
    /// Processes, each as many times as it has threads.
    pub(crate) tasks: u64,
}

pub(crate) fn held_by_group(group: i32) -> Held {
    members(group).fold(Held::default(), |sum, pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let number = |name: &str| number(&status, name).unwrap_or(0);
        let kib = number("RssAnon:").saturating_add(number("RssShmem:"));
        Held {
            memory: sum.memory.saturating_add(kib.saturating_mul(1024)),
            tasks: sum.tasks.saturating_add(number("Threads:")),
        }
    })
}

/// Bytes of the files that the processes of a group hold open although they have no name any more.
pub(crate) fn deleted_bytes_of_group(group: i32) -> u64 {
    let mut seen = std::collections::HashSet::new();
    let mut sum: u64 = 0;
    for pid in members(group) {
        let Ok(open) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        for descriptor in open.flatten() {
            let Ok(metadata) = std::fs::metadata(descriptor.path()) else {
                continue;
            };
            let nameless = metadata.is_file() && metadata.nlink() == 0;
            if nameless && seen.insert((metadata.dev(), metadata.ino())) {
                sum = sum.saturating_add(size(&metadata));
            }
        }
    }
    sum
}

/// The larger of a file's length and of what it takes on the disk.
pub(crate) fn size(metadata: &Metadata) -> u64 {
    metadata.len().max(metadata.blocks().saturating_mul(512))
}

fn number(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The processes of a group.
fn members(group: i32) -> impl Iterator<Item = u32> {
    all().filter(move |pid| group != 0 && stat(*pid).is_some_and(|stat| stat.group == group))
}

/// Every process that can be seen.
pub(crate) fn all() -> impl Iterator<Item = u32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Whether there is such a process, dead ones that nobody waited for included.
pub(crate) fn is_there(pid: i32) -> bool {
    let process = rustix::process::Pid::from_raw(pid);
    // That it may not be told anything means that it is there.
    process
        .is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

/// What is taken from `/proc/PID/stat`.
pub(crate) struct Stat {
    pub(crate) state: char,
    pub(crate) group: i32,
    pub(crate) session: i32,
}

pub(crate) fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything.
    let after = text.iter().rposition(|byte| *byte == b')')? + 1;
    let rest = std::str::from_utf8(text.get(after..)?).ok()?;
    let mut words = rest.split_whitespace();
    let state = words.next()?.chars().next()?;
    let _parent = words.next()?;
    let group = words.next()?.parse().ok()?;
    let session = words.next()?.parse().ok()?;
    Some(Stat {
        state,
        group,
        session,
    })
}

/// Our children, those included that became so when their own parent ended.
pub(crate) fn children() -> Vec<u32> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let mut all = Vec::new();
    for thread in threads.flatten() {
        let list = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        all.extend(
            list.split_whitespace()
                .filter_map(|pid| pid.parse::<u32>().ok()),
        );
    }
    all
}

/// Whether one of a process's variables begins so. Of other users' processes that cannot be seen.
pub(crate) fn is_marked(pid: u32, mark: &str) -> bool {
    let variables = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    variables
        .split(|byte| *byte == 0)
        .any(|variable| variable.starts_with(mark.as_bytes()))
}
