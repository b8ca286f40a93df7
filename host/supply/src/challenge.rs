//! What a registry answers to whoever comes without a token: where one is given.

/// Longest challenge that is read, in bytes.
const MAX_BYTES: usize = 4 << 10;

/// `Bearer realm="…",service="…"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    pub(crate) realm: String,
    pub(crate) service: Option<String>,
}

impl Challenge {
    /// Reads the value of a `WWW-Authenticate` header; none where it asks for no bearer token. The scope that it names is not
    /// used: what is wanted is known.
    pub(crate) fn parse(header: &str) -> Option<Self> {
        let (scheme, mut rest) = header.get(..MAX_BYTES.min(header.len()))?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service) = (None, None);
        while let Some((name, value, after)) = parameter(rest) {
            match name.to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value),
                "service" => service = Some(value),
                _ => {}
            }
            rest = after;
        }
        Some(Self {
            realm: realm?,
            service,
        })
    }
}

/// The first `name="value"` or `name=value`, and what is behind it.
fn parameter(text: &str) -> Option<(&str, String, &str)> {
    let text = text.trim_start_matches([' ', ',', '\t']);
    let (name, rest) = text.split_once('=')?;
    let Some(quoted) = rest.strip_prefix('"') else {
        let end = rest.find(',').unwrap_or(rest.len());
        let (value, after) = rest.split_at_checked(end)?;
        return Some((name, value.trim().to_owned(), after));
    };
    let (mut value, mut escaped) = (String::new(), false);
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return Some((name, value, quoted.get(at + 1..)?)),
            _ => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_read() {
        let read = Challenge::parse(r#"Bearer realm="https://a.example/t?x=1,2",service="r \"q\"",scope="repository:x:pull""#).unwrap();
        assert_eq!(read.realm, "https://a.example/t?x=1,2");
        assert_eq!(read.service.as_deref(), Some("r \"q\""));
        assert_eq!(
            Challenge::parse("bearer service=s, realm=https://a.example")
                .unwrap()
                .realm,
            "https://a.example"
        );
        for other in [
            "",
            "Basic realm=\"x\"",
            "Bearer",
            "Bearer service=\"x\"",
            "Bearer realm=\"unended",
        ] {
            assert_eq!(Challenge::parse(other), None, "{other}");
        }
    }
}
