//! The registration exchange.

use serde::{Deserialize, Serialize};

use crate::{Capabilities, Secret};

/// Body of the register request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegisterRequest {
    /// Stable until `register --reset`.
    pub install_id: String,
    /// SHA-256 over the ASCII hex of the secret, in lowercase hex.
    pub registration_secret_hash: String,
    /// What the operator who approves gets to see.
    pub capabilities: Capabilities,
    /// `studio-worker/<version>`.
    pub user_agent: String,
}

/// Answer to the register request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegisterAnswer {
    /// What to poll for.
    pub request_id: String,
    /// `pending`, usually; `approved` where the first poll need not wait.
    pub status: String,
}

/// Answer to a poll.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(
    tag = "status",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum PollAnswer {
    /// Nobody has decided yet.
    Pending,
    /// The operator said yes.
    Approved {
        /// The worker's id from now on.
        worker_id: String,
        /// Its bearer token.
        auth_token: Secret,
    },
    /// The operator said no.
    Rejected {
        /// Why, in the operator's words.
        #[serde(default)]
        reason: String,
    },
}
