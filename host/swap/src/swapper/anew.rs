//! A changed `plugins.toml`, applied to what serves.

use std::collections::BTreeMap;
use std::sync::Arc;

use worker_plugins::{Broken, Plugged, PluginSet, Probed, Refusal, Rule, Stored};

use super::start::version_of;
use super::{Asked, Asking, Inner, SwapError, Swapper, prepare};
use crate::book::{Papers, Version};
use crate::parcel::{Sender, State};

/// What the new word means for the versions of one name.
#[derive(Default)]
struct Anew {
    /// By digest; none where it is disabled.
    versions: BTreeMap<String, Result<Option<Plugged>, Refusal>>,
    /// The built-in version, where neither of the others is allowed.
    built_in: Option<Plugged>,
}

/// A version that nobody whom the operator trusts stands for any more.
struct Distrusted {
    name: String,
    version: Version,
    why: String,
    from: Sender,
}

impl Swapper {
    /// What the new word no longer allows goes out of service. Where that leaves no router, it applies to candidates alone.
    pub(crate) async fn grant_anew(&self, set: Arc<PluginSet>) -> Result<(), SwapError> {
        let _work = self.work.lock().await;
        let names = self.inner.lock().await.known_names();
        let mut all = Vec::new();
        for name in names {
            let anew = self.judge(&set, &name).await;
            all.push((name, anew));
        }
        let mut held = self.held().await;
        let mut next = held.clone();
        let distrusted: Vec<_> = all
            .into_iter()
            .filter_map(|(name, anew)| next.judged(&name, anew))
            .collect();
        next.set = set.clone();
        next.unapplied = None;
        next.forget_handled();
        if let Err(error) = set.generation(next.serving.values().cloned()) {
            // What serves goes on; what comes is judged by the new one all the same: a key that is gone lets nothing in any more.
            held.unapplied = Some((set, self.serving.current().id().to_owned()));
            held.forget_handled();
            return Err(error.into());
        }
        drop(self.commit(held, next).await?);
        for one in distrusted {
            self.tell(
                &one.name,
                &one.version,
                State::RolledBack,
                &one.why,
                &one.from,
            );
        }
        tracing::info!(target: "plugins", generation = self.serving.current().id(), "the new plugins.toml applies");
        Ok(())
    }

    async fn judge(&self, set: &Arc<PluginSet>, name: &str) -> Anew {
        let mut anew = Anew::default();
        let entry = self.inner.lock().await.book.plugins.get(name).cloned();
        let Some(entry) = entry else { return anew };
        for version in [&entry.active, &entry.previous].into_iter().flatten() {
            let papers = entry.papers_of(&version.digest);
            let again = self.again_under(set, name, version, &papers).await;
            let again = again.map_err(|broken| broken.by(&format!("{name}.wasm")));
            if let Err(refusal) = &again {
                tracing::warn!(target: "plugins", "{refusal}; out of service by the new plugins.toml");
            }
            let again = again.map(|one| one.map(Probed::into_plugged));
            anew.versions.insert(version.digest.clone(), again);
        }
        // As at a start: the active version, else the previous, else the built-in one.
        if !anew.versions.is_empty() && anew.versions.values().all(Result::is_err) {
            anew.built_in = self.built_in_under(set, name).await;
        }
        anew
    }

    /// A version that serves or served, from the store, under another `plugins.toml`.
    async fn again_under(
        &self,
        set: &Arc<PluginSet>,
        name: &str,
        version: &Version,
        papers: &Papers,
    ) -> Result<Option<Probed>, Broken> {
        let (kept, wanted, digest) = (self.kept.clone(), name.to_owned(), version.digest.clone());
        let stored = tokio::task::spawn_blocking(move || Stored::again(&kept, &wanted, &digest));
        let interrupted = |_| Rule::Readable.unmet("reading it was interrupted");
        let stored = stored.await.map_err(interrupted)??;
        let terms = self.terms_of(papers, &papers.from);
        prepare(&self.options.sandbox, set, stored, terms).await
    }

    async fn built_in_under(&self, set: &Arc<PluginSet>, name: &str) -> Option<Plugged> {
        let (files, kept) = (self.options.embedded, self.kept.clone());
        let file = format!("{name}.wasm");
        let stored = tokio::task::spawn_blocking(move || {
            let read = PluginSet::embedded(files).ok()?.read(&file).ok()??;
            read.store(&kept).ok()
        });
        let stored = stored.await.ok()??;
        let papers = Papers::built_in();
        let terms = self.terms_of(&papers, &papers.from);
        let probed = prepare(&self.options.sandbox, set, stored, terms).await;
        Some(probed.ok().flatten()?.into_plugged())
    }
}

impl Inner {
    /// Applies the new word to one name, whatever was decided about it while it was judged.
    fn judged(&mut self, name: &str, mut anew: Anew) -> Option<Distrusted> {
        let entry = self.book.plugins.get(name)?;
        let digest = |version: &Option<Version>| version.as_ref().map(|one| one.digest.clone());
        let (active, previous) = (digest(&entry.active), digest(&entry.previous));
        let mut verdict = |digest: Option<String>| anew.versions.remove(&digest?);
        let (active, previous) = (verdict(active), verdict(previous));
        let put = |place: &mut BTreeMap<String, Plugged>, one: Option<Plugged>| match one {
            Some(one) => drop(place.insert(name.to_owned(), one)),
            None => drop(place.remove(name)),
        };
        put(&mut self.older, previous.and_then(Result::ok).flatten());
        let refusal = match active {
            Some(Ok(one)) => {
                put(&mut self.serving, one);
                return None;
            }
            Some(Err(refusal)) => refusal,
            None => {
                put(&mut self.serving, None);
                return None;
            }
        };
        put(&mut self.serving, None);
        let is_signature = matches!(
            refusal.rule,
            Rule::NotSigned | Rule::UnknownKey | Rule::Signature
        );
        match is_signature {
            true => self.distrust(name, &refusal.to_string(), anew.built_in),
            // It is allowed again by the next word that allows it.
            false => None,
        }
    }

    /// What serves is signed by nobody whom the operator still trusts: the version before serves, where that one may, else the
    /// built-in one.
    fn distrust(&mut self, name: &str, why: &str, built_in: Option<Plugged>) -> Option<Distrusted> {
        self.trials.remove(name);
        let older = self.older.remove(name);
        let entry = self.book.plugins.get_mut(name)?;
        let bad = entry.active.take()?;
        let from = entry.papers_of(&bad.digest).from;
        entry.probation = None;
        entry.later = None;
        let before = entry.previous.take();
        let instead = match (before, older, built_in) {
            (Some(before), Some(older), _) => Some((before, older)),
            (_, _, Some(plugged)) => {
                let version = version_of(&plugged);
                let papers = Papers::built_in();
                entry.papers.insert(version.digest.clone(), papers);
                Some((version, plugged))
            }
            _ => None,
        };
        let (version, plugged) = instead.unzip();
        entry.activate(version);
        entry.tidy();
        if let Some(plugged) = plugged {
            self.serving.insert(name.to_owned(), plugged);
        }
        let asking = Asking {
            digest: bad.digest.clone(),
            version: bad.version.clone(),
            from: from.clone(),
            state: Asked::RolledBack(why.to_owned()),
        };
        self.asking.insert(name.to_owned(), asking);
        self.book.note(name, &bad, "rolled-back", why);
        Some(Distrusted {
            name: name.to_owned(),
            version: bad,
            why: why.to_owned(),
            from,
        })
    }
}
