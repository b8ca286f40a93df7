//! What serves, what wants to, and what was decided.
//!
//! Two locks. `work` is held by whoever takes a file through the pipeline, for seconds if need be; `inner` by whoever changes what
//! serves, for as long as one file takes to be written. The offer path takes neither.

mod decide;
mod look;
mod start;
mod told;
pub(crate) mod tools;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Mutex;
use worker_plugins::{
    Broken, EmbeddedFile, Kept, KeptError, LoadError, Origin, Plugged, PluginSet, Print, Probed,
    ReadOnce, Refusal, Rule, Sandbox, Serving, Stored, failpoint,
};
use worker_runner::Programs;

use crate::book::{Book, BookError, Entry, Version};
use crate::shadow;
use crate::trial::{JOBS, JOBS_UNSHADOWED, Record, Trial};

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
    /// The process is ending.
    #[error("the worker is ending")]
    Interrupted,
}

/// The latest file that wanted to serve under a name and does not.
#[derive(Clone, Debug)]
pub(crate) struct Asking {
    pub(crate) digest: String,
    pub(crate) version: String,
    pub(crate) state: Asked,
}

/// How far a file that wants to serve has come, or why it does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It is being taken through the pipeline.
    Checking,
    /// It broke a rule.
    Refused(Refusal),
    /// The plugin is pinned.
    Pinned,
    /// It served, and what served before is back.
    RolledBack(String),
}

#[derive(Clone)]
pub(crate) struct Inner {
    pub(crate) set: Arc<PluginSet>,
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

/// Decides what serves. Cheap to share.
pub struct Swapper {
    pub(crate) options: Options,
    pub(crate) kept: Arc<Kept>,
    pub(crate) serving: Arc<Serving>,
    pub(crate) work: Mutex<()>,
    pub(crate) inner: Mutex<Inner>,
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
    origin: Origin,
    candidate: bool,
) -> Result<Option<Probed>, Broken> {
    // Only a candidate's way has points at which a test may end the process.
    let point = move |name: &str| {
        if candidate {
            failpoint(name);
        }
    };
    let (with, set) = (sandbox.clone(), set.clone());
    let linked = tokio::task::spawn_blocking(move || {
        let verified = stored.verify(origin)?;
        point("verified");
        let Some(permitted) = verified.permit(set.policy())? else {
            return Ok(None);
        };
        let examined = permitted.examine()?;
        point("examined");
        let compiled = examined.compile(&with)?;
        point("compiled");
        compiled.link(&with).map(Some)
    });
    match linked.await {
        Ok(Ok(Some(linked))) => {
            let probed = linked.probe().await?;
            point("probed");
            Ok(Some(probed))
        }
        Ok(Ok(None)) => Ok(None),
        Ok(Err(broken)) => Err(broken),
        Err(_) => Err(Rule::Compiles.broken("compiling it was interrupted")),
    }
}

impl Swapper {
    /// The pointer to what serves.
    pub fn serving(&self) -> &Arc<Serving> {
        &self.serving
    }

    /// Writes the book and only then has the new state serve. On any failure everything is as it was.
    pub(crate) async fn commit(&self, inner: &mut Inner, next: Inner) -> Result<(), SwapError> {
        let generation = next.set.generation(next.serving.values().cloned())?;
        self.write_past(&next.book, "recording").await?;
        failpoint("recorded");
        if generation.id() != self.serving.current().id() {
            self.serving.publish(generation);
        }
        *inner = next;
        failpoint("published");
        Ok(())
    }

    pub(crate) async fn write(&self, book: &Book) -> Result<(), SwapError> {
        self.write_past(book, "").await
    }

    async fn write_past(&self, book: &Book, point: &'static str) -> Result<(), SwapError> {
        let (book, path) = (book.clone(), book_path(&self.options.state));
        let written = tokio::task::spawn_blocking(move || book.save_past(&path, point));
        Ok(written.await.map_err(|_| SwapError::Interrupted)??)
    }

    /// Takes a file in. Whatever the answer, what serves is a whole generation: the one before, or one with this file.
    ///
    /// `by_hand`: it does not come from the folder.
    pub(crate) async fn take(&self, read: ReadOnce, by_hand: bool) -> Result<Version, SwapError> {
        let _work = self.work.lock().await;
        let (name, digest) = (read.name().to_owned(), read.digest().to_owned());
        if let Some(answer) = self.known(&name, &digest, by_hand).await {
            return answer;
        }
        let unread = Version {
            digest: digest.clone(),
            version: String::new(),
        };
        failpoint("read");
        if !self.is_refused(&name).await {
            self.ask(&name, &unread, Asked::Checking).await;
        }
        let taken = self.try_in(read, by_hand).await;
        if let Err(error) = &taken {
            let refusal = match error {
                SwapError::Refused(refusal) => refusal.clone(),
                other => Rule::Stored
                    .broken(other.to_string())
                    .by(&format!("{name}.wasm")),
            };
            self.refuse(&name, &unread, refusal).await;
            self.clear_store().await;
        }
        taken
    }

    /// Removes stored files that no decision needs: whoever drops files into the folder must not fill the disk with them.
    async fn clear_store(&self) {
        let (kept, book) = (self.kept.clone(), self.book().await);
        // What cannot be cleared away now is cleared away at the next start.
        let _ = tokio::task::spawn_blocking(move || kept.sweep(&|digest| book.needs(digest))).await;
    }

    async fn is_refused(&self, name: &str) -> bool {
        let inner = self.inner.lock().await;
        let asking = inner.asking.get(name);
        asking.is_some_and(|asking| matches!(asking.state, Asked::Refused(_)))
    }

    /// What can be said by the digest alone.
    async fn known(
        &self,
        name: &str,
        digest: &str,
        by_hand: bool,
    ) -> Option<Result<Version, SwapError>> {
        let mut inner = self.inner.lock().await;
        let entry = inner.book.plugins.get(name);
        let pinned = entry.is_some_and(|entry| entry.pinned);
        let active = entry.and_then(|entry| entry.active.clone());
        let decided = entry.and_then(|entry| entry.seen.clone());
        let version = Version {
            digest: digest.to_owned(),
            version: String::new(),
        };
        if let Some(active) = active.filter(|active| active.digest == digest) {
            inner.asking.remove(name);
            if decided.as_deref() != Some(digest) && !by_hand {
                let mut book = inner.book.clone();
                if let Some(entry) = book.plugins.get_mut(name) {
                    entry.seen = Some(digest.to_owned());
                }
                if self.write(&book).await.is_ok() {
                    inner.book = book;
                }
            }
            return Some(Ok(active));
        }
        if decided.as_deref() == Some(digest) && !by_hand {
            // It was decided about before: rolled back, removed, or replaced by hand.
            return Some(Ok(version));
        }
        if pinned {
            let mut book = inner.book.clone();
            book.note(name, &version, "pinned", "it waits for `plugin unpin`");
            inner.book = book;
            drop(inner);
            self.ask(name, &version, Asked::Pinned).await;
            return Some(Err(SwapError::Pinned(name.to_owned())));
        }
        let quarantined = inner.book.quarantine_of(digest).cloned()?;
        drop(inner);
        let refusal = Rule::Probe
            .broken(format!("its digest is quarantined: {}", quarantined.reason))
            .by(&format!("{name}.wasm"));
        self.refuse(name, &version, refusal.clone()).await;
        Some(Err(SwapError::Refused(refusal)))
    }

    pub(crate) async fn ask(&self, name: &str, version: &Version, state: Asked) {
        let asking = Asking {
            digest: version.digest.clone(),
            version: version.version.clone(),
            state,
        };
        self.inner
            .lock()
            .await
            .asking
            .insert(name.to_owned(), asking);
    }

    /// Says that a file is not taken: once, however often it is looked at.
    async fn refuse(&self, name: &str, version: &Version, refusal: Refusal) {
        let state = Asked::Refused(refusal.clone());
        let told = {
            let inner = self.inner.lock().await;
            let asking = inner.asking.get(name);
            asking.is_some_and(|asking| asking.state == state)
        };
        self.ask(name, version, state).await;
        if told {
            return;
        }
        tracing::warn!(target: "plugins", digest = version.digest, "{refusal}; what serves is unchanged");
        let mut inner = self.inner.lock().await;
        let mut book = inner.book.clone();
        book.note(name, version, "refused", &refusal.to_string());
        // A history that cannot be written is one line poorer; the state is shown all the same.
        if self.write(&book).await.is_ok() {
            inner.book = book;
        }
    }

    async fn try_in(&self, read: ReadOnce, by_hand: bool) -> Result<Version, SwapError> {
        let (name, digest) = (read.name().to_owned(), read.digest().to_owned());
        let file = format!("{name}.wasm");
        let refused = |broken: Broken| SwapError::Refused(broken.by(&file));
        let kept = self.kept.clone();
        let stored = tokio::task::spawn_blocking(move || read.store(&kept));
        let stored = stored
            .await
            .map_err(|_| SwapError::Interrupted)?
            .map_err(refused)?;
        failpoint("stored");
        let set = self.inner.lock().await.set.clone();
        let probed = prepare(&self.options.sandbox, &set, stored, Origin::Operator, true)
            .await
            .map_err(refused)?;
        let Some(probed) = probed else {
            return Err(refused(
                Rule::Granted.broken("it is disabled in plugins.toml"),
            ));
        };
        let before = self.inner.lock().await.serving.get(&name).cloned();
        let compared = self
            .compare(before.as_ref(), probed.plugged())
            .await
            .map_err(refused)?;
        failpoint("shadowed");
        let plugged = probed.into_plugged();
        let version = Version {
            digest,
            version: plugged.identity().version.clone(),
        };
        self.look_for_programs(&plugged).await;
        let mut inner = self.inner.lock().await;
        let mut next = inner.clone();
        let left = if compared.enough() {
            JOBS
        } else {
            JOBS_UNSHADOWED
        };
        next.enter(&name, plugged, version.clone(), left, by_hand);
        next.book
            .note(&name, &version, "probation", &compared.to_string());
        self.commit(&mut inner, next).await.map_err(|error| {
            refused(Rule::Stored.broken(format!("it could not be put into service: {error}")))
        })?;
        tracing::info!(target: "plugins", plugin = name, version = version.version, digest = version.digest, generation = self.serving.current().id(), "in service, on probation for {left} jobs; {compared}");
        Ok(version)
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
    /// Puts a version into service, in place of what serves under its name.
    fn enter(&mut self, name: &str, plugged: Plugged, version: Version, left: u32, by_hand: bool) {
        let before = self.serving.insert(name.to_owned(), plugged);
        match before {
            Some(before) => drop(self.older.insert(name.to_owned(), before)),
            None => drop(self.older.remove(name)),
        }
        let record = self.records.remove(name).unwrap_or_default();
        self.trials
            .insert(name.to_owned(), Trial::new(left, record));
        self.asking.remove(name);
        let entry: &mut Entry = self.book.plugins.entry(name.to_owned()).or_default();
        entry.previous = entry.active.take();
        if !by_hand {
            entry.seen = Some(version.digest.clone());
        }
        entry.by_hand = by_hand;
        entry.active = Some(version);
        entry.probation = Some(left);
    }

    pub(crate) fn known_names(&self) -> BTreeSet<String> {
        self.book.plugins.keys().cloned().collect()
    }
}
