//! Which paths of a server a call may name.
//!
//! A server's own reading of a path is not known, so nothing is normalised and compared afterwards: a path that could be
//! read in two ways is refused.

/// Longest target in bytes. A server that takes longer ones is not known.
const MAX_TARGET: usize = 8 * 1024;

/// Why a call may not name a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadTarget {
    /// It is no absolute path: a URL, an empty text, `*`.
    #[error("must be a path that begins with one `/`, not a URL")]
    NotAPath,
    /// It is too long.
    #[error("is longer than 8 KiB")]
    TooLong,
    /// It holds a blank, a control character, `\`, `#`, or something else that stands in no path.
    #[error("holds a character that does not belong in a path")]
    Character,
    /// It can be read in two ways.
    #[error("holds an empty, `.` or `..` segment, or one of these hidden in `%`")]
    Ambiguous,
    /// No declared route leads there.
    #[error("lies under none of the routes that the plugin declared")]
    NoRoute,
}

/// Checks a target against the declared routes. A route covers itself and what lies below it, segment by segment: `/v1`
/// covers `/v1` and `/v1/jobs`, not `/v10`.
///
/// # Errors
/// The rule that it breaks.
pub fn check_target(target: &str, routes: &[String]) -> Result<(), BadTarget> {
    if target.len() > MAX_TARGET {
        return Err(BadTarget::TooLong);
    }
    if !target.starts_with('/') {
        return Err(BadTarget::NotAPath);
    }
    let allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%".contains(&byte);
    if !target.bytes().all(allowed) {
        return Err(BadTarget::Character);
    }
    let path = target.split('?').next().unwrap_or_default();
    check_escapes(target, path)?;
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        if segment == "." || segment == ".." || (segment.is_empty() && !last) {
            return Err(BadTarget::Ambiguous);
        }
    }
    if routes.iter().any(|route| covers(route, path)) {
        Ok(())
    } else {
        Err(BadTarget::NoRoute)
    }
}

/// Every `%` is followed by two hex digits, and in the path none stands for what separates or hides something.
fn check_escapes(target: &str, path: &str) -> Result<(), BadTarget> {
    for (at, _) in target.match_indices('%') {
        let digits = target.get(at + 1..at + 3).unwrap_or_default();
        let Ok(value) = u8::from_str_radix(digits, 16) else {
            return Err(BadTarget::Character);
        };
        if digits.len() != 2 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(BadTarget::Character);
        }
        if at < path.len() && (value.is_ascii_control() || b"./\\%".contains(&value)) {
            return Err(BadTarget::Ambiguous);
        }
        if value.is_ascii_control() {
            return Err(BadTarget::Character);
        }
    }
    Ok(())
}

fn covers(route: &str, path: &str) -> bool {
    let route = route.trim_end_matches('/');
    path.strip_prefix(route)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(target: &str) -> Result<(), BadTarget> {
        check_target(target, &["/v1".to_owned(), "/jobs/".to_owned()])
    }

    #[test]
    fn a_route_covers_itself_and_what_lies_below() {
        for fine in [
            "/v1",
            "/v1/",
            "/v1/a",
            "/v1?x=%2e%2e/",
            "/jobs",
            "/jobs/1/cancel",
            "/v1/a%20b",
        ] {
            assert_eq!(check(fine), Ok(()), "{fine}");
        }
        for foreign in ["/", "/v10", "/V1", "/v", "/admin", "/job", "/?/v1"] {
            assert_eq!(check(foreign), Err(BadTarget::NoRoute), "{foreign}");
        }
        assert_eq!(check_target("/anything", &["/".to_owned()]), Ok(()));
        assert_eq!(check_target("/v1", &[]), Err(BadTarget::NoRoute));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let rows = [
            ("/v1/../admin", BadTarget::Ambiguous),
            ("/v1/./a", BadTarget::Ambiguous),
            ("/v1/..", BadTarget::Ambiguous),
            ("//v1", BadTarget::Ambiguous),
            ("/v1//a", BadTarget::Ambiguous),
            ("/v1/%2e%2E/admin", BadTarget::Ambiguous),
            ("/v1/%2fadmin", BadTarget::Ambiguous),
            ("/v1/%5cadmin", BadTarget::Ambiguous),
            ("/v1/%252e", BadTarget::Ambiguous),
            ("/v1/%00", BadTarget::Ambiguous),
            ("/v1/%0d%0aHost:x", BadTarget::Ambiguous),
            ("/v1?a=%0a", BadTarget::Character),
            ("/v1/%2", BadTarget::Character),
            ("/v1/%+1", BadTarget::Character),
            ("/v1/a b", BadTarget::Character),
            ("/v1\r\nX: y", BadTarget::Character),
            ("/v1#x", BadTarget::Character),
            ("/v1\\..\\x", BadTarget::Character),
            ("/v1/é", BadTarget::Character),
            ("http://127.0.0.1/v1", BadTarget::NotAPath),
            ("v1", BadTarget::NotAPath),
            ("*", BadTarget::NotAPath),
            ("", BadTarget::NotAPath),
        ];
        for (target, why) in rows {
            assert_eq!(check(target), Err(why), "{target}");
        }
        assert_eq!(
            check(&format!("/v1/{}", "a".repeat(9000))),
            Err(BadTarget::TooLong)
        );
    }
}
