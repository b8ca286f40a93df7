//! Where versions are had at a start: the store, the folder, the built-in set.

use std::sync::Arc;

use tokio::task::JoinSet;
use worker_plugins::{Broken, Kept, Lacks, Plugged, PluginSet, Refusal, Rule, Sandbox, Stored};

use super::enter::terms;
use super::{Inner, Place, SwapError, prepare};
use crate::book::{Book, Entry, Papers, Version};

/// Where one version may be had.
#[derive(Clone)]
pub(super) enum Choice {
    Kept(Version),
    File,
    BuiltIn,
}

/// What became of one name.
pub(super) struct Begun {
    pub(super) name: String,
    pub(super) chosen: Option<(Choice, Plugged, Papers)>,
    pub(super) refused: Vec<(Choice, Refusal)>,
    /// The folder's file asks for more than it may have.
    pub(super) waits: Option<(Lacks, Papers)>,
}

/// Where versions are had, while a generation is made up.
pub(super) struct Shop {
    pub(super) place: Place,
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) set: Arc<PluginSet>,
    pub(super) built_in: Arc<PluginSet>,
    pub(super) kept: Arc<Kept>,
    /// Whether files are taken into the store.
    pub(super) keeps: bool,
    pub(super) book: Book,
}

/// Every plugin's first choice that can be loaded, several at a time.
pub(super) async fn begin(shop: &Arc<Shop>) -> Result<Vec<Begun>, SwapError> {
    let mut names: Vec<String> = shop.set.names().map(str::to_owned).collect();
    // What waits or was removed brings nothing into service, and must not be able to keep a worker from starting.
    let serves = |entry: &Entry| entry.active.is_some();
    for (name, _) in shop.book.plugins.iter().filter(|(_, one)| serves(one)) {
        let file = format!("{name}.wasm");
        if !names.contains(&file) {
            names.push(file);
        }
    }
    if names.len() > MAX_PLUGINS {
        return Err(worker_plugins::LoadError::TooMany {
            place: shop.set.place().to_owned(),
        }
        .into());
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let slots = Arc::new(tokio::sync::Semaphore::new(cores));
    let mut tasks = JoinSet::new();
    for file in names {
        let (shop, slots) = (shop.clone(), slots.clone());
        tasks.spawn(async move {
            // Never closed, so there is always a slot to come.
            let _slot = slots.acquire().await;
            shop.one(file).await
        });
    }
    let mut begun = Vec::new();
    while let Some(one) = tasks.join_next().await {
        begun.push(one.map_err(|_| SwapError::Interrupted)?);
    }
    begun.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(begun)
}

/// As many as one set may hold.
pub(super) const MAX_PLUGINS: usize = 128;

/// What there is to go back to.
pub(super) enum Before {
    Itself(Plugged),
    /// It cannot be loaded; the built-in one of its name can.
    BuiltIn(Plugged, Refusal),
    /// It cannot be loaded.
    Gone(Refusal),
}

/// Versions kept loaded to go back to.
pub(super) async fn previous_of(shop: &Arc<Shop>, inner: &Inner) -> Vec<(String, Before)> {
    let mut found = Vec::new();
    for (name, entry) in &inner.book.plugins {
        let Some(previous) = &entry.previous else {
            continue;
        };
        let before = match shop.plug(name, &Choice::Kept(previous.clone())).await {
            Ok(Some((plugged, _))) => Before::Itself(plugged),
            Ok(None) => continue,
            Err((broken, _)) => {
                let refusal = broken.by(&format!("{name}.wasm"));
                let serves = entry.active.as_ref().map(|active| &active.digest);
                match shop.plug(name, &Choice::BuiltIn).await {
                    Ok(Some((plugged, _))) if serves != Some(&plugged.identity().digest) => {
                        Before::BuiltIn(plugged, refusal)
                    }
                    _ => Before::Gone(refusal),
                }
            }
        };
        found.push((name.clone(), before));
    }
    found
}

impl Shop {
    /// The first choice that can be loaded.
    async fn one(&self, file: String) -> Begun {
        let name = file.strip_suffix(".wasm").unwrap_or(&file).to_owned();
        let choices = match self.book.plugins.get(&name) {
            Some(Entry {
                active: None,
                seen: None,
                waiting: Some(waiting),
                ..
            }) if !waiting.papers.from.is_remote() => vec![Choice::File],
            Some(Entry { active: None, .. }) => Vec::new(),
            Some(entry) => {
                let later = entry.later.as_ref().map(|later| &later.version);
                let known = [later, entry.active.as_ref(), entry.previous.as_ref()];
                let known = known.into_iter().flatten().cloned();
                let mut choices: Vec<_> = known.map(Choice::Kept).collect();
                choices.push(Choice::BuiltIn);
                choices
            }
            None => vec![Choice::File],
        };
        let mut begun = Begun {
            name,
            chosen: None,
            refused: Vec::new(),
            waits: None,
        };
        for choice in choices {
            match self.plug(&begun.name, &choice).await {
                Ok(Some((plugged, papers))) => {
                    begun.chosen = Some((choice, plugged, papers));
                    break;
                }
                Ok(None) => break,
                Err((broken, papers)) => match (&choice, broken.lacks) {
                    (Choice::File, Some(lacks)) => begun.waits = Some((*lacks, papers)),
                    (_, lacks) => {
                        let broken = Broken { lacks, ..broken };
                        begun.refused.push((choice, broken.by(&file)));
                    }
                },
            }
        }
        begun
    }

    /// One version with what is known of it; on failure also that, where it was read.
    pub(super) async fn plug(
        &self,
        name: &str,
        choice: &Choice,
    ) -> Result<Option<(Plugged, Papers)>, (Broken, Papers)> {
        let nameless = |broken| (broken, Papers::default());
        let (set, built_in, kept) = (self.set.clone(), self.built_in.clone(), self.kept.clone());
        let (name, choice, book) = (name.to_owned(), choice.clone(), self.book.clone());
        let keeps = self.keeps;
        let stored = tokio::task::spawn_blocking(move || {
            let file = format!("{name}.wasm");
            match choice {
                Choice::Kept(version) => {
                    unquarantined(&book, &version.digest)?;
                    let entry = book.plugins.get(&name);
                    let papers = entry.map(|entry| entry.papers_of(&version.digest));
                    let stored = Stored::again(&kept, &name, &version.digest)?;
                    Ok(Some((stored, papers.unwrap_or_default())))
                }
                Choice::BuiltIn => {
                    let Some(read) = built_in.read(&file)? else {
                        return Ok(None);
                    };
                    let stored = match keeps {
                        true => read.store(&kept)?,
                        false => read.unstored(),
                    };
                    Ok(Some((stored, Papers::built_in())))
                }
                Choice::File => {
                    let Some(read) = set.read(&file)? else {
                        return Ok(None);
                    };
                    unquarantined(&book, read.digest())?;
                    let papers = Papers {
                        signature: read.signature().map(str::to_owned),
                        ..Papers::default()
                    };
                    let stored = match keeps {
                        true => read.store(&kept)?,
                        false => read.unstored(),
                    };
                    Ok(Some((stored, papers)))
                }
            }
        });
        let (stored, papers) = match stored.await {
            Ok(Ok(Some(stored))) => stored,
            Ok(Ok(None)) => return Ok(None),
            Ok(Err(broken)) => return Err(nameless(broken)),
            Err(_) => {
                let broken = Rule::Readable.unmet("reading it was interrupted");
                return Err(nameless(broken));
            }
        };
        let terms = terms(&self.place, &papers, &papers.from);
        match prepare(&self.sandbox, &self.set, stored, terms).await {
            Ok(probed) => Ok(probed.map(|probed| (probed.into_plugged(), papers))),
            Err(broken) => Err((broken, papers)),
        }
    }
}

fn unquarantined(book: &Book, digest: &str) -> Result<(), Broken> {
    match book.quarantine_of(digest) {
        Some(one) => Err(Rule::Probe.broken(format!("its digest is quarantined: {}", one.reason))),
        None => Ok(()),
    }
}
