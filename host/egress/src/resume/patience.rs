//! How often a download is tried again.

use std::time::{Duration, Instant};

use crate::ask::Failed;
use crate::error::DownloadError;
use crate::policy::Policy;
use crate::transfer::{LONGEST_WAIT, jittered};

/// Most tries in a row, however quickly each failed: a host that is asked again and again by many workers has a right to that.
/// With pauses that grow to [`LONGEST_PAUSE`] they outlast [`Policy::outage`]. Larger asks more of a host in trouble.
const MOST_TRIES: u32 = 12;
/// The longest pause between two tries, unless the host asks for a longer one. Longer notices late that the network is back.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Counts failures in a row. One that comes after the file has grown further than ever before begins a new row, so a
/// bad line may break a hundred times in a large file, and a host that sends the same beginning again and again may not.
pub(crate) struct Patience<'a> {
    policy: &'a Policy,
    failures: u32,
    /// When the row began.
    since: Option<Instant>,
    furthest: u64,
}

impl<'a> Patience<'a> {
    pub(crate) fn new(policy: &'a Policy) -> Self {
        Self {
            policy,
            failures: 0,
            since: None,
            furthest: 0,
        }
    }

    /// How long to wait before the next try, `reached` bytes being there.
    ///
    /// # Errors
    /// The failure itself, when it is final.
    pub(crate) fn fail(&mut self, failed: Failed, reached: u64) -> Result<Duration, DownloadError> {
        if reached >= self.furthest.saturating_add(self.policy.stall_floor) {
            (self.failures, self.since) = (0, None);
            self.furthest = reached;
        }
        self.failures = self.failures.saturating_add(1);
        let Failed { error, wait } = failed;
        if !error.retryable() || self.is_over() {
            return Err(error);
        }
        let own = || jittered(self.policy.backoff, self.failures).min(LONGEST_PAUSE);
        let pause = wait.unwrap_or_else(own).min(LONGEST_WAIT);
        tracing::info!(%error, attempt = self.failures, pause_ms = pause.as_millis(), "a download failed, trying again");
        Ok(pause)
    }

    /// Whether the row has been long enough, in tries and in time.
    fn is_over(&mut self) -> bool {
        let Policy {
            attempts, outage, ..
        } = self.policy;
        let lasted = self.since.get_or_insert_with(Instant::now).elapsed();
        self.failures >= *attempts
            && (lasted >= *outage || self.failures >= MOST_TRIES.max(*attempts))
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
            outage: Duration::ZERO,
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

    /// A router that starts anew, a name server that is away: each try fails at once.
    #[test]
    fn a_minute_without_a_network_is_waited_out() {
        let policy = Policy::default();
        let mut patience = Patience::new(&policy);
        let mut pauses = Vec::new();
        while let Ok(pause) = patience.fail(cut(), 0) {
            assert!(pause <= LONGEST_PAUSE, "{pause:?}");
            pauses.push(pause);
        }
        let waited: Duration = pauses.iter().sum();
        assert!(waited >= policy.outage, "{pauses:?}");
        assert_eq!(pauses.len() + 1, MOST_TRIES as usize);
        // A host that wants to be asked again at once is not asked for ever.
        let mut patience = Patience::new(&policy);
        let at_once = || Failed {
            wait: Some(Duration::ZERO),
            ..cut()
        };
        let tries = (0..100).take_while(|_| patience.fail(at_once(), 0).is_ok());
        assert_eq!(tries.count() + 1, MOST_TRIES as usize);
    }
}
