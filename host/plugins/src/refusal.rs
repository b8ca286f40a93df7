//! Why a file was not taken, in words its operator can act on.

use std::fmt;

use crate::grants::Asked;

/// A file that was not loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The file's name in the folder, with anything unprintable escaped.
    pub file: String,
    /// The rule it broke.
    pub rule: Rule,
    /// What about it broke the rule, and what to do.
    pub detail: String,
    /// Whether it may be taken another time as it is.
    pub passing: bool,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} refused ({}): {}", self.file, self.rule, self.detail)
    }
}

/// The rules a plugin file has to keep, in the order they are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// The file's stem is a plugin name.
    Name,
    /// No two names differ by nothing but case.
    UniqueName,
    /// A regular file: not a link, a folder, a pipe or a device.
    RegularFile,
    /// It can be read.
    Readable,
    /// It is within its size.
    FileSize,
    /// It can be stored under its digest.
    Stored,
    /// It is signed where its origin or the operator requires that.
    NotSigned,
    /// Its signature is by a trusted key.
    UnknownKey,
    /// Its signature fits its bytes.
    Signature,
    /// The studio may change it: the operator has not locked it.
    Locked,
    /// A binary component: not text, not a core module, not something else.
    Component,
    /// Well-formed and valid.
    WellFormed,
    /// The metadata sections are legible, occur once and tell the truth about the name.
    Metadata,
    /// It is what the operator pinned the plugin to.
    Pinned,
    /// It is no older than what served, where it comes from afar.
    Older,
    /// The programs that it needs are here or can be had, where it replaces a version that has its own.
    Programs,
    /// The section that says what it asks for is legible, and asks for nothing that no plugin gets.
    Asks,
    /// The operator grants all that it asks for.
    Granted,
    /// It was made for a version of the contract that this worker knows.
    ContractVersion,
    /// It imports nothing but the log.
    Imports,
    /// It exports exactly one of the contract's worlds.
    World,
    /// Modules, instances, memories and tables are within their numbers.
    Counts,
    /// It compiles.
    Compiles,
    /// Imports and exports have the contract's shapes.
    Shape,
    /// It can be instantiated and answers about itself, within its limits.
    Probe,
    /// What it says about itself is sensible and within its grants.
    Description,
    /// It takes the place of a plugin of the same world.
    SameWorld,
    /// On the last jobs it does no worse than what it replaces.
    Shadow,
    /// It is still wanted when it is through: no other version and no word of the operator's came first.
    Overtaken,
}

impl Rule {
    /// The rule's name, stable across releases.
    pub fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::UniqueName => "unique-name",
            Self::RegularFile => "regular-file",
            Self::Readable => "readable",
            Self::FileSize => "file-size",
            Self::Stored => "stored",
            Self::NotSigned => "not-signed",
            Self::UnknownKey => "unknown-key",
            Self::Signature => "signature",
            Self::Locked => "locked",
            Self::Component => "component",
            Self::WellFormed => "well-formed",
            Self::Metadata => "metadata",
            Self::Pinned => "pinned",
            Self::Older => "older",
            Self::Programs => "programs",
            Self::Asks => "asks",
            Self::Granted => "granted",
            Self::ContractVersion => "contract-version",
            Self::Imports => "imports",
            Self::World => "world",
            Self::Counts => "counts",
            Self::Compiles => "compiles",
            Self::Shape => "shape",
            Self::Probe => "probe",
            Self::Description => "description",
            Self::SameWorld => "same-world",
            Self::Shadow => "shadow",
            Self::Overtaken => "overtaken",
        }
    }

    /// This rule, broken as `detail` says.
    pub fn broken(self, detail: impl Into<String>) -> Broken {
        Broken {
            rule: self,
            detail: detail.into(),
            lacks: None,
            passing: false,
        }
    }

    /// The same where it is no fault of the bytes: the disk is full, the machine too busy. Another time they may be taken.
    pub fn unmet(self, detail: impl Into<String>) -> Broken {
        Broken {
            passing: true,
            ..self.broken(detail)
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A broken rule, before it is known of which file.
#[derive(Debug)]
pub struct Broken {
    /// The rule.
    pub rule: Rule,
    /// What about the file broke it.
    pub detail: String,
    /// What the operator could grant so that it is not broken.
    pub lacks: Option<Box<Lacks>>,
    /// Whether it says nothing of the bytes: they may be taken another time.
    pub passing: bool,
}

/// What a file asks for beyond what it is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lacks {
    /// SHA-256 of the file in hexadecimal.
    pub digest: String,
    /// The version in its metadata; may be empty.
    pub version: String,
    /// All that it asks for.
    pub asked: Asked,
    /// The part that it is not given.
    pub more: Asked,
}

impl Broken {
    /// The same with what the operator could grant.
    pub(crate) fn lacking(self, asked: &Asked, more: Asked) -> Self {
        let asked = asked.clone();
        Self {
            lacks: Some(Box::new(Lacks {
                digest: String::new(),
                version: String::new(),
                asked,
                more,
            })),
            ..self
        }
    }

    /// Says of which version it is, where the operator could grant it.
    pub(crate) fn of(mut self, digest: &str, version: &str) -> Self {
        if let Some(lacks) = &mut self.lacks {
            lacks.digest = digest.to_owned();
            lacks.version = version.to_owned();
        }
        self
    }

    /// Says of which file.
    pub fn by(self, file: &str) -> Refusal {
        Refusal {
            file: crate::names::one_line(file, 128),
            rule: self.rule,
            detail: crate::names::one_line(&self.detail, 1024),
            passing: self.passing,
        }
    }
}
