//! A new version's programs, at hand before it serves: both go live at once, and both go back at once.
//!
//! Releases lie side by side and programs are known by their plugin's digest, so nothing of what serves is touched. What takes
//! minutes is done without holding up anything else; the candidate is looked at from the beginning afterwards.

use std::sync::Arc;
use std::time::Duration;

use worker_plugins::{Broken, Engine, Plugged, Rule, failpoint};

use super::Swapper;
use super::underway::Way;
use crate::book::Version;
use crate::parcel::{Sender, State};

/// How long all programs of one version may take to come. Longer keeps a candidate waiting for a host that drips; shorter fails
/// slow lines, for which jobs wait as long.
const LIMIT: Duration = Duration::from_secs(2 * 3600);

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

    /// Has the programs come.
    pub(crate) async fn provide(
        &self,
        engine: &Arc<Engine>,
        from: &Sender,
        way: &Way,
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
        failpoint("providing");
        let providing = programs.provide(engine, egress, &|_, _| {}, way.given_up());
        let provided = tokio::time::timeout(LIMIT, providing).await;
        match provided {
            Ok(Ok(())) => Ok(()),
            _ if way.is_given_up() => Err(given_up()),
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

    /// Gives up versions of this plugin that are on their way, other than `digest`, which may be none.
    pub(crate) fn give_up(&self, name: &str, digest: &str) {
        self.underway.give_up(name, digest, false);
    }

    /// The same for what a studio wants: another studio's word ends nothing that the operator began.
    pub fn give_up_pushed(&self, name: &str, digest: &str) {
        self.underway.give_up(name, digest, true);
    }

    /// Whether this version is on its way into service.
    pub fn is_underway(&self, name: &str, digest: &str) -> bool {
        self.underway.has(name, digest)
    }
}

/// What is said of a candidate that a later word ended.
pub(crate) fn given_up() -> Broken {
    Rule::Overtaken.broken("it was given up, as another version or nothing new is wanted")
}
