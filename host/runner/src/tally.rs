//! Counts of offers and jobs since the worker was started.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Upper bounds of the classes of durations, in seconds: from a chat's answer to an hour's film.
pub const SECONDS: [f64; 10] = [0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 180.0, 600.0, 1800.0, 3600.0];

/// How a job ended. The words are the same for every kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is a product.
    Done,
    /// A plugin said that it cannot be done.
    Failed,
    /// A plugin broke, or wanted what no plugin may want.
    Broke,
    /// The studio wanted it no more.
    Cancelled,
    /// The worker had to go, or its disk failed.
    Interrupted,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Done,
        Self::Failed,
        Self::Broke,
        Self::Cancelled,
        Self::Interrupted,
    ];

    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Broke => "broke",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
        }
    }
}

/// The counts.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Offers that were taken.
    pub accepted: u64,
    /// Offers that were turned away.
    pub rejected: u64,
    /// Jobs that ended, in the order of [`Outcome::ALL`].
    pub ended: [u64; Outcome::ALL.len()],
    /// Jobs by the class of their duration, each class for itself; one more for what took longer.
    pub by_duration: [u64; SECONDS.len() + 1],
    /// Seconds that all jobs took together.
    pub seconds: f64,
}

#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<Counts>);

impl Tally {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Numbers are whole after every statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn counts(&self) -> Counts {
        self.lock().clone()
    }

    pub(crate) fn offer(&self, accepted: bool) {
        let mut counts = self.lock();
        match accepted {
            true => counts.accepted += 1,
            false => counts.rejected += 1,
        }
    }

    pub(crate) fn ended(&self, outcome: Outcome, took: Duration) {
        let mut counts = self.lock();
        let at = Outcome::ALL.iter().position(|one| *one == outcome);
        if let Some(count) = at.and_then(|at| counts.ended.get_mut(at)) {
            *count += 1;
        }
        let seconds = took.as_secs_f64();
        let class = SECONDS.iter().position(|most| seconds <= *most);
        if let Some(count) = counts.by_duration.get_mut(class.unwrap_or(SECONDS.len())) {
            *count += 1;
        }
        counts.seconds += seconds;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_job_counts_in_one_class() {
        let tally = Tally::default();
        for millis in [50, 100, 101, 3_600_001] {
            tally.ended(Outcome::Failed, Duration::from_millis(millis));
        }
        let counts = tally.counts();
        assert_eq!(counts.ended, [0, 4, 0, 0, 0]);
        assert_eq!(counts.by_duration, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    }
}
