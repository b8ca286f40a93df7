//! Asking for a file: from the first URL through its redirects to an answer, and what the answer's head says.

use std::time::Duration;

use reqwest::Response;
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, ETAG, HeaderMap, HeaderName, HeaderValue,
    LAST_MODIFIED, LOCATION, RETRY_AFTER,
};
use tokio::time::timeout;
use url::Url;

use crate::credentials::Credential;
use crate::download::Egress;
use crate::error::{DownloadError, shown_parsed};
use crate::policy::{Policy, UrlRefusal, check_listed, check_parsed, names_loopback};
use crate::resolve::refusal;

/// Longest entity tag that is kept, in bytes.
const TAG_BYTES: usize = 512;

/// One try that failed, and how long its host wants to be left alone.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) error: DownloadError,
    pub(crate) wait: Option<Duration>,
}

impl From<DownloadError> for Failed {
    fn from(error: DownloadError) -> Self {
        Self { error, wait: None }
    }
}

/// An answer that is no redirect.
pub(crate) struct Asked {
    pub(crate) response: Response,
    /// Who gave it.
    pub(crate) at: Place,
}

/// Where an answer came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) url: Url,
    /// Whether every redirect on the way there stayed with the host that was asked first. Once elsewhere, always
    /// elsewhere: a host that redirects back must not have the operator's login used for it.
    home: bool,
}

impl Place {
    /// Where a download begins.
    pub(crate) fn start(url: &Url) -> Self {
        let (url, home) = (url.clone(), true);
        Self { url, home }
    }
}

/// Asks at `from`, which is the start or where its redirects led before, and asks again where a redirect says to, under
/// the same rules each time. Logins in `own` come before the operator's.
pub(crate) async fn ask(
    egress: &Egress,
    shown: &str,
    start: &Url,
    from: &Place,
    headers: &[(HeaderName, HeaderValue)],
    own: &[Credential],
) -> Result<Asked, Failed> {
    let policy = &egress.policy;
    let redirect = |why: String| DownloadError::Redirect {
        url: shown.to_owned(),
        why,
    };
    let Place { mut url, mut home } = from.clone();
    for _ in 0..=policy.max_redirects {
        home = home && url.origin() == start.origin();
        let mut request = egress.client.get(url.clone());
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let login = own
            .iter()
            .chain(&policy.credentials)
            .find_map(|login| login.header_for(&url));
        if let Some(login) = login.filter(|_| home) {
            request = request.header(AUTHORIZATION, login);
        }
        let request = request.header(ACCEPT_ENCODING, "identity").send();
        let response = timeout(policy.stall.saturating_add(policy.connect), request)
            .await
            .map_err(|_| stalled(shown, policy))?
            .map_err(|error| transport(&url, &error))?;
        if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
            let at = Place { url, home };
            return Ok(Asked { response, at });
        }
        let location = header(response.headers(), &LOCATION)
            .ok_or_else(|| redirect("without saying where to".to_owned()))?;
        url = url
            .join(&location)
            .map_err(|_| redirect("to something that is no URL".to_owned()))?;
        check_hop(start, &url, policy).map_err(|why| DownloadError::Refused {
            url: shown_parsed(&url),
            why,
        })?;
    }
    Err(redirect(format!("more than {} times", policy.max_redirects)).into())
}

/// What an answer means that is no file.
pub(crate) fn not_a_file(shown: &str, response: &Response) -> Failed {
    let (url, status) = (shown.to_owned(), response.status().as_u16());
    let error = match status {
        404 | 410 => DownloadError::NotFound { url, status },
        401 | 403 => DownloadError::Unauthorized { url, status },
        _ => DownloadError::Status { url, status },
    };
    let seconds =
        header(response.headers(), &RETRY_AFTER).and_then(|text| text.trim().parse().ok());
    Failed {
        error,
        wait: seconds.map(Duration::from_secs),
    }
}

/// Refuses a body that is not the file as it is, or is announced to be too long.
pub(crate) fn check_body_head(
    shown: &str,
    response: &Response,
    limit: u64,
) -> Result<(), DownloadError> {
    let url = shown.to_owned();
    if let Some(encoding) = header(response.headers(), &CONTENT_ENCODING)
        && !encoding.eq_ignore_ascii_case("identity")
    {
        return Err(DownloadError::Encoded {
            url,
            encoding: encoding.chars().take(40).collect(),
        });
    }
    match response.content_length() {
        Some(length) if length > limit => Err(DownloadError::TooLarge { url, limit }),
        _ => Ok(()),
    }
}

pub(crate) fn header(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// The entity tag, when it is one that promises equal bytes.
pub(crate) fn strong_validator(headers: &HeaderMap) -> Option<String> {
    let tag = header(headers, &ETAG)?;
    let tag = tag.trim();
    let quoted = tag.len() > 2 && tag.starts_with('"') && tag.ends_with('"');
    (quoted && tag.len() <= TAG_BYTES).then(|| tag.to_owned())
}

/// What tells versions of a file apart without promising equal bytes: a weak entity tag, else the time of its last change.
/// Whoever joins bytes by it must know the digest of the whole.
pub(crate) fn weak_validator(headers: &HeaderMap) -> Option<String> {
    weak_tag(headers).or_else(|| last_change(headers))
}

/// Whether a validator is one of [`strong_validator`]: each kind is known by how it begins.
pub(crate) fn is_strong(validator: &str) -> bool {
    validator.starts_with('"')
}

/// The validator of an answer that is of the same kind as `known`, as only those can be compared.
pub(crate) fn validator_like(known: &str, headers: &HeaderMap) -> Option<String> {
    if is_strong(known) {
        strong_validator(headers)
    } else if known.starts_with(WEAK) {
        weak_tag(headers)
    } else {
        last_change(headers)
    }
}

/// How a weak entity tag begins.
const WEAK: &str = "W/\"";

fn weak_tag(headers: &HeaderMap) -> Option<String> {
    let tag = header(headers, &ETAG)?;
    let tag = tag.trim();
    let quoted = tag.len() > WEAK.len() + 1 && tag.starts_with(WEAK) && tag.ends_with('"');
    (quoted && tag.len() <= TAG_BYTES).then(|| tag.to_owned())
}

/// A time begins with the name of a day, so it never looks like a tag.
fn last_change(headers: &HeaderMap) -> Option<String> {
    let time = header(headers, &LAST_MODIFIED)?;
    let time = time.trim();
    let sound = time.starts_with(|c: char| c.is_ascii_alphabetic()) && !time.starts_with(WEAK);
    (sound && time.len() <= TAG_BYTES).then(|| time.to_owned())
}

pub(crate) fn stalled(shown: &str, policy: &Policy) -> DownloadError {
    DownloadError::Stalled {
        url: shown.to_owned(),
        after: policy.stall,
    }
}

/// No answer from `url`, which may be where a redirect led.
fn transport(url: &Url, error: &reqwest::Error) -> DownloadError {
    let url = shown_parsed(url);
    match refusal(error) {
        Some(address) => DownloadError::Refused {
            url,
            why: address.into(),
        },
        None => DownloadError::Transport {
            url,
            cause: innermost(error),
        },
    }
}

/// What went wrong at the bottom; the errors above it repeat the URL, query included.
pub(crate) fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match cause.downcast_ref::<reqwest::Error>() {
        // Nothing below: its own text would show the URL.
        Some(error) if error.is_timeout() => "timed out".to_owned(),
        Some(_) => "the request failed".to_owned(),
        None => cause.to_string(),
    }
}

/// Whether a download that began at `start` may go on at `next`. A host out there leads nobody to this machine, even
/// where downloads from this machine are allowed.
pub(crate) fn check_hop(start: &Url, next: &Url, policy: &Policy) -> Result<(), UrlRefusal> {
    let local = start.host().is_some_and(|host| names_loopback(&host));
    check_parsed(next, policy.allow_http_loopback && local)?;
    check_listed(next, policy)?;
    match next.host() {
        Some(host) if !local && names_loopback(&host) => Err(UrlRefusal::LeadsHome),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(start: &str, next: &str) -> Result<(), UrlRefusal> {
        let policy = Policy {
            allow_http_loopback: true,
            ..Policy::default()
        };
        check_hop(
            &Url::parse(start).unwrap(),
            &Url::parse(next).unwrap(),
            &policy,
        )
    }

    #[test]
    fn a_redirect_leads_home_only_from_home() {
        let (home, away) = ("http://127.0.0.1:9/a", "https://models.example/a");
        assert_eq!(hop(home, "http://localhost:8/b"), Ok(()));
        assert_eq!(hop(home, away), Ok(()));
        assert_eq!(hop(away, "https://cdn.example/b"), Ok(()));
        assert_eq!(hop(away, "https://localhost/b"), Err(UrlRefusal::LeadsHome));
        for next in [
            home,
            "https://127.0.0.1/b",
            "https://[::1]/b",
            "http://cdn.example/b",
            "https://a:b@cdn.example/",
        ] {
            assert!(hop(away, next).is_err(), "{next}");
        }
    }

    #[test]
    fn only_a_strong_tag_promises_equal_bytes() {
        let tag = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ETAG, HeaderValue::from_static(text));
            strong_validator(&headers)
        };
        assert_eq!(tag("\"abc\"").as_deref(), Some("\"abc\""));
        for weak in ["W/\"abc\"", "abc", "\"\"", "\"", ""] {
            assert_eq!(tag(weak), None, "{weak}");
        }
    }

    #[test]
    fn validators_are_compared_with_their_own_kind() {
        let time = "Fri, 27 Nov 2026 02:44:34 GMT";
        let answer = |fields: &[(HeaderName, &'static str)]| {
            let pairs = fields.iter().cloned();
            HeaderMap::from_iter(pairs.map(|(name, value)| (name, HeaderValue::from_static(value))))
        };
        let both = answer(&[(ETAG, "W/\"a\""), (LAST_MODIFIED, time)]);
        assert_eq!(weak_validator(&both).as_deref(), Some("W/\"a\""));
        assert_eq!(validator_like("W/\"b\"", &both).as_deref(), Some("W/\"a\""));
        assert_eq!(validator_like(time, &both).as_deref(), Some(time));
        assert_eq!(validator_like("\"a\"", &both), None);
        let dated = answer(&[(LAST_MODIFIED, time)]);
        assert_eq!(weak_validator(&dated).as_deref(), Some(time));
        assert_eq!(validator_like("W/\"a\"", &dated), None);
        for nothing in ["W/\"\"", "\"a", "7", ""] {
            let odd = answer(&[(LAST_MODIFIED, nothing), (ETAG, nothing)]);
            assert_eq!(weak_validator(&odd), None, "{nothing}");
        }
        assert!(is_strong("\"a\"") && !is_strong("W/\"a\"") && !is_strong(time));
    }
}
