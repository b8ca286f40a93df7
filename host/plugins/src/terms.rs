//! On what terms a file may come: who brought it, who signed it, what it is held against.

use semver::Version;
use serde::Serialize;
use worker_trust::{Verified, VerifyError};

use crate::examine::Anatomy;
use crate::grants::Asked;
use crate::names::one_line;
use crate::policy::{Permissions, Policy};
use crate::refusal::{Broken, Rule};

/// Who brought a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Origin {
    /// This very program, which holds it.
    BuiltIn,
    /// The operator's own hand: the folder, a file named on the command line.
    #[default]
    Operator,
    /// Anybody else: a studio, an address. Must be signed by a trusted key.
    Remote,
}

/// What is known of a file's signature. One that fails is no state of a plugin but a refusal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Signature {
    /// There is none.
    #[default]
    NotSigned,
    /// It is there, fits the bytes, and is made by this trusted key.
    Verified {
        /// The key's id.
        key: String,
        /// What the operator calls the key.
        name: Option<String>,
    },
}

/// For people: `not signed`, or by whom.
impl std::fmt::Display for Signature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotSigned => f.write_str("not signed"),
            Self::Verified { key, name: None } => write!(f, "signed by {key}"),
            Self::Verified {
                key,
                name: Some(name),
            } => write!(f, "signed by {name} ({key})"),
        }
    }
}

/// The same of a file that is looked at, where failing is a state too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum SignatureSeen {
    /// It would serve with this.
    Sound(Signature),
    /// It would be refused.
    Failed {
        /// `failed`.
        state: &'static str,
        /// Why.
        reason: String,
    },
}

impl SignatureSeen {
    /// That of an operator's own file, by the keys of a policy.
    pub(crate) fn of(
        bytes: &[u8],
        signature: Result<Option<String>, Broken>,
        policy: &Policy,
    ) -> Self {
        let seen = signature.and_then(|signature| {
            let unsigned = signature.is_none();
            let terms = Terms::of_operator(signature);
            match terms.check_signature(bytes, policy) {
                Err(_) if unsigned => Ok(Signature::NotSigned),
                checked => checked.map(|(signature, _)| signature),
            }
        });
        match seen {
            Ok(signature) => Self::Sound(signature),
            Err(broken) => Self::Failed {
                state: "failed",
                reason: one_line(&broken.detail, 512),
            },
        }
    }
}

impl std::fmt::Display for SignatureSeen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sound(signature) => signature.fmt(f),
            Self::Failed { reason, .. } => write!(f, "verification failed: {reason}"),
        }
    }
}

/// What is known of a file beside its bytes.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// Who brought it.
    pub origin: Origin,
    /// The text of its signature file, where there is one.
    pub signature: Option<String>,
    /// What the operator granted it by command, beside `plugins.toml`.
    pub granted: Vec<Asked>,
    /// Whether it wants to serve and does not yet: then the operator's pin counts.
    pub candidate: bool,
    /// For a candidate from afar: what it is held against.
    pub against: Option<Against>,
}

/// What a candidate from afar is held against.
#[derive(Debug, Clone, Default)]
pub struct Against {
    /// What the version that serves asks for; nothing where none serves. None: the operator granted what this very file asks for.
    pub asked: Option<Asked>,
    /// The highest version that served here. The candidate's may not be lower.
    pub highest: Option<String>,
    /// The candidate served before, and another replaced it.
    pub replaced: bool,
    /// Digest of what serves: a signed order that names it lifts both.
    pub serves: Option<String>,
    /// The candidate replaced what serves once before: its order to do so was carried out.
    pub spent: bool,
}

impl Terms {
    /// Those of a file that this program holds.
    pub fn built_in() -> Self {
        Self {
            origin: Origin::BuiltIn,
            ..Self::default()
        }
    }

    /// Those of the operator's own file with the signature that lies beside it.
    pub fn of_operator(signature: Option<String>) -> Self {
        Self {
            signature,
            ..Self::default()
        }
    }

    /// Checks the signature, as far as the origin and the operator require one.
    pub(crate) fn check_signature(
        &self,
        bytes: &[u8],
        policy: &Policy,
    ) -> Result<(Signature, Option<String>), Broken> {
        let Some(text) = &self.signature else {
            return match self.origin {
                Origin::Remote => Err(Rule::NotSigned.broken(
                    "is not signed, and what does not come by the operator's own hand must be signed by a key that plugins.toml trusts",
                )),
                Origin::Operator if policy.require_signature => Err(Rule::NotSigned.broken(
                    "is not signed, and plugins.toml says `require-signature = true`; put its .minisig beside it",
                )),
                Origin::Operator | Origin::BuiltIn => Ok((Signature::NotSigned, None)),
            };
        };
        let verified = worker_trust::verify(bytes, text, &policy.keys).map_err(|error| {
            let rule = match error {
                VerifyError::Stranger { .. } => Rule::UnknownKey,
                VerifyError::TooLarge | VerifyError::Malformed | VerifyError::DoesNotFit { .. } => {
                    Rule::Signature
                }
            };
            rule.broken(error.to_string())
        })?;
        let order = verified.replaces();
        let Verified { key, name, .. } = verified;
        Ok((Signature::Verified { key, name }, order))
    }

    /// Checks what is said of the version, before anything is compiled.
    pub(crate) fn check_version(
        &self,
        digest: &str,
        anatomy: &Anatomy<'_>,
        order: Option<&str>,
        given: &Permissions,
    ) -> Result<(), Broken> {
        let stated = anatomy.version.as_deref().unwrap_or_default();
        if let (true, Some(pinned)) = (self.candidate, &given.pinned)
            && !is_pinned(pinned, stated, digest)
        {
            return Err(Rule::Pinned.broken(format!(
                "plugins.toml pins the plugin to `{pinned}`, and this is {} ({digest})",
                or_none(stated)
            )));
        }
        if self.origin != Origin::Remote {
            return Ok(());
        }
        // Nothing but the file says which plugin this is: a name that is given beside it is nobody's word.
        if anatomy.name.is_none() {
            return Err(Rule::Metadata.broken(
                "its metadata holds no name, and what comes from afar must state its own",
            ));
        }
        let version = Version::parse(stated).map_err(|_| {
            Rule::Metadata.broken(format!(
                "its metadata states the version {}, and what comes from afar must have one such as 1.2.0",
                or_none(stated)
            ))
        })?;
        match &self.against {
            Some(against) => against.check(&version, order),
            None => Ok(()),
        }
    }

    /// From afar nothing may ask for more than what it replaces without the operator's word, whatever `plugins.toml` allows.
    pub(crate) fn check_asked(&self, asked: &Asked) -> Result<(), Broken> {
        let Some(before) = self.against.as_ref().and_then(|one| one.asked.as_ref()) else {
            return Ok(());
        };
        let more = asked.beyond(&Permissions::default().with(before));
        if more.is_nothing() {
            return Ok(());
        }
        let told = format!("asks for more than what it would replace: {more}");
        Err(Rule::Granted.broken(told).lacking(asked, more))
    }
}

fn or_none(version: &str) -> String {
    match version {
        "" => "none".to_owned(),
        version => one_line(version, 64),
    }
}

/// Whether a text is a version that can be compared with others, such as 1.2.0.
pub fn is_version(text: &str) -> bool {
    Version::parse(text).is_ok()
}

/// Shorter prefixes of digests could be met by chance, and could be versions.
const MIN_DIGITS: usize = 12;

fn is_pinned(pinned: &str, version: &str, digest: &str) -> bool {
    pinned == version || pinned.len() >= MIN_DIGITS && digest.starts_with(pinned)
}

impl Against {
    fn check(&self, version: &Version, order: Option<&str>) -> Result<(), Broken> {
        let highest = self
            .highest
            .as_deref()
            .and_then(|one| Version::parse(one).ok());
        let lower = highest
            .as_ref()
            .filter(|highest| version.cmp_precedence(highest).is_lt());
        let why = match lower {
            Some(highest) => format!("{highest} served here"),
            None if self.replaced => "this very file served here and was replaced".to_owned(),
            None => return Ok(()),
        };
        let serves = self.serves.as_deref();
        let told = match order {
            Some(order) if Some(order) != serves => {
                "the order in its signature is for another digest than the one that serves"
            }
            Some(_) if self.spent => "the order in its signature was carried out already",
            Some(_) => return Ok(()),
            None => "its signature holds no order for it",
        };
        let serves = match serves {
            Some(digest) => format!("`plugin sign --replaces {digest}`"),
            None => "a higher version".to_owned(),
        };
        Err(Rule::Older.broken(format!(
            "is {version}, and {why}; {told}: from afar a plugin goes down by nothing but {serves}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn against(highest: &str, serves: &str) -> Against {
        Against {
            highest: Some(highest.to_owned()),
            serves: Some(serves.to_owned()),
            ..Against::default()
        }
    }

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap()
    }

    #[test]
    fn a_version_goes_down_by_a_signed_order_for_what_serves_and_by_nothing_else() {
        let against = against("2.0.0", "aa");
        assert!(against.check(&version("2.0.0"), None).is_ok());
        assert!(against.check(&version("2.0.1"), None).is_ok());
        for order in [None, Some("bb")] {
            let broken = against.check(&version("1.9.0"), order).unwrap_err();
            assert_eq!(broken.rule, Rule::Older);
        }
        assert!(against.check(&version("1.9.0"), Some("aa")).is_ok());
        // A release comes after its own candidates, and what stands behind a plus sign is no order.
        assert!(against.check(&version("2.0.0-rc.1"), None).is_err());
        assert!(against.check(&version("2.0.0+build"), None).is_ok());
    }

    #[test]
    fn what_was_replaced_and_orders_that_were_carried_out_do_not_come_again() {
        let mut against = against("2.0.0", "aa");
        against.replaced = true;
        assert!(against.check(&version("2.0.0"), None).is_err());
        assert!(against.check(&version("2.0.0"), Some("aa")).is_ok());
        against.spent = true;
        assert!(against.check(&version("2.0.0"), Some("aa")).is_err());
    }

    #[test]
    fn a_pin_is_a_version_or_enough_of_a_digest() {
        let digest = "12345678901234567890";
        assert!(is_pinned("1.2.0", "1.2.0", digest));
        assert!(is_pinned("123456789012", "1.2.0", digest));
        assert!(!is_pinned("1234", "1.2.0", digest));
        assert!(!is_pinned("1.2", "1.2.0", digest));
    }
}
