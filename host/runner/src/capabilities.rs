//! What the worker can say of itself, from the plugins that serve now.

use std::collections::BTreeSet;

use worker_plugins::{Generation, Identity, contract::Platform};
use worker_wire::{Capabilities, Extension, PluginState};

use crate::gpu::GpuMemory;
use crate::programs::Programs;

/// What is known of the machine and the installation, and does not change while the worker runs.
#[derive(Clone, Debug)]
pub struct MachineFacts {
    /// Host name.
    pub machine_name: String,
    /// User that the worker runs as.
    pub username: String,
    /// Version of the worker.
    pub agent_version: String,
    /// Whether the worker starts with the machine.
    pub auto_start: bool,
    /// Whether the worker updates itself, as the operator's file has it.
    pub auto_update: bool,
    /// Whether its window starts hidden, likewise.
    pub start_minimised: bool,
    /// Whether it works only while nobody uses the computer, likewise.
    pub only_when_idle: bool,
    /// Operating system and processor, as plugins see them. The GPU is not among them: it may become known later.
    pub platform: Platform,
}

/// Builds the capabilities object. Kinds come in candidate order; an engine counts while its programs are there.
pub(crate) fn capabilities(
    facts: &MachineFacts,
    gpu: &GpuMemory,
    generation: &Generation,
    programs: &Programs,
    takes_offers: bool,
) -> Capabilities {
    let mut told = Capabilities {
        machine_name: facts.machine_name.clone(),
        username: facts.username.clone(),
        agent_version: facts.agent_version.clone(),
        engine: "multi".to_owned(),
        vram_total_gb: gpu.total_gb,
        vram_threshold_gb: gpu.threshold_gb(),
        auto_enabled: takes_offers,
        auto_start: facts.auto_start,
        auto_update: facts.auto_update,
        start_minimised: facts.start_minimised,
        only_when_idle: facts.only_when_idle,
        extensions: Extension::ALL
            .iter()
            .map(|e| e.as_wire().to_owned())
            .collect(),
        ..Capabilities::default()
    };
    let mut models = BTreeSet::new();
    for engine in generation.engines() {
        if !programs.can_serve(engine) {
            continue;
        }
        for name in &engine.description().engines {
            if !told.model_engines.contains(name) {
                told.model_engines.push(name.clone());
            }
        }
        for kind in &engine.description().kinds {
            if !told.task_kinds.contains(&kind.kind) {
                told.task_kinds.push(kind.kind.clone());
            }
            let of_kind = told
                .supported_models_per_kind
                .entry(kind.kind.clone())
                .or_default();
            for model in &kind.models {
                if !of_kind.contains(model) {
                    of_kind.push(model.clone());
                }
                models.insert(model.clone());
            }
        }
    }
    told.supported_models = models.into_iter().collect();
    told.plugins = identities(generation)
        .map(|identity| PluginState {
            name: identity.name.clone(),
            version: identity.version.clone(),
            digest: identity.digest.clone(),
            state: worker_wire::plugin_state::ACTIVE.to_owned(),
            jobs_left: None,
        })
        .collect();
    told
}

/// Every plugin of a generation.
fn identities(generation: &Generation) -> impl Iterator<Item = &Identity> {
    let engines = generation.engines().iter().map(|engine| engine.identity());
    let finishers = generation
        .finishers()
        .iter()
        .map(|finisher| finisher.identity());
    engines
        .chain(std::iter::once(generation.router().identity()))
        .chain(finishers)
}
