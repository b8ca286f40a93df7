//! What comes other than by the folder, and what is told of every state that a version passes.

use serde::{Deserialize, Serialize};
use worker_plugins::Rule;

/// Bytes with a signature, under the name of the plugin that they are to be.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// The plugin's name.
    pub name: String,
    /// The component.
    pub bytes: Vec<u8>,
    /// The text of its `.minisig`.
    pub signature: Option<String>,
    /// Who sent it.
    pub from: Sender,
}

/// Who brought a version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum Sender {
    /// It lies in the plugin folder, or is built in.
    #[default]
    Folder,
    /// The worker, where nothing else of the name could be loaded.
    BuiltIn,
    /// The operator, by command, from a file of this machine.
    Hand,
    /// A studio.
    Studio {
        /// The studio's id of this update.
        update: String,
    },
    /// An address or a registry, at the operator's word; what comes from there is not the operator's.
    Address {
        /// It, without what must not be shown.
        url: String,
    },
}

impl Sender {
    /// Whether it must be signed.
    pub fn is_remote(&self) -> bool {
        matches!(self, Self::Studio { .. } | Self::Address { .. })
    }

    /// The studio's id of the update.
    pub fn update(&self) -> Option<&str> {
        match self {
            Self::Studio { update } => Some(update),
            _ => None,
        }
    }
}

/// A state that a version came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It arrived whole; nothing is decided.
    Received,
    /// It is on its way through the pipeline.
    Checking,
    /// It asks for more than it may have.
    Waiting,
    /// It broke a rule.
    Refused,
    /// It serves, and its first jobs are watched.
    Probation,
    /// It serves and is trusted.
    Active,
    /// It served; what served before is back.
    RolledBack,
    /// Its digest is not taken again.
    Quarantined,
    /// The plugin is pinned: the version in question is kept, or is not taken.
    Pinned,
    /// It serves no more, by the operator's word.
    Removed,
}

impl State {
    /// The word for it, the same everywhere.
    pub fn name(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Checking => "checking",
            Self::Waiting => "waiting",
            Self::Refused => "refused",
            Self::Probation => "probation",
            Self::Active => "active",
            Self::RolledBack => "rolled-back",
            Self::Quarantined => "quarantined",
            Self::Pinned => "pinned",
            Self::Removed => "removed",
        }
    }
}

/// A version came to a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// The plugin's name.
    pub name: String,
    /// Its version; empty while that is not known.
    pub version: String,
    /// Its digest.
    pub digest: String,
    /// The state.
    pub state: State,
    /// Why; may be empty.
    pub reason: String,
    /// The rule that it broke, where it was refused.
    pub rule: Option<Rule>,
    /// The studio's id of the update that brought it.
    pub update: Option<String>,
}
