//! How often a download is tried again.

use std::time::Duration;

use crate::ask::Failed;
use crate::error::DownloadError;
use crate::policy::Policy;
use crate::transfer::{LONGEST_WAIT, jittered};

/// Counts failures in a row. One that comes after the file has grown further than ever before begins a new row, so a
/// bad line may break a hundred times in a large file, and a host that sends the same beginning again and again may not.
pub(crate) struct Patience<'a> {
    policy: &'a Policy,
    failures: u32,
    furthest: u64,
}

impl<'a> Patience<'a> {
    pub(crate) fn new(policy: &'a Policy) -> Self {
        Self {
            policy,
            failures: 0,
            furthest: 0,
        }
    }

    /// How long to wait before the next try, `reached` bytes being there.
    ///
    /// # Errors
    /// The failure itself, when it is final.
    pub(crate) fn fail(&mut self, failed: Failed, reached: u64) -> Result<Duration, DownloadError> {
        if reached >= self.furthest.saturating_add(self.policy.stall_floor) {
            self.failures = 0;
            self.furthest = reached;
        }
        self.failures = self.failures.saturating_add(1);
        let Failed { error, wait } = failed;
        if !error.retryable() || self.failures >= self.policy.attempts {
            return Err(error);
        }
        let pause = wait
            .unwrap_or_else(|| jittered(self.policy.backoff, self.failures))
            .min(LONGEST_WAIT);
        tracing::info!(%error, attempt = self.failures, pause_ms = pause.as_millis(), "a download failed, trying again");
        Ok(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut() -> Failed {
        DownloadError::Truncated {
            url: String::new(),
            got: 0,
            promised: 1,
        }
        .into()
    }

    #[test]
    fn only_getting_further_counts_as_progress() {
        let policy = Policy {
            attempts: 3,
            stall_floor: 100,
            ..Policy::default()
        };
        let mut patience = Patience::new(&policy);
        for reached in [500, 1000, 1500, 1500] {
            assert!(patience.fail(cut(), reached).is_ok());
        }
        assert!(patience.fail(cut(), 1599).is_err());
        let mut patience = Patience::new(&policy);
        assert!(patience.fail(cut(), 500).is_ok());
        // From zero again, and not as far as before.
        assert!(patience.fail(cut(), 400).is_ok());
        assert!(patience.fail(cut(), 500).is_err());
        let gone = DownloadError::NotFound {
            url: String::new(),
            status: 404,
        };
        assert!(Patience::new(&policy).fail(gone.into(), 0).is_err());
    }
}
