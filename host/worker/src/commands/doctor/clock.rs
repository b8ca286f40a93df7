//! The clock, by what the studio says the time is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Check;

/// How far the two clocks may be apart. A certificate may be judged wrongly beyond it; the answer's own way takes less.
const APART: Duration = Duration::from_secs(120);
/// 1 January 2026: no machine that runs this program is older, so an earlier date is a clock that was never set.
const EARLIEST: Duration = Duration::from_secs(1_767_225_600);

/// The clock, against the studio's `Date` where there is one.
pub(super) fn check(now: SystemTime, studio: Option<&str>) -> Check {
    let next = "set the clock, or let the system do so (`timedatectl set-ntp true`)";
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    if since < EARLIEST {
        return Check::failure("clock", "it stands before 2026", next);
    }
    let Some(theirs) = studio.and_then(parse) else {
        return Check::ok("clock", "plausible; no other to compare it with");
    };
    let apart = since.abs_diff(theirs);
    if apart > APART {
        let found = format!("{} s from the studio's", apart.as_secs());
        return Check::warning("clock", found, next);
    }
    Check::ok("clock", format!("{} s from the studio's", apart.as_secs()))
}

/// The time since 1970 of an HTTP date, `Sun, 06 Nov 1994 08:49:37 GMT`: the one form that servers write.
fn parse(text: &str) -> Option<Duration> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let mut words = text.split(' ').skip(1);
    let day: u64 = words.next()?.parse().ok()?;
    let name = words.next()?;
    let month = MONTHS.iter().position(|month| *month == name)? as u64 + 1;
    let year: u64 = words.next()?.parse().ok()?;
    let mut clock = words
        .next()?
        .split(':')
        .map(|part| part.parse::<u64>().ok());
    let (hours, minutes, seconds) = (clock.next()??, clock.next()??, clock.next()??);
    if words.next() != Some("GMT") || !(1970..10_000).contains(&year) || !(1..=31).contains(&day) {
        return None;
    }
    // Years that begin in March have their leap day at the end.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year / 4 - year / 100 + year / 400;
    // Days from 1 March of year 0 to 1 January 1970.
    let days = (year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1).checked_sub(719_468)?;
    Some(Duration::from_secs(
        days * 86_400 + hours * 3_600 + minutes * 60 + seconds,
    ))
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn http_dates() {
        for (text, seconds) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Thu, 29 Feb 2024 23:59:59 GMT", 1_709_251_199),
            ("Thu, 01 Jan 2026 00:00:00 GMT", EARLIEST.as_secs()),
        ] {
            assert_eq!(parse(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "now",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 06 Xyz 1994 08:49:37 GMT",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_clock_that_is_wrong_is_said() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let date = Some("Thu, 01 Jan 2026 01:00:00 GMT");
        let same = EARLIEST.as_secs() + 3_600;
        assert_eq!(check(at(same + 100), date).level, Level::Ok);
        assert_eq!(check(at(same + 1_000), date).level, Level::Warning);
        assert_eq!(check(at(same - 1_000), date).level, Level::Warning);
        assert_eq!(check(at(0), date).level, Level::Failure);
        assert_eq!(check(at(same), None).level, Level::Ok);
    }
}
