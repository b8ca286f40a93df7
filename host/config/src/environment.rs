//! Environment variables, behind a type so that tests need not change the process's own.

use std::collections::BTreeMap;

/// The variables that the configuration reads.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<&'static str, String>);

/// Port of the local API and the embedded studio.
pub(crate) const LOCAL_API_PORT: &str = "STUDIO_WORKER_LOCAL_API_PORT";
/// Filter of log lines, in the syntax of `tracing`'s `EnvFilter`.
pub(crate) const LOG: &str = "RUST_LOG";
/// Further files and folders that programs may read.
pub(crate) const PROGRAM_READABLE: &str = "STUDIO_WORKER_PROGRAM_READABLE";
/// Further folders that programs may write to.
pub(crate) const PROGRAM_WRITABLE: &str = "STUDIO_WORKER_PROGRAM_WRITABLE";

impl Environment {
    /// Every variable that is read here.
    pub const NAMES: [&'static str; 4] = [LOCAL_API_PORT, LOG, PROGRAM_READABLE, PROGRAM_WRITABLE];

    /// Those of this process. One that is empty, or not text, counts as not set.
    pub fn of_process() -> Self {
        Self::from_fn(|name| std::env::var(name).ok())
    }

    /// Those that a function gives.
    pub fn from_fn(read: impl Fn(&str) -> Option<String>) -> Self {
        let set = Self::NAMES.into_iter().filter_map(|name| {
            let value = read(name).filter(|value| !value.trim().is_empty())?;
            Some((name, value))
        });
        Self(set.collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}
