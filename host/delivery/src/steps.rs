//! Names for the moments between two file operations, so that tests can kill a process, or fail the disk, at each.
//! Outside this crate's own tests every step is nothing.

use std::path::Path;

use crate::disk::DiskError;

#[cfg(test)]
pub(crate) type Hook = std::sync::Arc<dyn Fn(&str) -> std::io::Result<()> + Send + Sync>;

/// What happens at a step.
#[derive(Clone, Default)]
pub(crate) struct Steps {
    #[cfg(test)]
    pub(crate) hook: Option<Hook>,
}

impl Steps {
    #[cfg_attr(
        not(test),
        allow(
            clippy::unused_self,
            clippy::unnecessary_wraps,
            reason = "only tests fail here"
        )
    )]
    pub(crate) fn at(&self, step: &'static str, path: &Path) -> Result<(), DiskError> {
        #[cfg(test)]
        if let Some(hook) = &self.hook {
            return crate::disk::Doing::doing(hook(step), step, path);
        }
        let _ = (step, path);
        Ok(())
    }
}

impl std::fmt::Debug for Steps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Steps")
    }
}
