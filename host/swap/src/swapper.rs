//! What serves, what wants to, and what was decided.
//!
//! Two locks. `work` is held by whoever takes a file through the pipeline, for seconds if need be; `inner` by whoever changes what
//! serves, for as long as one file takes to be written. The offer path takes neither.

mod anew;
mod decide;
mod enter;
mod grant;
pub(crate) mod live;
mod look;
mod operator;
mod provide;
mod refuse;
mod shop;
mod start;
mod take;
#[cfg(test)]
mod tests;
mod told;
pub(crate) mod tools;
mod underway;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard, broadcast};
use tokio_util::sync::CancellationToken;
use worker_egress::Egress;
use worker_plugins::{
    Broken, EmbeddedFile, Generation, Kept, KeptError, LoadError, Plugged, PluginSet, Print,
    Probed, Refusal, Rule, Sandbox, Serving, Stored, Terms, failpoint,
};
use worker_runner::Programs;

use crate::book::{Book, BookError, Version};
use crate::parcel::{Sender, State, StateChange};
use crate::shadow;
use crate::trial::{Record, Trial};

/// Changes that a subscriber may lag behind. One that lags further is told how many it missed, and asks for the whole state.
const CHANGES: usize = 256;

/// Where plugins come from.
#[derive(Clone, Debug)]
pub enum Place {
    /// A folder, watched while the worker runs.
    Folder(PathBuf),
    /// The built-in set.
    Embedded,
}

/// What a swapper works with.
#[derive(Clone)]
pub struct Options {
    /// Where plugins come from.
    pub place: Place,
    /// The built-in set: what is left when neither the active nor the previous version can be loaded.
    pub embedded: &'static [EmbeddedFile],
    /// Folder for its own files: the stored plugins and the book.
    pub state: PathBuf,
    /// Where jobs' journals are, for comparing.
    pub journals: PathBuf,
    /// Runs plugins.
    pub sandbox: Arc<Sandbox>,
    /// Looks for the programs of a new version before it serves; none where no job will run.
    pub programs: Option<Arc<Programs>>,
    /// Downloads programs for a new version; none where nothing is to be downloaded.
    pub egress: Option<Egress>,
}

/// Why something asked for was not done, or nothing can serve.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// No generation can be made.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The folder of stored plugins cannot be used.
    #[error(transparent)]
    Kept(#[from] KeptError),
    /// The book cannot be used.
    #[error(transparent)]
    Book(#[from] BookError),
    /// The file broke a rule; what serves is as it was.
    #[error("{0}")]
    Refused(Refusal),
    /// There is no plugin of this name.
    #[error("there is no plugin `{0}`; `plugin list` names all")]
    Unknown(String),
    /// There is nothing to go back to.
    #[error("plugin `{0}` has no previous version to go back to")]
    NoPrevious(String),
    /// Nothing else is taken while it is pinned.
    #[error("plugin `{0}` is pinned; `plugin unpin {0}` takes it off")]
    Pinned(String),
    /// It asks for more than it may have.
    #[error(
        "plugin `{name}` {version} asks for more than it may have and waits: {more}; `plugin grant {name}` takes it on"
    )]
    Waiting {
        /// The plugin's name.
        name: String,
        /// The version that waits.
        version: String,
        /// What is to be granted.
        more: String,
    },
    /// Nothing of this name waits to be granted anything.
    #[error(
        "no version of plugin `{0}` waits to be granted anything; `plugin list` shows what waits"
    )]
    NothingWaits(String),
    /// Another version waits than the one that was shown.
    #[error(
        "another version of plugin `{name}` waits by now, {digest}; look at it and grant again"
    )]
    AnotherWaits {
        /// The plugin's name.
        name: String,
        /// SHA-256 of what waits.
        digest: String,
    },
    /// Nothing of this digest is quarantined.
    #[error("no quarantined version has a digest that begins with {0}; `plugin list` shows them")]
    NotQuarantined(String),
    /// Several are.
    #[error("several quarantined versions have a digest that begins with {0}; give all of it")]
    SeveralQuarantined(String),
    /// The process is ending.
    #[error("the worker is ending")]
    Interrupted,
}

/// What became of something that was brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It serves.
    In(Version),
    /// Its programs are downloaded first; what becomes of it is told then.
    Later,
}

/// The latest file that wanted to serve under a name and does not.
#[derive(Clone, Debug)]
pub(crate) struct Asking {
    pub(crate) digest: String,
    pub(crate) version: String,
    pub(crate) from: Sender,
    pub(crate) state: Asked,
}

/// How far a file that wants to serve has come, or why it does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It is being taken through the pipeline.
    Checking,
    /// It broke a rule.
    Refused(Refusal),
    /// It asks for this beyond what it may have.
    Waiting(String),
    /// The plugin is pinned.
    Pinned,
    /// It served, and what served before is back.
    RolledBack(String),
}

#[derive(Clone)]
pub(crate) struct Inner {
    pub(crate) set: Arc<PluginSet>,
    /// A later one under which what serves makes no generation, and the generation with which that was tried.
    pub(crate) unapplied: Option<(Arc<PluginSet>, String)>,
    pub(crate) serving: BTreeMap<String, Plugged>,
    pub(crate) older: BTreeMap<String, Plugged>,
    pub(crate) trials: BTreeMap<String, Trial>,
    pub(crate) records: BTreeMap<String, Record>,
    pub(crate) asking: BTreeMap<String, Asking>,
    /// How files looked when they were last decided about.
    pub(crate) handled: BTreeMap<String, Print>,
    pub(crate) book: Book,
    /// What is wrong with the folder or its policy, while something is.
    pub(crate) trouble: Option<String>,
}

/// The right to decide.
pub(crate) type Held = OwnedMutexGuard<Inner>;

/// Decides what serves. Cheap to share.
pub struct Swapper {
    pub(crate) options: Options,
    pub(crate) kept: Arc<Kept>,
    pub(crate) serving: Arc<Serving>,
    pub(crate) work: Mutex<()>,
    pub(crate) inner: Arc<Mutex<Inner>>,
    pub(crate) changes: broadcast::Sender<StateChange>,
    live: Arc<live::Live>,
    underway: Arc<underway::Underway>,
    /// Ends what goes on in the background.
    stopping: CancellationToken,
}

impl std::fmt::Debug for Swapper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Swapper").finish_non_exhaustive()
    }
}

pub(crate) fn book_path(state: &Path) -> PathBuf {
    state.join("plugins.json")
}

/// Takes stored bytes through every step up to the probe. None when the operator has disabled the plugin.
pub(crate) async fn prepare(
    sandbox: &Arc<Sandbox>,
    set: &Arc<PluginSet>,
    stored: Stored,
    terms: Terms,
) -> Result<Option<Probed>, Broken> {
    // Only a candidate's way has points at which a test may end the process.
    let candidate = terms.candidate;
    let point = move |name: &str| {
        if candidate {
            failpoint(name);
        }
    };
    let (with, set) = (sandbox.clone(), set.clone());
    let linked = tokio::task::spawn_blocking(move || {
        let verified = stored.verify(terms, set.policy())?;
        point("verified");
        let Some(permitted) = verified.permit(set.policy())? else {
            return Ok(None);
        };
        let examined = permitted.examine()?;
        point("examined");
        let compiled = examined.compile(&with)?;
        point("compiled");
        let linked = compiled.link(&with)?;
        point("linked");
        Ok(Some(linked))
    });
    match linked.await {
        Ok(Ok(Some(linked))) => {
            let probed = linked.probe().await?;
            point("probed");
            Ok(Some(probed))
        }
        Ok(Ok(None)) => Ok(None),
        Ok(Err(broken)) => Err(broken),
        Err(_) => Err(Rule::Compiles.unmet("compiling it was interrupted")),
    }
}

impl Swapper {
    /// The pointer to what serves.
    pub fn serving(&self) -> &Arc<Serving> {
        &self.serving
    }

    /// Every state that a version comes to from now on.
    pub fn changes(&self) -> broadcast::Receiver<StateChange> {
        self.changes.subscribe()
    }

    /// Tells whoever listens.
    pub(crate) fn tell(
        &self,
        name: &str,
        version: &Version,
        state: State,
        reason: &str,
        from: &Sender,
    ) {
        self.tell_refused(name, version, state, reason, from, None);
    }

    pub(crate) fn tell_refused(
        &self,
        name: &str,
        version: &Version,
        state: State,
        reason: &str,
        from: &Sender,
        rule: Option<Rule>,
    ) {
        // That nobody listens is no failure.
        let _ = self.changes.send(StateChange {
            name: name.to_owned(),
            version: version.version.clone(),
            digest: version.digest.clone(),
            state,
            reason: reason.to_owned(),
            rule,
            update: from.update().map(str::to_owned),
        });
    }

    /// The right to decide, once whoever has it is done.
    pub(crate) async fn held(&self) -> Held {
        self.inner.clone().lock_owned().await
    }

    /// Writes the book and only then has the new state serve. On any failure everything is as it was.
    pub(crate) async fn commit(&self, held: Held, next: Inner) -> Result<Held, SwapError> {
        let generation = next.set.generation(next.serving.values().cloned())?;
        self.apply(held, next, Some(generation)).await
    }

    /// The same where what serves stays.
    pub(crate) async fn record(&self, held: Held, book: Book) -> Result<Held, SwapError> {
        let mut next = held.clone();
        next.book = book;
        self.apply(held, next, None).await
    }

    /// What is on disk and what is in memory change together, also where nobody waits for it any more: the right to decide goes
    /// with the work and comes back with it.
    pub(crate) async fn apply(
        &self,
        mut held: Held,
        next: Inner,
        publish: Option<Arc<Generation>>,
    ) -> Result<Held, SwapError> {
        let (serving, live) = (self.serving.clone(), self.live.clone());
        let path = book_path(&self.options.state);
        let applied = tokio::task::spawn_blocking(move || {
            // Only what publishes has points at which a test may end the process.
            let publishes = publish.is_some();
            let point = |name: &'static str| if publishes { name } else { "" };
            next.book.save_past(&path, point("recording"))?;
            failpoint(point("recorded"));
            if let Some(generation) = publish
                && generation.id() != serving.current().id()
            {
                serving.publish(generation);
            }
            *held = next;
            live.follow(&held);
            failpoint(point("published"));
            Ok::<_, BookError>(held)
        });
        Ok(applied.await.map_err(|_| SwapError::Interrupted)??)
    }

    /// So that a new version's first offer finds its programs looked for.
    async fn look_for_programs(&self, plugged: &Plugged) {
        let Some(programs) = &self.options.programs else {
            return;
        };
        let mut with = {
            let inner = self.inner.lock().await;
            (inner.set.clone(), inner.serving.clone())
        };
        with.1
            .insert(plugged.identity().name.clone(), plugged.clone());
        // One that cannot be assembled is refused where it would be published.
        if let Ok(generation) = with.0.generation(with.1.into_values()) {
            programs.discover(&generation).await;
        }
    }

    async fn compare(
        &self,
        before: Option<&Plugged>,
        after: &Plugged,
    ) -> Result<shadow::Comparison, Broken> {
        let Some(before) = before else {
            return Ok(shadow::Comparison::default());
        };
        if before.world() != after.world() {
            return Err(Rule::SameWorld.broken(format!(
                "is for the world `{}`, and what serves under its name is for `{}`",
                after.world().name(),
                before.world().name()
            )));
        }
        let (Some(old), Some(new)) = (before.engine(), after.engine()) else {
            return Ok(shadow::Comparison::default());
        };
        let comparison = shadow::compare_last(&self.options.journals, old, new).await;
        match comparison.refusal() {
            Some(why) => Err(Rule::Shadow.broken(why)),
            None => Ok(comparison),
        }
    }
}

impl Inner {
    /// What candidates are judged by: the latest `plugins.toml`, also where it cannot be applied to what serves.
    pub(crate) fn judging(&self) -> &Arc<PluginSet> {
        self.unapplied.as_ref().map_or(&self.set, |(set, _)| set)
    }

    pub(crate) fn known_names(&self) -> BTreeSet<String> {
        self.book.plugins.keys().cloned().collect()
    }
}
