//! From what is on disk to a first generation: for each plugin the active version, else the previous, else the built-in one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use worker_plugins::{Generation, Kept, Lacks, PluginSet, Serving};

use super::shop::{Begun, Choice, Shop, begin, previous_of};
use super::{Asked, Asking, CHANGES, Inner, Options, Place, SwapError, Swapper, book_path};
use crate::book::{Book, Papers, Version, Waiting};
use crate::parcel::Sender;
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

    /// What would serve if a worker were started now, or, where one runs on this store, what serves. Nothing is written but
    /// compiled forms, so that a worker may run meanwhile.
    pub async fn would_serve(
        options: &Options,
        worker_runs: bool,
    ) -> Result<Arc<Generation>, SwapError> {
        let how = How {
            beside: true,
            // A running worker has not crashed.
            crashed: !worker_runs,
        };
        let (inner, _) = load(options, how).await?;
        generation(&inner)
    }

    async fn open(options: Options, runs: bool) -> Result<Arc<Self>, SwapError> {
        let how = How {
            beside: false,
            crashed: true,
        };
        let (mut inner, shop) = load(&options, how).await?;
        inner.book.running = runs || inner.book.running;
        for (name, previous) in previous_of(&shop, &inner).await {
            inner.older.insert(name, previous);
        }
        let generation = generation(&inner)?;
        let needed = inner.book.clone();
        let live = super::live::Live::default();
        live.follow(&inner);
        let swapper = Arc::new(Self {
            options,
            kept: shop.kept.clone(),
            serving: Serving::new(generation),
            work: tokio::sync::Mutex::new(()),
            inner: tokio::sync::Mutex::new(inner),
            changes: tokio::sync::broadcast::Sender::new(CHANGES),
            live,
            providing: super::provide::Providing::default(),
        });
        swapper.write(&needed).await?;
        swapper.kept.sweep(&|digest| needed.needs(digest));
        Ok(swapper)
    }

    /// Writes down that the worker ended as it should.
    pub async fn stop(&self) {
        let mut book = self.inner.lock().await.book.clone();
        book.running = false;
        if let Err(error) = self.write(&book).await {
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
        .filter(|(name, entry)| {
            entry.seen.is_some()
                && !entry.by_hand
                && !entry.pinned
                && !set.is_there(&format!("{name}.wasm"))
        })
        .map(|(name, _)| name.clone())
        .collect();
    for name in gone {
        if let Some(active) = book.plugins.remove(&name).and_then(|entry| entry.active) {
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
        let fell_back = !refused.is_empty();
        if let Some((choice, refusal)) = refused.into_iter().next() {
            let version = match choice {
                Choice::Kept(version) => version,
                Choice::File | Choice::BuiltIn => Version {
                    digest: String::new(),
                    version: String::new(),
                },
            };
            let asking = Asking {
                digest: version.digest.clone(),
                version: version.version.clone(),
                from: Sender::Folder,
                state: Asked::Refused(refusal.clone()),
            };
            self.asking.insert(name.clone(), asking);
            self.book
                .note(&name, &version, "refused", &refusal.to_string());
        }
        let Some((choice, plugged, papers)) = chosen else {
            return;
        };
        let version = Version {
            digest: plugged.identity().digest.clone(),
            version: plugged.identity().version.clone(),
        };
        if fell_back {
            tracing::warn!(target: "plugins", plugin = name, digest = version.digest, "an earlier version serves, as the one before it cannot be loaded");
        }
        let entry = self.book.plugins.entry(name.clone()).or_default();
        match choice {
            Choice::File => {
                entry.seen = Some(version.digest.clone());
                entry.active = Some(version.clone());
                entry.waiting = None;
                entry.papers.insert(version.digest.clone(), papers);
                let told = "found in place at the first start";
                self.book.note(&name, &version, "active", told);
                self.book.trusted(&name, &version);
            }
            Choice::Kept(_) | Choice::BuiltIn if fell_back => {
                entry.active = Some(version.clone());
                entry.previous = None;
                entry.probation = None;
                entry.papers.insert(version.digest.clone(), papers);
                entry.tidy();
                self.book.note(
                    &name,
                    &version,
                    "active",
                    "the version before could not be loaded",
                );
            }
            Choice::Kept(_) | Choice::BuiltIn => {
                if let Some(left) = entry.probation {
                    self.trials
                        .insert(name.clone(), Trial::new(left, Record::default()));
                }
            }
        }
        self.serving.insert(name, plugged);
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
