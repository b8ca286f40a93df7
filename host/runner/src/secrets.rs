//! Values of the secrets that plugins were granted. Where each may go is in the grants; here is only what it is.

use std::collections::BTreeMap;

use worker_wire::Secret;

/// Secrets by plugin and name. Its debug output shows none.
#[derive(Debug, Clone, Default)]
pub struct PluginSecrets(BTreeMap<(String, String), Secret>);

impl PluginSecrets {
    /// Adds the value of `name` for `plugin`.
    pub fn insert(&mut self, plugin: &str, name: &str, value: Secret) {
        self.0.insert((plugin.to_owned(), name.to_owned()), value);
    }

    pub(crate) fn get(&self, plugin: &str, name: &str) -> Option<&Secret> {
        self.0.get(&(plugin.to_owned(), name.to_owned()))
    }
}
