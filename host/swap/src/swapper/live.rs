//! What serves at this moment, for whoever must not wait: heartbeats.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use worker_plugins::{Generation, Identity};
use worker_wire::{PluginState, plugin_state};

use super::{Inner, Swapper};

/// Plugins that are named at most, draining ones included: more than can serve.
const NAMED: usize = 256;

/// Probations under way: the digest and the jobs left, by name.
#[derive(Debug, Default)]
pub(crate) struct Live(Mutex<BTreeMap<String, (String, u32)>>);

impl Live {
    /// Takes in what has changed.
    pub(crate) fn follow(&self, inner: &Inner) {
        let now = inner.trials.iter().filter_map(|(name, trial)| {
            let digest = inner.serving.get(name)?.identity().digest.clone();
            Some((name.clone(), (digest, trial.left)))
        });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = now.collect();
    }

    fn left(&self, identity: &Identity) -> Option<u32> {
        let trials = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (digest, left) = trials.get(&identity.name)?;
        (*digest == identity.digest).then_some(*left)
    }
}

impl Swapper {
    /// Every plugin that serves, and earlier versions that still have a job. Never waits.
    pub fn states(&self) -> Vec<PluginState> {
        let told = |identity: &Identity, state: &str, jobs_left| PluginState {
            name: identity.name.clone(),
            version: identity.version.clone(),
            digest: identity.digest.clone(),
            state: state.to_owned(),
            jobs_left,
        };
        let current = self.serving.current();
        let mut all: Vec<PluginState> = identities(&current)
            .map(|identity| match self.live.left(identity) {
                Some(left) => told(identity, plugin_state::PROBATION, Some(left)),
                None => told(identity, plugin_state::ACTIVE, None),
            })
            .collect();
        for generation in self.serving.draining() {
            for identity in identities(&generation) {
                let known = |one: &PluginState| one.digest == identity.digest;
                if all.len() < NAMED && !all.iter().any(known) {
                    all.push(told(identity, plugin_state::DRAINING, None));
                }
            }
        }
        all
    }

    /// Bytes that the file of a plugin may have, by the operator's word.
    pub async fn file_limit(&self, name: &str) -> u64 {
        let set = self.inner.lock().await.set.clone();
        u64::from(set.policy().permissions(name).file_mib) << 20
    }
}

/// Every plugin of a generation.
pub fn identities(generation: &Generation) -> impl Iterator<Item = &Identity> {
    let engines = generation.engines().iter().map(|one| one.identity());
    let finishers = generation.finishers().iter().map(|one| one.identity());
    engines
        .chain(std::iter::once(generation.router().identity()))
        .chain(finishers)
}
