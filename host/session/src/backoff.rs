//! How long to wait before the next attempt.

use std::time::Duration;

/// The pause after failure number `failure` (from 1): `first` doubled each time up to `cap`, then a random part of its
/// second half is left out, so that a fleet does not come back in step after a studio's restart.
pub(crate) fn pause(failure: u32, first: Duration, cap: Duration) -> Duration {
    // Without randomness the full pause is a safe answer: nothing secret hangs on it.
    let share = getrandom::u32().map_or(1.0, |n| 0.5 + f64::from(n) / f64::from(u32::MAX) / 2.0);
    whole(failure, first, cap).mul_f64(share)
}

fn whole(failure: u32, first: Duration, cap: Duration) -> Duration {
    let factor = 2u32.checked_pow(failure.saturating_sub(1));
    factor
        .and_then(|factor| first.checked_mul(factor))
        .map_or(cap, |pause| pause.min(cap))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_secs(1);
    const CAP: Duration = Duration::from_secs(30);

    #[test]
    fn pauses_double_up_to_the_cap() {
        let seconds: Vec<_> = (1..=8)
            .chain([u32::MAX])
            .map(|n| whole(n, FIRST, CAP).as_secs())
            .collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30, 30, 30]);
    }

    #[test]
    fn jitter_stays_in_the_upper_half_and_varies() {
        let pauses: Vec<_> = (0..64).map(|_| pause(3, FIRST, CAP)).collect();
        let (low, high) = (Duration::from_secs(2), Duration::from_secs(4));
        assert!(pauses.iter().all(|p| (low..=high).contains(p)));
        assert!(pauses.iter().any(|p| Some(p) != pauses.first()));
    }
}
