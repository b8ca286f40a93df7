//! Whether the kernel killed for want of memory, from its own counters.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

/// How many processes the kernel has killed for want of memory: in the worker's own control group where that is told,
/// else on the whole machine. None where it does not say.
pub(crate) fn kernel_kills() -> Option<u64> {
    if let Some(events) = own_counter()
        && let Some(count) = fs::read_to_string(events)
            .ok()
            .and_then(|text| counter(&text, "oom_kill "))
    {
        return Some(count);
    }
    counter(&fs::read_to_string("/proc/vmstat").ok()?, "oom_kill ")
}

/// Whether the worker's own control group tells.
pub(crate) fn has_own_counter() -> bool {
    own_counter().is_some()
}

fn own_counter() -> Option<&'static PathBuf> {
    static OWN: OnceLock<Option<PathBuf>> = OnceLock::new();
    OWN.get_or_init(own_group_events).as_ref()
}

/// The file in which the worker's control group (version 2) counts, its descendants included.
fn own_group_events() -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let events = PathBuf::from("/sys/fs/cgroup")
        .join(group)
        .join("memory.events");
    events.is_file().then_some(events)
}

pub(crate) fn counter(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))?
        .trim()
        .parse()
        .ok()
}

/// Bytes that one program may hold where the operator says nothing: nine tenths of the machine's memory. More would have
/// the kernel choose whom to end; less would refuse models that just fit. None where the size is not told.
pub fn default_memory_limit() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib.saturating_mul(1024) / 10 * 9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_counter_is_found_by_its_whole_name() {
        let events = "low 0\nhigh 2\nmax 9\noom 3\noom_kill 7\noom_group_kill 1\n";
        assert_eq!(counter(events, "oom_kill "), Some(7));
        assert_eq!(counter("oom_kill_x 7\n", "oom_kill "), None);
        assert_eq!(counter("oom_kill many\n", "oom_kill "), None);
    }
}
