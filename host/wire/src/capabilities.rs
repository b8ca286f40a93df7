//! What a worker says of itself in `hello`, in every heartbeat and when it registers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Whether somebody is using the computer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum UserPresence {
    /// No input for two minutes or more.
    Idle,
    /// Input within the last two minutes.
    Active,
}

/// One plugin as it serves now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PluginState {
    /// The plugin's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of its file, in hex.
    pub digest: String,
    /// `probation`, `active` or `draining`.
    pub state: String,
    /// On probation: jobs that it still has to do well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jobs_left: Option<u32>,
}

/// One plugin as it served a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PluginUsed {
    /// The plugin's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of its file, in hex.
    pub digest: String,
}

/// Which plugins served a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServedBy {
    /// The worker's short name for exactly these plugins under exactly one policy.
    pub generation: String,
    /// The engine first, then the finishers and the router.
    pub plugins: Vec<PluginUsed>,
}

/// The capabilities object. Every field of the protocol's first version is always written; later ones that an
/// older studio ignores are written too. Reading defaults what is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Capabilities {
    /// Host name of the machine.
    pub machine_name: String,
    /// User that the worker runs as.
    pub username: String,
    /// Version of the worker.
    pub agent_version: String,
    /// Always `multi`: one worker, several engines.
    pub engine: String,
    /// Memory of the largest GPU, in GiB; 0 where unknown.
    pub vram_total_gb: f32,
    /// The largest job that the operator wants, in GiB.
    pub vram_threshold_gb: f32,
    /// Whether the worker takes offers: false while paused or draining.
    pub auto_enabled: bool,
    /// Whether the worker starts with the machine.
    pub auto_start: bool,
    /// Every model name of every kind, sorted, once each.
    pub supported_models: Vec<String>,
    /// Task kinds, in candidate order.
    pub task_kinds: Vec<String>,
    /// Model names by kind.
    pub supported_models_per_kind: BTreeMap<String, Vec<String>>,
    /// Values of `modelSource.engine` that an offer may name.
    pub model_engines: Vec<String>,
    /// Whether the worker updates itself.
    pub auto_update: bool,
    /// Whether its window starts hidden.
    pub start_minimised: bool,
    /// Whether it wants offers only while nobody uses the computer.
    pub only_when_idle: bool,
    /// Omitted where it cannot be known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_presence: Option<UserPresence>,
    /// Frames beyond the protocol that the worker can take part in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<String>,
    /// The plugins that serve now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub plugins: Vec<PluginState>,
}
