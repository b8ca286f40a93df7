//! How long delivery waits for what. One table, so that tests can shrink it.

use std::time::Duration;

/// Waits of [`Delivery`](crate::Delivery).
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Pause after the first failed attempt; doubled after each further one. Shorter would hammer a studio that is
    /// being restarted, longer would leave the GPU idle for a hiccup.
    pub first_pause: Duration,
    /// Longest pause between attempts. Longer would find a studio that is back later than it need be.
    pub longest_pause: Duration,
    /// Longest pause that a `Retry-After` can ask for. Longer would let a studio hold the worker's only slot.
    pub longest_retry_after: Duration,
    /// How long a job may hold its slot by retrying. Longer would keep the GPU from other work for one result that
    /// is safe on disk; shorter would give up during an ordinary deployment of the studio.
    pub slot: Duration,
    /// An attempt ends when no byte of the body has moved for this long, or no answer has come after the last one.
    /// Shorter would cut off slow lines; longer would notice a dead one later.
    pub stall: Duration,
    /// How long the text of a refusal is waited for.
    pub refusal_text: Duration,
    /// How long what is under way may go on after it was cancelled. Shorter would cut off an upload that the studio is
    /// just answering, and tell it of a failure that was none; longer would hold up a stop.
    pub last_words: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(30),
            longest_retry_after: Duration::from_secs(60),
            slot: Duration::from_secs(600),
            stall: Duration::from_secs(60),
            refusal_text: Duration::from_secs(5),
            last_words: Duration::from_secs(2),
        }
    }
}

/// Growing, jittered pauses.
#[derive(Debug)]
pub(crate) struct Pauses {
    timing: Timing,
    next: Duration,
}

impl Pauses {
    pub(crate) fn new(timing: Timing) -> Self {
        Self {
            timing,
            next: timing.first_pause,
        }
    }

    /// The next pause: what the studio asked for, within limits, else the growing one, between half and all of it, so
    /// that a fleet that failed together does not come back together.
    pub(crate) fn next(&mut self, asked: Option<Duration>) -> Duration {
        let grown = self.next;
        self.next = grown.saturating_mul(2).min(self.timing.longest_pause);
        match asked {
            Some(asked) => asked.min(self.timing.longest_retry_after),
            None => jittered(grown, getrandom::u32().unwrap_or(u32::MAX)),
        }
    }
}

fn jittered(pause: Duration, random: u32) -> Duration {
    let fraction = f64::from(random) / f64::from(u32::MAX);
    pause.mul_f64(0.5 + fraction / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut pauses = Pauses::new(Timing::default());
        for whole in [1, 2, 4, 8, 16, 30, 30] {
            let whole = Duration::from_secs(whole);
            let pause = pauses.next(None);
            assert!(
                pause >= whole / 2 && pause <= whole,
                "{pause:?} of {whole:?}"
            );
        }
    }

    #[test]
    fn a_studio_may_ask_for_a_minute_at_most() {
        let mut pauses = Pauses::new(Timing::default());
        let asked = Duration::from_secs;
        assert_eq!(pauses.next(Some(asked(7))), asked(7));
        assert_eq!(pauses.next(Some(asked(86_400))), asked(60));
    }

    #[test]
    fn jitter_spans_half_to_all() {
        let second = Duration::from_secs(1);
        assert_eq!(jittered(second, 0), second / 2);
        assert_eq!(jittered(second, u32::MAX), second);
    }
}
