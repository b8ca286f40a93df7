//! Who the worker is, as it is kept on disk between runs.

use worker_wire::Secret;

use crate::SaveError;

/// Everything that registration leaves behind. An empty text counts as absent: that is what people write into a file
/// to clear a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Made once; new after a reset or a revocation.
    pub install_id: Option<String>,
    /// Proves that whoever polls is who asked. 64 hex digits.
    pub registration_secret: Option<Secret>,
    /// The request that an operator has to approve.
    pub registration_request_id: Option<String>,
    /// Given on approval.
    pub worker_id: Option<String>,
    /// Given on approval.
    pub auth_token: Option<Secret>,
}

impl Identity {
    /// The identity with empty texts taken for absent ones.
    pub(crate) fn normalised(mut self) -> Self {
        for text in [
            &mut self.install_id,
            &mut self.registration_request_id,
            &mut self.worker_id,
        ] {
            text.take_if(|text| text.is_empty());
        }
        for secret in [&mut self.registration_secret, &mut self.auth_token] {
            secret.take_if(|secret| secret.is_empty());
        }
        self
    }

    /// Drops what belongs to one registration request. The install id stays.
    pub(crate) fn forget_request(&mut self) {
        self.registration_request_id = None;
        self.registration_secret = None;
    }
}

/// Where the identity lives, usually the worker's configuration file.
pub trait IdentityStore: Send + Sync + 'static {
    /// What is there now. Called once, when [`crate::run`] begins.
    fn load(&self) -> Identity;

    /// Replaces what is there, durably and all at once. Called on a thread that may block.
    fn save(&self, identity: &Identity) -> Result<(), SaveError>;
}
