//! What an answer to a range, or to no range, really holds.

use reqwest::header::{CONTENT_RANGE, HeaderName, HeaderValue, IF_RANGE, RANGE};
use reqwest::{Response, StatusCode};

use super::Stop;
use super::record::Version;
use crate::ask::{
    check_body_head, header, is_strong, not_a_file, strong_validator, validator_like,
    weak_validator,
};

/// The bytes that an answer carries, and of which file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) start: u64,
    /// Where it ends; none when the host does not say.
    pub(crate) end: Option<u64>,
    /// The file's length.
    pub(crate) total: Option<u64>,
    /// Which version it is; none when the host gives no validator that will do, and nothing can be added to it later.
    pub(crate) version: Option<Version>,
    /// An answer that ignores ranges: it is the file from its first byte.
    pub(crate) whole: bool,
}

/// What of a download decides how its answers are read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// The longest file that is taken.
    pub(crate) limit: u64,
    /// Whether a weak validator will do, because the digest of the whole tells whether what was joined is right.
    pub(crate) weak: bool,
}

/// The headers that ask for the bytes from `start` on, up to `end`, of just that version. A host compares strong tags only, and
/// sends the whole for any other: what is asked for by a weak validator is compared here.
pub(crate) fn range_headers(
    start: u64,
    end: Option<u64>,
    version: Option<&Version>,
) -> Vec<(HeaderName, HeaderValue)> {
    let text = match end {
        Some(end) => format!("bytes={start}-{}", end.saturating_sub(1)),
        None => format!("bytes={start}-"),
    };
    let mut headers = Vec::new();
    // Neither can fail: digits, and a tag that came as a header value.
    headers.extend(HeaderValue::from_str(&text).map(|value| (RANGE, value)));
    if let Some(version) = version.filter(|version| is_strong(&version.validator)) {
        let tag = HeaderValue::from_str(&version.validator);
        headers.extend(tag.map(|value| (IF_RANGE, value)));
    }
    headers
}

/// Reads an answer. `requested` is the range that was asked for, `known` the version that it must be of.
pub(crate) fn judge(
    shown: &str,
    response: &Response,
    requested: Option<(u64, Option<u64>)>,
    known: Option<&Version>,
    terms: Terms,
) -> Result<Head, Stop> {
    match (response.status(), requested) {
        (StatusCode::OK, _) => {
            check_body_head(shown, response, terms.limit).map_err(Stop::from)?;
            let total = response.content_length();
            let version = validator(response, terms)
                .zip(total)
                .map(|(validator, total)| Version { validator, total });
            Ok(Head {
                start: 0,
                end: total,
                total,
                version,
                whole: true,
            })
        }
        (StatusCode::PARTIAL_CONTENT, Some(requested)) => {
            check_body_head(shown, response, terms.limit).map_err(Stop::from)?;
            partial(shown, response, requested, known, terms)
        }
        (StatusCode::RANGE_NOT_SATISFIABLE, Some(_)) => Err(Stop::Restart {
            why: "it does not have the bytes any more that it had",
            ranges: known.is_some(),
        }),
        _ => Err(Stop::Failed(not_a_file(shown, response))),
    }
}

/// The best validator of an answer that will do.
fn validator(response: &Response, terms: Terms) -> Option<String> {
    let headers = response.headers();
    strong_validator(headers).or_else(|| weak_validator(headers).filter(|_| terms.weak))
}

fn partial(
    shown: &str,
    response: &Response,
    requested: (u64, Option<u64>),
    known: Option<&Version>,
    terms: Terms,
) -> Result<Head, Stop> {
    let lied = |why| Stop::Restart { why, ranges: false };
    let text = header(response.headers(), &CONTENT_RANGE);
    let (start, end, total) = text
        .and_then(|text| content_range(&text))
        .ok_or(lied("a range without saying which"))?;
    let (from, to) = requested;
    if start != from || to.is_some_and(|to| end > to) {
        return Err(lied("another range than was asked for"));
    }
    if response
        .content_length()
        .is_some_and(|length| length != end - start)
    {
        return Err(lied("a range of another length than it says"));
    }
    let limit = terms.limit;
    if total > limit {
        let url = shown.to_owned();
        return Err(crate::DownloadError::TooLarge { url, limit }.into());
    }
    let version = match (known, validator(response, terms)) {
        (Some(known), _) => {
            let found = validator_like(&known.validator, response.headers());
            let same = found.is_none_or(|found| found == known.validator);
            if !same || total != known.total {
                return Err(Stop::Restart {
                    why: "the file changed",
                    // The nodes of a mirror may each give a time of their own to one file: with ranges they would disagree again.
                    ranges: is_strong(&known.validator),
                });
            }
            Some(known.clone())
        }
        (None, Some(validator)) => Some(Version { validator, total }),
        (None, None) if end - start == total => None,
        // Parts that nothing ties together cannot be joined.
        (None, None) => return Err(lied("ranges that nothing ties together")),
    };
    Ok(Head {
        start,
        end: Some(end),
        total: Some(total),
        version,
        whole: false,
    })
}

/// `bytes 0-99/1000`, as a half-open range and a total.
fn content_range(text: &str) -> Option<(u64, u64, u64)> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if digits {
            text.parse::<u64>().ok()
        } else {
            None
        }
    };
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, total) = (number(first)?, number(last)?, number(total)?);
    (first <= last && last < total).then(|| (first, last + 1, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(content_range("bytes 0-99/1000"), Some((0, 100, 1000)));
        assert_eq!(content_range("bytes 999-999/1000"), Some((999, 1000, 1000)));
        for bad in [
            "",
            "bytes",
            "bytes 0-99/*",
            "bytes */1000",
            "bytes 9-8/10",
            "bytes 0-10/10",
            "bytes +1-2/10",
            "bytes 0-99999999999999999999/10",
            "bytes 1-18446744073709551615/18446744073709551615",
            "items 0-1/10",
        ] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
