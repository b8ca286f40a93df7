//! The operator's logins at model hosts: each bound to a host and a path prefix.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::header::HeaderValue;
use url::Url;

use crate::policy::names_loopback;

/// A token for the files below one path of one host. Its debug output does not show it.
#[derive(Debug, Clone)]
pub struct Credential {
    host: String,
    path_prefix: String,
    /// The registry for which tokens may be asked with it, where that is another host.
    registry: Option<String>,
    header: HeaderValue,
}

/// The token cannot stand in a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the token is empty or holds a character that no header may: check for a line break in it")]
pub struct BadToken;

impl Credential {
    /// Sent as `Authorization: Bearer TOKEN`. `host` may carry a port (`models.example:8443`).
    ///
    /// # Errors
    /// When the token is empty or holds control characters.
    pub fn bearer(host: &str, path_prefix: &str, token: &str) -> Result<Self, BadToken> {
        if token.is_empty() {
            return Err(BadToken);
        }
        Self::new(host, path_prefix, &format!("Bearer {token}"))
    }

    fn new(host: &str, path_prefix: &str, header: &str) -> Result<Self, BadToken> {
        let mut header = HeaderValue::from_str(header).map_err(|_| BadToken)?;
        header.set_sensitive(true);
        Ok(Self {
            host: host.to_ascii_lowercase(),
            path_prefix: path_prefix.to_owned(),
            registry: None,
            header,
        })
    }

    /// Sent as `Authorization: Basic …`, with a name and a password. `host` may carry a port.
    ///
    /// # Errors
    /// When the name holds a colon, or one of them is empty or holds control characters.
    pub fn basic(
        host: &str,
        path_prefix: &str,
        name: &str,
        password: &str,
    ) -> Result<Self, BadToken> {
        let unfit = |text: &str| text.is_empty() || text.chars().any(char::is_control);
        if unfit(name) || unfit(password) || name.contains(':') {
            return Err(BadToken);
        }
        let both = BASE64.encode(format!("{name}:{password}"));
        Self::new(host, path_prefix, &format!("Basic {both}"))
    }

    /// Lets tokens for plugins of `registry`, which may carry a port, be asked for with it.
    #[must_use]
    pub fn for_registry(mut self, registry: Option<&str>) -> Self {
        self.registry = registry.map(str::to_ascii_lowercase);
        self
    }

    /// Whether a token for `registry` may be asked for with it: it is for that host, or names it.
    pub(crate) fn is_for_registry(&self, registry: &str) -> bool {
        let named = self.registry.as_deref().unwrap_or(&self.host);
        named.eq_ignore_ascii_case(registry)
    }

    /// The header for `url`, when it lies where this credential is for.
    pub(crate) fn header_for(&self, url: &Url) -> Option<&HeaderValue> {
        is_at(url, &self.host, &self.path_prefix).then_some(&self.header)
    }
}

/// Whether `url` lies on `host` (with its port where that is not the usual one) at or below `path_prefix`, encrypted or
/// on this machine. A path that a server might read as another one (encoded dots and slashes) lies nowhere.
#[must_use]
pub fn is_at(url: &Url, host: &str, path_prefix: &str) -> bool {
    let safe = match url.scheme() {
        "https" => true,
        "http" => url.host().is_some_and(|host| names_loopback(&host)),
        _ => false,
    };
    let place = match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => return false,
    };
    let path = url.path();
    let lower = path.to_ascii_lowercase();
    let ambiguous = ["%2e", "%2f", "%5c", "//"]
        .iter()
        .any(|trick| lower.contains(trick));
    let below = path
        .strip_prefix(path_prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || path_prefix.ends_with('/'));
    safe && !ambiguous
        && below
        && path_prefix.starts_with('/')
        && place.eq_ignore_ascii_case(host)
        && url.username().is_empty()
        && url.password().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_stays_on_its_host_and_below_its_path() {
        let at = |url: &str| {
            let url = Url::parse(url).unwrap();
            let own = Credential::bearer("Models.example", "/acme", "planted").unwrap();
            own.header_for(&url).is_some()
        };
        for url in [
            "https://models.example/acme",
            "https://models.example/acme/x?y",
            "https://MODELS.example:443/acme/",
            "https://models.example/other/../acme/x",
        ] {
            assert!(at(url), "{url}");
        }
        for url in [
            "http://models.example/acme/x",
            "https://models.example/acmeevil/x",
            "https://models.example/acme/../x",
            "https://models.example/acme/%2e%2e/x",
            "https://models.example/acme/..%2fx",
            "https://models.example/acme//x",
            "https://models.example:8443/acme/x",
            "https://models.example.evil/acme/x",
            "https://evil/acme/x",
            "https://models.example@evil/acme/x",
            "https://me@models.example/acme/x",
            "https://cdn.models.example/acme/x",
        ] {
            assert!(!at(url), "{url}");
        }
    }

    #[test]
    fn a_login_buys_tokens_for_its_registry_alone() {
        let own = Credential::bearer("auth.example", "/", "planted").unwrap();
        assert!(own.is_for_registry("auth.example"));
        assert!(!own.is_for_registry("evil.example"));
        let own = own.for_registry(Some("Registry.example:8443"));
        assert!(own.is_for_registry("registry.example:8443"));
        for other in ["auth.example", "registry.example", "evil.example"] {
            assert!(!own.is_for_registry(other), "{other}");
        }
    }

    #[test]
    fn a_token_is_checked_and_never_shown() {
        let own = Credential::bearer("h", "/", "planted").unwrap();
        assert!(!format!("{own:?}").contains("planted"));
        for token in ["", "a\r\nb", "a\nhost: evil"] {
            assert_eq!(
                Credential::bearer("h", "/", token).err(),
                Some(BadToken),
                "{token:?}"
            );
        }
    }
}
