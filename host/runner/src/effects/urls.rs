//! Which URLs a plugin may name: those that stand word for word in the offer, or lie on a host granted to it.

use std::collections::HashSet;

use serde_json::Value;
use url::Url;

use super::Refused;
use crate::journal::bare_url;

/// Every text that stands as a value in an offer.
#[derive(Debug, Default)]
pub(crate) struct OfferTexts(HashSet<String>);

impl OfferTexts {
    /// Collects the texts of a claim.
    pub(crate) fn of(claim: &str) -> Self {
        let mut texts = HashSet::new();
        // Walked with a list of its own: a deeply nested offer must not exhaust the stack.
        let mut left = vec![serde_json::from_str(claim).unwrap_or(Value::Null)];
        while let Some(value) = left.pop() {
            match value {
                Value::String(text) => {
                    texts.insert(text);
                }
                Value::Array(items) => left.extend(items),
                Value::Object(map) => left.extend(map.into_iter().map(|(_, value)| value)),
                _ => {}
            }
        }
        Self(texts)
    }

    /// Whether a text stands in the offer.
    pub(crate) fn hold(&self, text: &str) -> bool {
        self.0.contains(text)
    }

    /// Refuses a URL that is neither in the offer nor on one of the `hosts`.
    pub(crate) fn check(&self, url: &str, hosts: &[String]) -> Result<(), Refused> {
        if self.hold(url) || on_granted_host(url, hosts) {
            Ok(())
        } else {
            Err(Refused::ForeignUrl {
                url: bare_url(url).unwrap_or_else(|| "not a URL".to_owned()),
            })
        }
    }
}

/// A host is granted as a whole name, with its port where that is not the usual one; only https without user info
/// counts as being on it, and http to this machine, which egress then allows or not.
pub(super) fn on_granted_host(url: &str, hosts: &[String]) -> bool {
    let Ok(url) = Url::parse(url) else {
        return false;
    };
    hosts
        .iter()
        .any(|granted| worker_egress::is_at(&url, granted, "/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_offer_and_granted_hosts() {
        let texts = OfferTexts::of(r#"{"task":{"list":[{"u":"https://a/x?y=1"}]}}"#);
        let granted = ["models.example".to_owned()];
        assert!(texts.check("https://a/x?y=1", &[]).is_ok());
        for foreign in [
            "https://a/x",
            "https://a/x?y=12",
            "https://models.example/m",
            "http://a/x?y=1",
            "",
        ] {
            assert!(texts.check(foreign, &[]).is_err(), "{foreign}");
        }
        assert!(texts.check("https://models.example/m", &granted).is_ok());
        let with_port = ["models.example:8443".to_owned()];
        assert!(
            texts
                .check("https://models.example:8443/m", &with_port)
                .is_ok()
        );
        assert!(texts.check("https://models.example/m", &with_port).is_err());
        for near in [
            "http://models.example/m",
            "https://models.example.evil/m",
            "https://evil/models.example",
            "https://models.example@evil/m",
            "https://me:pw@models.example/m",
            "https://models.example:8443/m",
        ] {
            assert!(texts.check(near, &granted).is_err(), "{near}");
        }
    }

    #[test]
    fn a_refusal_does_not_repeat_what_may_be_secret() {
        let refused = OfferTexts::default()
            .check("https://u:p@evil/x?prompt=koi", &[])
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("https://evil/x")
                && !refused.contains("koi")
                && !refused.contains("u:p")
        );
    }
}
