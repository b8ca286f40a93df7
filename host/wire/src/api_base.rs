//! From `api_base_url` to the URLs of requests and of the socket.

use std::fmt;

use url::Url;

/// Path below which every route of the protocol lies.
const MOUNT: &str = "/graphics/api";

/// A checked `api_base_url`: absolute, http(s) or ws(s), without query, fragment or the mount path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiBase(Url);

/// Why an `api_base_url` cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ApiBaseError {
    /// Not an absolute URL.
    #[error("invalid api_base_url: {reason}; give an absolute URL such as https://studio.example")]
    Unparsable {
        /// What the URL parser objected to.
        reason: String,
    },
    /// Neither http(s) nor ws(s).
    #[error(
        "invalid api_base_url: unsupported scheme `{scheme}`; use https, or http on this machine"
    )]
    Scheme {
        /// The scheme that was given.
        scheme: String,
    },
    /// It names no host.
    #[error("invalid api_base_url: it names no host")]
    NoHost,
    /// A user name or password would end in logs and be sent to the studio.
    #[error("invalid api_base_url: it must not carry a user name or password")]
    Credentials,
}

impl ApiBase {
    /// Reads and normalises an `api_base_url`. A path before `/graphics/api` is kept; the mount itself is optional.
    pub fn parse(text: &str) -> Result<Self, ApiBaseError> {
        let mut url = Url::parse(text.trim()).map_err(|e| ApiBaseError::Unparsable {
            reason: e.to_string(),
        })?;
        if !matches!(url.scheme(), "http" | "https" | "ws" | "wss") {
            return Err(ApiBaseError::Scheme {
                scheme: url.scheme().to_owned(),
            });
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(ApiBaseError::NoHost);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(ApiBaseError::Credentials);
        }
        url.set_query(None);
        url.set_fragment(None);
        let path = url.path().trim_end_matches('/');
        let path = path
            .strip_suffix(MOUNT)
            .unwrap_or(path)
            .trim_end_matches('/')
            .to_owned();
        url.set_path(&path);
        Ok(Self(url))
    }

    /// URL of a request; `route` begins with a slash. Ids in it are interpolated raw, as the protocol has it.
    pub fn http(&self, route: &str) -> String {
        self.with_scheme(if self.is_secure() { "https" } else { "http" }, route)
    }

    /// URL of the WebSocket of one worker.
    pub fn socket(&self, worker_id: &str) -> String {
        let scheme = if self.is_secure() { "wss" } else { "ws" };
        self.with_scheme(scheme, &format!("/workers/{worker_id}/connect"))
    }

    /// Whether traffic is encrypted.
    pub fn is_secure(&self) -> bool {
        matches!(self.0.scheme(), "https" | "wss")
    }

    /// Whether the studio is on this machine, by an address that cannot mean any other.
    pub fn is_loopback(&self) -> bool {
        match self.0.host() {
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            Some(url::Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
            None => false,
        }
    }

    fn with_scheme(&self, scheme: &str, route: &str) -> String {
        let text = self.to_string();
        let rest = text
            .split_once("://")
            .map_or(text.as_str(), |(_, rest)| rest);
        format!("{scheme}://{rest}{MOUNT}{route}")
    }
}

impl fmt::Display for ApiBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: &str = "/workers/register-request";

    #[test]
    fn the_mount_is_optional_and_never_doubled() {
        for (given, expected) in [
            (
                "https://studio.example/",
                "https://studio.example/graphics/api/workers/register-request",
            ),
            (
                "https://h/graphics/api",
                "https://h/graphics/api/workers/register-request",
            ),
            (
                "https://h/graphics/api/",
                "https://h/graphics/api/workers/register-request",
            ),
            (
                "https://h/custom?x=1#y",
                "https://h/custom/graphics/api/workers/register-request",
            ),
            (
                "https://h/custom/graphics/api/",
                "https://h/custom/graphics/api/workers/register-request",
            ),
            (
                "https://h//",
                "https://h/graphics/api/workers/register-request",
            ),
            (
                "https://h/graphics/api/graphics/api",
                "https://h/graphics/api/graphics/api/workers/register-request",
            ),
            (
                "wss://h:8443/x/",
                "https://h:8443/x/graphics/api/workers/register-request",
            ),
        ] {
            assert_eq!(
                ApiBase::parse(given).unwrap().http(ROUTE),
                expected,
                "{given}"
            );
        }
    }

    #[test]
    fn the_socket_url_drops_the_query() {
        for (given, expected) in [
            (
                "http://127.0.0.1:9/a?t=1",
                "ws://127.0.0.1:9/a/graphics/api/workers/w-1/connect",
            ),
            (
                "https://h/graphics/api/",
                "wss://h/graphics/api/workers/w-1/connect",
            ),
            ("ws://h", "ws://h/graphics/api/workers/w-1/connect"),
        ] {
            assert_eq!(
                ApiBase::parse(given).unwrap().socket("w-1"),
                expected,
                "{given}"
            );
        }
    }

    #[test]
    fn what_cannot_be_a_studio_is_refused() {
        assert!(matches!(
            ApiBase::parse("studio"),
            Err(ApiBaseError::Unparsable { .. })
        ));
        assert!(matches!(
            ApiBase::parse("ftp://h"),
            Err(ApiBaseError::Scheme { .. })
        ));
        assert_eq!(
            ApiBase::parse("https://me:pw@h"),
            Err(ApiBaseError::Credentials)
        );
    }
}
