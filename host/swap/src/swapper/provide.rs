//! A new version's programs, at hand before it serves: both go live at once, and both go back at once.
//!
//! Releases lie side by side and programs are known by their plugin's digest, so nothing of what serves is touched. What takes
//! minutes is done without holding up any other plugin; the candidate is looked at from the beginning afterwards.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use worker_plugins::{Broken, Engine, Plugged, Rule};

use super::Swapper;
use crate::book::Version;
use crate::parcel::{Sender, State};

/// How long all programs of one version may take to come. Longer keeps a candidate waiting for a host that drips; shorter fails
/// slow lines, for which jobs wait as long.
const LIMIT: Duration = Duration::from_secs(2 * 3600);

/// Versions whose programs are being had, by the plugin's name.
#[derive(Debug, Default)]
pub(crate) struct Providing(Mutex<BTreeMap<String, Download>>);

/// Programs that are being had.
#[derive(Debug)]
struct Download {
    digest: String,
    /// Whether a studio wants it, and not the operator.
    pushed: bool,
    cancel: CancellationToken,
}

/// Takes its entry out again, however the providing ends.
struct Entry<'a> {
    of: &'a Providing,
    name: &'a str,
    digest: &'a str,
    cancel: CancellationToken,
}

impl Providing {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Download>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin<'a>(&'a self, name: &'a str, digest: &'a str, pushed: bool) -> Entry<'a> {
        let cancel = CancellationToken::new();
        let download = Download {
            digest: digest.to_owned(),
            pushed,
            cancel: cancel.clone(),
        };
        if let Some(before) = self.lock().insert(name.to_owned(), download) {
            before.cancel.cancel();
        }
        Entry {
            of: self,
            name,
            digest,
            cancel,
        }
    }
}

impl Providing {
    /// `pushed`: only what a studio wanted.
    fn give_up(&self, name: &str, digest: &str, pushed: bool) {
        if let Some(one) = self.lock().get(name)
            && one.digest != digest
            && (one.pushed || !pushed)
        {
            one.cancel.cancel();
        }
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let mut all = self.of.lock();
        if all
            .get(self.name)
            .is_some_and(|one| one.digest == self.digest)
        {
            all.remove(self.name);
        }
    }
}

impl Swapper {
    /// The engine of a candidate whose programs have to come first: it replaces one whose own are here.
    ///
    /// One that is new, or that replaces an engine without programs, takes nothing away: its programs come with its first job, as
    /// they do at start. What no archive has is refused here.
    pub(crate) async fn lacks_programs(
        &self,
        before: Option<&Plugged>,
        after: &Plugged,
    ) -> Result<Option<Arc<Engine>>, Broken> {
        let (Some(programs), Some(new)) = (&self.options.programs, after.engine()) else {
            return Ok(None);
        };
        let in_use = before
            .and_then(Plugged::engine)
            .is_some_and(|old| !old.description().backends.is_empty() && programs.is_ready(old));
        if !in_use || programs.is_ready(new) {
            return Ok(None);
        }
        match self.options.egress.is_some() && programs.can_serve(new) {
            true => Ok(Some(new.clone())),
            false => {
                let missing: Vec<String> = programs
                    .missing(new)
                    .iter()
                    .map(ToString::to_string)
                    .collect();
                Err(Rule::Programs.broken(missing.join("; ")))
            }
        }
    }

    /// Has the programs come. `pushed`: a studio wants it, and may give it up for another.
    pub(crate) async fn provide(
        &self,
        engine: &Arc<Engine>,
        from: &Sender,
        pushed: bool,
    ) -> Result<(), Broken> {
        let (Some(programs), Some(egress)) = (&self.options.programs, &self.options.egress) else {
            return Ok(());
        };
        let identity = engine.identity();
        let version = Version {
            digest: identity.digest.clone(),
            version: identity.version.clone(),
        };
        let missing = programs.missing(engine);
        let told: Vec<&str> = missing.iter().map(|one| one.program.as_str()).collect();
        let told = format!("downloading {} for it", told.join(", "));
        tracing::info!(target: "plugins", plugin = identity.name, digest = identity.digest, "{told}");
        self.tell(&identity.name, &version, State::Checking, &told, from);
        let entry = self
            .providing
            .begin(&identity.name, &identity.digest, pushed);
        let providing = programs.provide(engine, egress, &|_, _| {}, &entry.cancel);
        let provided = tokio::time::timeout(LIMIT, providing).await;
        match provided {
            Ok(Ok(())) => Ok(()),
            _ if entry.cancel.is_cancelled() => Err(Rule::Programs
                .broken("the download of its programs was given up, as another version is wanted")),
            Ok(Err(failure)) => {
                let again = match failure.retryable {
                    true => "; have it taken in again when that may have passed",
                    false => "",
                };
                Err(Rule::Programs.broken(format!("{}{again}", failure.message)))
            }
            Err(_) => Err(Rule::Programs.broken(format!(
                "its programs did not come within {} minutes",
                LIMIT.as_secs() / 60
            ))),
        }
    }

    /// Gives up a download for a version of this plugin other than `digest`, which may be none.
    pub(crate) fn give_up(&self, name: &str, digest: &str) {
        self.providing.give_up(name, digest, false);
    }

    /// The same for what a studio wanted: another studio's word ends nothing that the operator began.
    pub fn give_up_pushed(&self, name: &str, digest: &str) {
        self.providing.give_up(name, digest, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_studios_word_ends_a_studios_download_alone() {
        for (pushed, ends) in [(true, true), (false, false)] {
            let providing = Providing::default();
            let entry = providing.begin("x", "old", pushed);
            providing.give_up("x", "old", true);
            providing.give_up("y", "new", true);
            assert!(!entry.cancel.is_cancelled());
            providing.give_up("x", "new", true);
            assert_eq!(entry.cancel.is_cancelled(), ends);
            providing.give_up("x", "new", false);
            assert!(entry.cancel.is_cancelled());
        }
    }
}
