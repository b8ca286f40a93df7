//! What a download may ask for, and the limits of the asking.
//!
//! The rules for addresses are in [`crate::check_address`]; here are those that the text of a URL can break.

use std::net::IpAddr;
use std::time::Duration;

use url::{Host, Url};

use crate::address::{AddressRefusal, check_address};
use crate::credentials::Credential;

/// The longest URL that is looked at, except a `data:` one. Longer ones are an attack on somebody's parser.
const URL_BYTES: usize = 16 * 1024;

/// Limits and permissions of downloads.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Whether `http:` (and `https:`) to this machine's own loopback addresses is allowed, for a studio or a model host
    /// that runs beside the worker. `http:` to anywhere else never is.
    pub allow_http_loopback: bool,
    /// Redirects followed in one attempt. Model hosts use two; a longer chain is a loop or a game.
    pub max_redirects: u32,
    /// How long a connection may take to stand. Smaller fails on satellite links; larger hides a dead host.
    pub connect: Duration,
    /// A transfer that brings less than [`Policy::stall_floor`] in this time is given up and tried again. It bounds the
    /// wait for the answer's head as well. Smaller breaks on a congested link; larger holds the job's slot for nothing.
    pub stall: Duration,
    /// Bytes that must arrive within each [`Policy::stall`] while more are expected, so that a host dripping one byte a
    /// minute does not hold a slot for days.
    pub stall_floor: u64,
    /// Tries of one download, the first included. A download that goes on where it was may have more, see
    /// [`Policy::outage`].
    pub attempts: u32,
    /// How long a download that goes on where it was waits out a network that is not there, or a host that only fails,
    /// however many tries were quick to fail meanwhile. Smaller fails jobs whenever a router starts anew; larger holds the
    /// job's slot for a host that is gone.
    pub outage: Duration,
    /// Wait before the second try, doubled for each further one, and multiplied by a random number between ½ and 1½.
    pub backoff: Duration,
    /// Longest body when the caller names no limit of its own.
    pub max_bytes: u64,
    /// Longest text of a `data:` URL, in bytes. They come in offers, whose claims are no longer than the default of 16 MiB.
    pub max_data_url: usize,
    /// The operator's logins, each sent to its own place only.
    pub credentials: Vec<Credential>,
    /// When not empty, the only hosts that files may come from (`models.example`, `models.example:8443`), redirects
    /// included: name the hosts that those redirect to as well. This machine, where it is allowed, needs no entry.
    pub only_hosts: Vec<String>,
    /// Connections of one resumable download. More is taken for an attack by some hosts; fewer leaves a line unused that
    /// gives each connection its share.
    pub connections: usize,
    /// Bytes that one of several connections asks for at a time. Smaller costs more round trips; larger makes the
    /// digest wait longer for the slowest connection.
    pub piece_bytes: u64,
    /// Files from this size on come through several connections, where the host allows. Smaller ones are there before
    /// the others have shaken hands.
    pub parallel_from: u64,
    /// Bytes of the disk that no download may use up: whoever else writes there would fail.
    pub disk_reserve: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            allow_http_loopback: false,
            max_redirects: 5,
            connect: Duration::from_secs(15),
            stall: Duration::from_secs(60),
            stall_floor: 16 * 1024,
            attempts: 3,
            outage: Duration::from_secs(60),
            backoff: Duration::from_secs(1),
            max_bytes: 256 << 30,
            max_data_url: 16 << 20,
            credentials: Vec::new(),
            only_hosts: Vec::new(),
            connections: 6,
            piece_bytes: 16 << 20,
            parallel_from: 64 << 20,
            disk_reserve: 64 << 20,
        }
    }
}

/// Why a URL is not asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlRefusal {
    /// It does not parse.
    #[error("it is not a valid URL")]
    Malformed,
    /// It is longer than any honest URL.
    #[error("it is longer than {URL_BYTES} bytes")]
    TooLong,
    /// A scheme other than `https:`, and `http:` to loopback where allowed.
    #[error("only https: is allowed{}, not {scheme}:", if *.loopback { " (and http: to this machine)" } else { "" })]
    Scheme {
        /// The scheme that it has.
        scheme: String,
        /// Whether `http:` to loopback would have been.
        loopback: bool,
    },
    /// `user@host` or `user:password@host`, which is how one host is made to look like another.
    #[error("it carries a user name or password")]
    UserInfo,
    /// No host at all.
    #[error("it names no host")]
    NoHost,
    /// A host that the operator's list does not name.
    #[error(
        "the operator allows only the hosts of `download-hosts` in network.toml; add this one there if it is wanted"
    )]
    NotListed,
    /// A redirect from elsewhere to this machine.
    #[error("a host elsewhere redirects to this machine")]
    LeadsHome,
    /// An address, written in the URL or found for its host's name, that is no public one.
    #[error("{0}")]
    Address(#[from] AddressRefusal),
}

/// Whether `url` may be asked for under `policy`, as far as its text tells. Addresses that its name leads to are judged
/// when it is resolved. `data:` URLs are not for this function.
///
/// # Errors
/// The rule that it breaks.
pub fn check_url(text: &str, policy: &Policy) -> Result<Url, UrlRefusal> {
    if text.len() > URL_BYTES {
        return Err(UrlRefusal::TooLong);
    }
    let url = Url::parse(text).map_err(|_| UrlRefusal::Malformed)?;
    check_parsed(&url, policy.allow_http_loopback)?;
    check_listed(&url, policy)?;
    Ok(url)
}

/// The operator's list of hosts, where there is one.
pub(crate) fn check_listed(url: &Url, policy: &Policy) -> Result<(), UrlRefusal> {
    let host = url.host().ok_or(UrlRefusal::NoHost)?;
    if policy.only_hosts.is_empty() || names_loopback(&host) {
        return Ok(());
    }
    let place = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_string(),
    };
    let listed = policy.only_hosts.iter();
    match { listed }.any(|allowed| allowed.eq_ignore_ascii_case(&place)) {
        true => Ok(()),
        false => Err(UrlRefusal::NotListed),
    }
}

/// The rules of [`check_url`] for a URL that is parsed already: the target of a redirect, say.
pub(crate) fn check_parsed(url: &Url, loopback: bool) -> Result<(), UrlRefusal> {
    let scheme = || UrlRefusal::Scheme {
        scheme: url.scheme().chars().take(20).collect(),
        loopback,
    };
    if !matches!(url.scheme(), "https" | "http") {
        return Err(scheme());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(UrlRefusal::UserInfo);
    }
    let host = url.host().ok_or(UrlRefusal::NoHost)?;
    if url.scheme() == "http" && !(loopback && names_loopback(&host)) {
        return Err(scheme());
    }
    let literal = match host {
        Host::Domain(_) => return Ok(()),
        Host::Ipv4(address) => IpAddr::V4(address),
        Host::Ipv6(address) => IpAddr::V6(address),
    };
    check_address(literal, loopback)?;
    Ok(())
}

/// Whether the host is this machine by what it is called. Any other name that resolves to loopback is somebody's trick.
pub(crate) fn names_loopback<S: AsRef<str>>(host: &Host<S>) -> bool {
    match host {
        Host::Domain(name) => is_localhost(name.as_ref()),
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

/// `localhost` and names under it, which no public name server answers for.
pub(crate) fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str, loopback: bool) -> Option<UrlRefusal> {
        let policy = Policy {
            allow_http_loopback: loopback,
            ..Policy::default()
        };
        check_url(text, &policy).err()
    }

    #[test]
    fn https_to_public_hosts() {
        for text in [
            "https://models.example/a?b=c",
            "https://8.8.8.8:8443/x",
            "HTTPS://[2606:4700::1111]/",
        ] {
            assert_eq!(refused(text, false), None, "{text}");
        }
    }

    #[test]
    fn addresses_in_every_spelling() {
        for text in [
            "https://127.0.0.1/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://0177.0.0.1/",
            "https://127.1/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://10.1.2.3/",
            "https://169.254.169.254/latest",
            "https://[fd00:ec2::254]/",
            "https://0/",
            "https://[64:ff9b::7f00:1]/",
        ] {
            assert!(
                matches!(refused(text, false), Some(UrlRefusal::Address(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn schemes_user_names_and_nonsense() {
        for text in [
            "http://models.example/",
            "file:///etc/passwd",
            "ftp://x/",
            "gopher://x/",
            "http://127.0.0.1/",
        ] {
            assert!(
                matches!(refused(text, false), Some(UrlRefusal::Scheme { .. })),
                "{text}"
            );
        }
        for text in [
            "https://good.example@evil.example/",
            "https://u:p@models.example/",
            "https://:p@models.example/",
        ] {
            assert_eq!(refused(text, false), Some(UrlRefusal::UserInfo), "{text}");
        }
        for text in [
            "",
            "models.example/x",
            "https://",
            "https:// /",
            "https://[::1",
        ] {
            assert_eq!(refused(text, false), Some(UrlRefusal::Malformed), "{text}");
        }
        let long = format!("https://models.example/{}", "x".repeat(URL_BYTES));
        assert_eq!(refused(&long, false), Some(UrlRefusal::TooLong));
    }

    #[test]
    fn only_listed_hosts_where_there_is_a_list() {
        let policy = Policy {
            only_hosts: vec!["models.example".into(), "cdn.example:8443".into()],
            ..Policy::default()
        };
        let refused = |url: &str| check_url(url, &policy).err();
        assert_eq!(refused("https://MODELS.example/a"), None);
        assert_eq!(refused("https://cdn.example:8443/a"), None);
        for url in [
            "https://cdn.example/a",
            "https://models.example:8443/a",
            "https://a.models.example/",
            "https://8.8.8.8/",
        ] {
            assert_eq!(refused(url), Some(UrlRefusal::NotListed), "{url}");
        }
    }

    #[test]
    fn http_to_this_machine_only_where_allowed() {
        for text in [
            "http://127.0.0.1:80/",
            "http://localhost:1/",
            "http://[::1]/",
            "http://a.localhost/",
            "https://127.9.9.9/",
        ] {
            assert_eq!(refused(text, true), None, "{text}");
        }
        for text in [
            "http://models.example/",
            "http://10.0.0.1/",
            "http://[::ffff:127.0.0.1]/",
            "http://localhost.example/",
        ] {
            assert!(
                matches!(refused(text, true), Some(UrlRefusal::Scheme { .. })),
                "{text}"
            );
        }
    }
}
