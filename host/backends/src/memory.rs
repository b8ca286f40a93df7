//! Whether the kernel killed for want of memory, from its own counters.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

/// How many processes the kernel has killed for want of memory: in the worker's own control group where that is told,
/// else on the whole machine. None where it does not say.
pub(crate) fn kernel_kills() -> Option<u64> {
    static OWN_GROUP: OnceLock<Option<PathBuf>> = OnceLock::new();
    let own = OWN_GROUP.get_or_init(own_group_events);
    if let Some(events) = own
        && let Some(count) = fs::read_to_string(events)
            .ok()
            .and_then(|text| counter(&text, "oom_kill "))
    {
        return Some(count);
    }
    counter(&fs::read_to_string("/proc/vmstat").ok()?, "oom_kill ")
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

fn counter(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))?
        .trim()
        .parse()
        .ok()
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
