//! How much computing a thread has done, whatever else the machine was busy with meanwhile.

use std::time::Duration;

/// Processor time of the calling thread; none where the system does not tell.
#[cfg(unix)]
pub(crate) fn of_this_thread() -> Option<Duration> {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(spent).ok()
}

/// Processor time of the calling thread; none where the system does not tell.
#[cfg(not(unix))]
pub(crate) fn of_this_thread() -> Option<Duration> {
    None
}

/// Whether the calling thread has computed for `allowed` or longer since it had spent `before`.
pub(crate) fn spent_since(before: Option<Duration>, allowed: Duration) -> bool {
    match (before, of_this_thread()) {
        (Some(before), Some(now)) => now.saturating_sub(before) >= allowed,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_no_computing() {
        let before = of_this_thread();
        std::thread::sleep(Duration::from_millis(30));
        assert!(!spent_since(before, Duration::from_secs(1)));
        assert!(
            !spent_since(None, Duration::ZERO),
            "unknown is nobody's fault"
        );
        if before.is_some() {
            assert!(spent_since(before, Duration::ZERO));
        }
    }
}
