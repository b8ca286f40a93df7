//! From what is on disk to a first generation: for each plugin the active version, else the previous, else the built-in one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use worker_plugins::{
    Generation, Kept, Lacks, Plugged, PluginSet, Refusal, Serving, remove_unfinished,
};

use super::shop::{Before, Begun, Choice, Shop, begin, previous_of};
use super::{Asked, Asking, CHANGES, Inner, Options, Place, SwapError, Swapper, book_path};
use crate::book::{Book, Later, Papers, Version, Waiting};
use crate::trial::{Record, Trial};

impl Swapper {
    /// Loads what is to serve, and writes down that a worker runs. The folder is watched by [`Swapper::watch`] from then on.
    pub async fn start(options: Options) -> Result<Arc<Self>, SwapError> {
        Self::open(options, true).await
    }

    /// The same for a command that runs while no worker does.
    pub async fn offline(options: Options) -> Result<Arc<Self>, SwapError> {
        Self::open(options, false).await
    }

    /// What would serve if a worker were started now, or, where one runs on this store, what serves. It is for looking: nothing is
    /// written but compiled forms, so that a worker may run meanwhile.
    pub async fn beside(options: Options, worker_runs: bool) -> Result<Arc<Self>, SwapError> {
        let how = How {
            beside: true,
            // A running worker has not crashed.
            crashed: !worker_runs,
        };
        let (inner, shop) = load(&options, how).await?;
        Self::with(options, inner, &shop)
    }

    async fn open(options: Options, runs: bool) -> Result<Arc<Self>, SwapError> {
        let how = How {
            beside: false,
            crashed: true,
        };
        let (mut inner, shop) = load(&options, how).await?;
        // What a crash means has been decided just now.
        inner.book.running = runs;
        for (name, before) in previous_of(&shop, &inner).await {
            inner.goes_back_to(&name, before);
        }
        let needed = inner.book.clone();
        let swapper = Self::with(options, inner, &shop)?;
        let held = swapper.held().await;
        drop(swapper.record(held, needed.clone()).await?);
        swapper.kept.sweep(&|digest| needed.needs(digest));
        Ok(swapper)
    }

    fn with(options: Options, inner: Inner, shop: &Shop) -> Result<Arc<Self>, SwapError> {
        let generation = generation(&inner)?;
        let live = Arc::new(super::live::Live::default());
        live.follow(&inner);
        Ok(Arc::new(Self {
            options,
            kept: shop.kept.clone(),
            serving: Serving::new(generation),
            work: tokio::sync::Mutex::new(()),
            inner: Arc::new(tokio::sync::Mutex::new(inner)),
            changes: tokio::sync::broadcast::Sender::new(CHANGES),
            live,
            underway: Arc::default(),
            stopping: tokio_util::sync::CancellationToken::new(),
        }))
    }

    /// Ends what goes on in the background, and writes down that the worker ended as it should. What is written later says so too.
    pub async fn stop(&self) {
        self.stopping.cancel();
        let held = self.held().await;
        let mut book = held.book.clone();
        book.running = false;
        if let Err(error) = self.record(held, book).await {
            tracing::warn!(target: "plugins", %error, "that the worker ended well cannot be written down; its next start takes this for a crash");
        }
    }
}

/// How a store is opened.
#[derive(Clone, Copy)]
struct How {
    /// Nothing of it is changed.
    beside: bool,
    /// Whether a book that says that a worker runs was left by one that crashed.
    crashed: bool,
}

/// Makes up what serves, from what is on disk.
async fn load(options: &Options, how: How) -> Result<(Inner, Arc<Shop>), SwapError> {
    let reading = options.clone();
    let read = tokio::task::spawn_blocking(move || read(&reading, how));
    let (set, built_in, kept, mut book) = read.await.map_err(|_| SwapError::Interrupted)??;
    if book.place != set.place() {
        book.plugins.clear();
        book.place = set.place().to_owned();
    }
    if book.running && how.crashed {
        book.after_crash();
    }
    forget_deleted(&mut book, &set);
    let shop = Arc::new(Shop {
        place: options.place.clone(),
        sandbox: options.sandbox.clone(),
        set: set.clone(),
        built_in,
        kept,
        keeps: !how.beside,
        book: book.clone(),
    });
    let mut inner = Inner {
        set,
        unapplied: None,
        serving: BTreeMap::new(),
        older: BTreeMap::new(),
        trials: BTreeMap::new(),
        records: BTreeMap::new(),
        asking: BTreeMap::new(),
        handled: BTreeMap::new(),
        book,
        trouble: None,
    };
    let (before, began) = (options.sandbox.compiled(), Instant::now());
    for begun in begin(&shop).await? {
        inner.begun(begun);
    }
    inner.show_waiting();
    let compiled = options.sandbox.compiled().saturating_sub(before);
    if compiled > 0 {
        tracing::info!(target: "plugins", "{compiled} plugins compiled in {:.1?}", began.elapsed());
    }
    Ok((inner, shop))
}

fn generation(inner: &Inner) -> Result<Arc<Generation>, SwapError> {
    let made = inner.set.generation(inner.serving.values().cloned());
    let made = made.inspect_err(|_| {
        for asking in inner.asking.values() {
            if let Asked::Refused(refusal) = &asking.state {
                tracing::warn!(target: "plugins", "{refusal}");
            }
        }
    });
    Ok(made?)
}

type Read = (Arc<PluginSet>, Arc<PluginSet>, Arc<Kept>, Book);

fn read(options: &Options, how: How) -> Result<Read, SwapError> {
    let built_in = Arc::new(PluginSet::embedded(options.embedded)?);
    let set = match &options.place {
        Place::Folder(path) => Arc::new(PluginSet::folder(path)?),
        Place::Embedded => built_in.clone(),
    };
    let files = options.state.join("files");
    if !how.beside {
        remove_unfinished(&options.state);
        options.sandbox.clear_unfinished();
    }
    let kept = match how.beside {
        true => Kept::beside(&files),
        false => Kept::open(&files)?,
    };
    let path = book_path(&options.state);
    let book = match how.beside {
        true => Book::peek(&path)?,
        false => Book::load(&path)?,
    };
    Ok((set, built_in, Arc::new(kept), book))
}

/// What came from the folder and is no longer there was taken away by the operator.
fn forget_deleted(book: &mut Book, set: &PluginSet) {
    let gone: Vec<String> = book
        .plugins
        .iter()
        .filter(|(name, entry)| entry.is_a_file() && !set.is_there(&format!("{name}.wasm")))
        .map(|(name, _)| name.clone())
        .collect();
    for name in gone {
        if let Some(active) = book.plugins.remove(&name).and_then(|entry| entry.active) {
            // From afar it does not come back as something older.
            book.trusted(&name, &active);
            book.note(
                &name,
                &active,
                "removed",
                "its file is gone from the folder",
            );
        }
    }
}

impl Inner {
    /// Takes in what became of one name.
    fn begun(&mut self, begun: Begun) {
        let Begun {
            name,
            chosen,
            refused,
            waits,
        } = begun;
        if let Some((lacks, papers)) = waits {
            self.holds(&name, lacks, papers);
        }
        for (_, refusal) in &refused {
            tracing::warn!(target: "plugins", "{refusal}");
        }
        let first = refused.into_iter().next();
        if let Some((choice, refusal)) = &first {
            self.not_loaded(&name, choice, refusal);
        }
        let Some((choice, plugged, papers)) = chosen else {
            return;
        };
        let version = version_of(&plugged);
        match (choice, first) {
            (Choice::File, _) => self.found(&name, &version, papers),
            (_, Some((wanted, refusal))) => {
                self.fell_back(&name, &version, papers, wanted, &refusal);
            }
            (_, None) => self.goes_on(&name, &version),
        }
        self.serving.insert(name, plugged);
    }

    /// The first choice was none.
    fn not_loaded(&mut self, name: &str, choice: &Choice, refusal: &Refusal) {
        let version = match choice {
            Choice::Kept(version) => version.clone(),
            Choice::File | Choice::BuiltIn => Version {
                digest: String::new(),
                version: String::new(),
            },
        };
        let entry = self.book.plugins.get(name);
        let papers = entry.map(|entry| entry.papers_of(&version.digest));
        let asking = Asking {
            digest: version.digest.clone(),
            version: version.version.clone(),
            from: papers.unwrap_or_default().from,
            state: Asked::Refused(refusal.clone()),
        };
        self.asking.insert(name.to_owned(), asking);
        self.book
            .note(name, &version, "refused", &refusal.to_string());
    }

    /// A file of the folder, at the first start with it.
    fn found(&mut self, name: &str, version: &Version, papers: Papers) {
        let entry = self.book.plugins.entry(name.to_owned()).or_default();
        entry.seen = Some(version.digest.clone());
        entry.waiting = None;
        entry.papers.insert(version.digest.clone(), papers);
        entry.activate(Some(version.clone()));
        let told = "found in place at the first start";
        self.book.note(name, version, "active", told);
        self.book.trusted(name, version);
    }

    /// Something else serves than what was to. Where that may be loaded another time, the next start tries it first.
    fn fell_back(
        &mut self,
        name: &str,
        version: &Version,
        papers: Papers,
        wanted: Choice,
        refusal: &Refusal,
    ) {
        tracing::warn!(target: "plugins", plugin = name, digest = version.digest, "an earlier version serves, as the one before it cannot be loaded");
        let entry = self.book.plugins.entry(name.to_owned()).or_default();
        let before = entry.later.take();
        let probation = before.map_or(entry.probation, |later| later.probation);
        entry.later = match wanted {
            Choice::Kept(version) if refusal.passing => Some(Later { version, probation }),
            _ => None,
        };
        let serves_already = entry.active.as_ref() == Some(version);
        if !serves_already {
            entry.previous = None;
            entry.probation = None;
            entry.papers.insert(version.digest.clone(), papers);
            entry.activate(Some(version.clone()));
        }
        entry.tidy();
        if !serves_already {
            let told = "the version before could not be loaded";
            self.book.note(name, version, "active", told);
        }
    }

    /// What was to serve does.
    fn goes_on(&mut self, name: &str, version: &Version) {
        let Some(entry) = self.book.plugins.get_mut(name) else {
            return;
        };
        let later = entry.later.take_if(|later| later.version == *version);
        let is_back = later.is_some();
        if let Some(later) = later {
            entry.previous = entry.active.take();
            entry.activate(Some(later.version));
            entry.probation = later.probation;
            entry.tidy();
        }
        if let Some(left) = entry.probation {
            let trial = Trial::new(left, Record::default());
            self.trials.insert(name.to_owned(), trial);
        }
        if is_back {
            let told = "it can be loaded again";
            self.book.note(name, version, "active", told);
        }
    }

    /// What is brought back where what serves breaks.
    fn goes_back_to(&mut self, name: &str, before: Before) {
        let told = |refusal: Refusal, what: &str| {
            tracing::warn!(target: "plugins", "{refusal}; {what}");
        };
        let entry = self.book.plugins.entry(name.to_owned()).or_default();
        match before {
            Before::Itself(plugged) => drop(self.older.insert(name.to_owned(), plugged)),
            Before::BuiltIn(plugged, refusal) => {
                told(refusal, "the built-in version is what can be gone back to");
                let version = version_of(&plugged);
                let papers = Papers::built_in();
                entry.papers.insert(version.digest.clone(), papers);
                entry.previous = Some(version);
                entry.tidy();
                self.older.insert(name.to_owned(), plugged);
            }
            Before::Gone(refusal) => {
                told(refusal, "there is no version to go back to");
            }
        }
    }

    /// What lies in the folder and asks for more than it may have.
    fn holds(&mut self, name: &str, lacks: Lacks, papers: Papers) {
        let waiting = Waiting::of(lacks, papers);
        let (version, more) = (&waiting.version, &waiting.more);
        let told = format!("asks for more: {more}; `plugin grant {name}` takes it on");
        tracing::warn!(target: "plugins", plugin = name, digest = version.digest, "waits, as it {told}");
        self.book.note(name, version, "waiting", &told);
        let entry = self.book.plugins.entry(name.to_owned()).or_default();
        entry.waiting = Some(waiting);
    }

    /// What waits is shown as such from the start.
    fn show_waiting(&mut self) {
        for (name, entry) in &self.book.plugins {
            if let Some(waiting) = &entry.waiting {
                let asking = Asking {
                    digest: waiting.version.digest.clone(),
                    version: waiting.version.version.clone(),
                    from: waiting.papers.from.clone(),
                    state: Asked::Waiting(waiting.more.to_string()),
                };
                self.asking.insert(name.clone(), asking);
            }
        }
    }
}

pub(super) fn version_of(plugged: &Plugged) -> Version {
    let identity = plugged.identity();
    Version {
        digest: identity.digest.clone(),
        version: identity.version.clone(),
    }
}
