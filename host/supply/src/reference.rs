//! `oci://HOST[:PORT]/NAME[:TAG|@sha256:…]`.

use std::fmt;

/// Longest of all, in bytes: what registries take is shorter.
const MAX_BYTES: usize = 512;

/// An artifact in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Host, with its port where there is one.
    pub host: String,
    /// Name of the repository there.
    pub name: String,
    /// Which one of it.
    pub version: Version,
}

/// Which artifact of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Version {
    /// Whatever this word stands for at the moment.
    Tag(String),
    /// Exactly this: `sha256:…`, of its manifest.
    Digest(String),
}

/// It names no artifact.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text} names no artifact: {why}; write oci://HOST/NAME:TAG or oci://HOST/NAME@sha256:DIGEST"
)]
pub struct BadReference {
    text: String,
    why: &'static str,
}

impl Reference {
    /// Reads one.
    ///
    /// # Errors
    /// When a part is missing or has a character that it may not have.
    pub fn parse(text: &str) -> Result<Self, BadReference> {
        let bad = |why| BadReference {
            text: text.chars().filter(|c| !c.is_control()).take(80).collect(),
            why,
        };
        let rest = text
            .strip_prefix("oci://")
            .ok_or_else(|| bad("it does not begin with oci://"))?;
        if rest.len() > MAX_BYTES {
            return Err(bad("it is too long"));
        }
        let (host, path) = rest
            .split_once('/')
            .ok_or_else(|| bad("it has no name behind the host"))?;
        let sound_host = !host.is_empty()
            && host
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-.:[]".contains(c));
        if !sound_host {
            return Err(bad("its host is none"));
        }
        let (name, version) = match path.split_once('@') {
            Some((before, digest)) => {
                if !is_digest(digest) {
                    return Err(bad("behind the @ belongs sha256: and 64 hex digits"));
                }
                // A tag beside a digest is for people; the digest counts.
                let name = before.split_once(':').map_or(before, |(name, _)| name);
                (name, Version::Digest(digest.to_owned()))
            }
            None => match path.split_once(':') {
                Some((name, tag)) if is_tag(tag) => (name, Version::Tag(tag.to_owned())),
                Some(_) => return Err(bad("its tag has a character that no tag has")),
                None => (path, Version::Tag("latest".to_owned())),
            },
        };
        if !is_name(name) {
            return Err(bad(
                "its name has a part that is empty, or a character that no name has",
            ));
        }
        Ok(Self {
            host: host.to_owned(),
            name: name.to_owned(),
            version,
        })
    }

    /// The tag, where it is named by one.
    pub(crate) fn tag(&self) -> Option<&str> {
        match &self.version {
            Version::Tag(tag) => Some(tag),
            Version::Digest(_) => None,
        }
    }

    /// As the registry's API names it.
    pub(crate) fn version_text(&self) -> &str {
        match &self.version {
            Version::Tag(text) | Version::Digest(text) => text,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, name, .. } = self;
        match &self.version {
            Version::Tag(tag) => write!(f, "oci://{host}/{name}:{tag}"),
            Version::Digest(digest) => write!(f, "oci://{host}/{name}@{digest}"),
        }
    }
}

/// `sha256:` and 64 lower-case hex digits.
pub(crate) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64
            && hex
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

fn is_tag(text: &str) -> bool {
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    begins
        && text.len() <= 128
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// Parts of lower-case letters and digits, with separators between them. So no part is a dot or two.
fn is_name(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.split('/').all(|part| {
        part.starts_with(alphanumeric)
            && part.ends_with(alphanumeric)
            && part.chars().all(|c| alphanumeric(c) || "._-".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read() {
        let digest = format!("sha256:{}", "a1".repeat(32));
        let one = |text: &str| Reference::parse(text).unwrap();
        assert_eq!(
            one("oci://models.example/a/b").version,
            Version::Tag("latest".to_owned())
        );
        let tagged = one("oci://127.0.0.1:5000/a/b:1.2.3-x");
        assert_eq!(
            (tagged.host.as_str(), tagged.name.as_str(), tagged.tag()),
            ("127.0.0.1:5000", "a/b", Some("1.2.3-x"))
        );
        for text in [
            format!("oci://models.example/a@{digest}"),
            format!("oci://models.example/a:1@{digest}"),
        ] {
            assert_eq!(one(&text).version, Version::Digest(digest.clone()));
            assert_eq!(one(&text).name, "a");
        }
    }

    #[test]
    fn what_names_no_artifact_is_refused() {
        for text in [
            "oci://",
            "oci://host",
            "oci:///a",
            "oci://host/",
            "oci://host/a/",
            "oci://host/../v2",
            "oci://host/a/..",
            "oci://host/A",
            "oci://host/a:",
            "oci://host/a:b/c",
            "oci://host/a@sha256:12",
            "oci://host/a@md5:00",
            "oci://me@host/a",
            "oci://host/a?b",
            "oci://host/a b",
            "oci://host/a%2fb",
            "https://host/a",
        ] {
            assert!(Reference::parse(text).is_err(), "{text}");
        }
    }
}
