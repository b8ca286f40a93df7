//! Decisions about what serves: by how jobs end, and by the operator's word.

use std::path::PathBuf;
use std::sync::Arc;

use worker_plugins::{Broken, Generation, Plugged, PluginSet, ReadOnce, Rule, Stored};
use worker_runner::{Again, JobEnd, JobReport, Witness};

use super::live::identities;
use super::{Asked, Asking, Inner, SwapError, Swapper, prepare};
use crate::book::{Papers, Version};
use crate::parcel::{Sender, State};
use crate::trial::Word;

/// What a job's end means for one plugin.
enum Blame {
    Nobody,
    /// It broke: back at once.
    Broke(String, String),
}

/// The witness that a runner is given.
#[derive(Debug)]
pub(crate) struct Watching(pub(crate) Arc<Swapper>);

impl Witness for Watching {
    fn ended(&self, report: JobReport) -> Again {
        let swapper = self.0.clone();
        Box::pin(async move { swapper.ended(report).await })
    }
}

impl Swapper {
    /// What hears how jobs end.
    pub fn witness(self: &Arc<Self>) -> Arc<dyn Witness> {
        Arc::new(Watching(self.clone()))
    }

    async fn ended(&self, report: JobReport) -> Option<Arc<Generation>> {
        let blame = match &report.end {
            JobEnd::Fault(fault) if fault.is_plugins_fault() => {
                Blame::Broke(fault.plugin.clone(), fault.to_string())
            }
            JobEnd::Invalid { plugin, what } => Blame::Broke(plugin.clone(), what.clone()),
            _ => Blame::Nobody,
        };
        let mut inner = self.inner.lock().await;
        let (name, why) = match blame {
            Blame::Broke(name, why) => (name, why),
            Blame::Nobody => {
                let worse = self.counted(&mut inner, &report).await;
                self.live.follow(&inner);
                worse?
            }
        };
        let used = used(&report.generation, &name)?;
        let active = inner.serving.get(&name)?.identity().clone();
        if active.digest != used || !inner.trials.contains_key(&name) {
            // Another version serves already; or this one was trusted long ago, and its fault is the job's alone.
            let back = inner.book.quarantine_of(&used).is_some() && report.untouched;
            return back.then(|| self.serving.current());
        }
        if let Err(error) = self.roll_back(&mut inner, &name, &why, true).await {
            tracing::error!(target: "plugins", plugin = name, %error, "it broke on probation and cannot be rolled back: {why}");
            return None;
        }
        report.untouched.then(|| self.serving.current())
    }

    /// Counts a job that ended by an answer; says which plugin does worse than before, where one does.
    async fn counted(&self, inner: &mut Inner, report: &JobReport) -> Option<(String, String)> {
        let failed = match report.end {
            JobEnd::Done => false,
            JobEnd::Failed { .. } => true,
            _ => return None,
        };
        let engine = report.engine.as_ref()?;
        let mut passed = Vec::new();
        for (name, trial) in &mut inner.trials {
            let Some(used) = used(&report.generation, name) else {
                continue;
            };
            let serves = inner.serving.get(name);
            let own = engine.identity().name == *name;
            let is_engine = serves.is_some_and(|one| one.engine().is_some());
            // An engine is judged by its own jobs, routers and finishers by all.
            if serves.is_none_or(|one| one.identity().digest != used) || is_engine && !own {
                continue;
            }
            match trial.job(failed, &report.programs) {
                Word::GoOn => {}
                Word::Passed => passed.push(name.clone()),
                Word::Worse(why) => return Some((name.clone(), why)),
            }
        }
        let name = &engine.identity().name;
        if !inner.trials.contains_key(name) {
            let record = inner.records.entry(name.clone()).or_default();
            record.add(failed, &report.programs);
        }
        for name in passed {
            self.trust(inner, &name).await;
        }
        None
    }

    async fn trust(&self, inner: &mut Inner, name: &str) {
        inner.trials.remove(name);
        let mut book = inner.book.clone();
        let Some(entry) = book.plugins.get_mut(name) else {
            return;
        };
        entry.probation = None;
        let Some(active) = entry.active.clone() else {
            return;
        };
        let from = entry.papers_of(&active.digest).from;
        book.note(name, &active, "active", "its probation is over");
        book.trusted(name, &active);
        self.tell(name, &active, State::Active, "its probation is over", &from);
        tracing::info!(target: "plugins", plugin = name, version = active.version, "its probation is over");
        match self.write(&book).await {
            Ok(()) => inner.book = book,
            Err(error) => {
                tracing::warn!(target: "plugins", plugin = name, %error, "that its probation is over cannot be written down");
            }
        }
    }

    /// Brings the version before back. One that came without any before it is taken out of service.
    async fn roll_back(
        &self,
        inner: &mut Inner,
        name: &str,
        why: &str,
        quarantine: bool,
    ) -> Result<(), SwapError> {
        let mut next = inner.clone();
        next.trials.remove(name);
        let (bad, papers) = {
            let entry = next
                .book
                .plugins
                .get_mut(name)
                .ok_or_else(|| SwapError::Unknown(name.to_owned()))?;
            entry.probation = None;
            let bad = entry.active.take();
            entry.active = entry.previous.take();
            let bad = bad.ok_or_else(|| SwapError::Unknown(name.to_owned()))?;
            let papers = entry.papers_of(&bad.digest);
            entry.tidy();
            (bad, papers)
        };
        match next.older.remove(name) {
            Some(before) => drop(next.serving.insert(name.to_owned(), before)),
            None => drop(next.serving.remove(name)),
        }
        next.book.note(name, &bad, "rolled-back", why);
        if quarantine {
            next.book.quarantine(name, &bad.digest, why);
            next.book.note(name, &bad, "quarantined", why);
        }
        let asking = Asking {
            digest: bad.digest.clone(),
            version: bad.version.clone(),
            from: papers.from.clone(),
            state: Asked::RolledBack(why.to_owned()),
        };
        next.asking.insert(name.to_owned(), asking);
        self.commit(inner, next).await?;
        tracing::warn!(target: "plugins", plugin = name, digest = bad.digest, generation = self.serving.current().id(), "rolled back: {why}");
        self.tell(name, &bad, State::RolledBack, why, &papers.from);
        if quarantine {
            self.tell(name, &bad, State::Quarantined, why, &papers.from);
        }
        Ok(())
    }

    /// By the operator's word: the version before serves again. What served until now can be brought back by the same word.
    pub async fn rollback(&self, name: &str) -> Result<Version, SwapError> {
        self.give_up(name, "");
        let _work = self.work.lock().await;
        let mut inner = self.inner.lock().await;
        let entry = inner.book.plugins.get(name);
        let entry = entry.ok_or_else(|| SwapError::Unknown(name.to_owned()))?;
        if entry.pinned {
            return Err(SwapError::Pinned(name.to_owned()));
        }
        let none = || SwapError::NoPrevious(name.to_owned());
        let before = entry.previous.clone().ok_or_else(none)?;
        let mut next = inner.clone();
        let older = next.older.remove(name).ok_or_else(none)?;
        next.trials.remove(name);
        if let Some(now) = next.serving.insert(name.to_owned(), older) {
            next.older.insert(name.to_owned(), now);
        }
        let Some(entry) = next.book.plugins.get_mut(name) else {
            return Err(SwapError::Unknown(name.to_owned()));
        };
        let now = entry.active.replace(before.clone());
        entry.previous = now.clone();
        entry.probation = None;
        let (papers, why) = (entry.papers.clone(), "rolled back by the operator");
        next.book.note(name, &before, "active", why);
        if let Some(now) = &now {
            // The operator's word stands: what was rolled back does not come again by itself.
            next.book.replaced(name, &before.digest, &now.digest, false);
        }
        self.commit(&mut inner, next).await?;
        let from = |version: &Version| {
            let papers = papers.get(&version.digest).cloned();
            papers.unwrap_or_default().from
        };
        if let Some(now) = now {
            self.tell(name, &now, State::RolledBack, why, &from(&now));
        }
        self.tell(name, &before, State::Active, why, &from(&before));
        Ok(before)
    }

    /// Takes a file anywhere on this machine in, by the operator's hand.
    pub async fn add(&self, path: PathBuf) -> Result<(String, Version), SwapError> {
        let set = self.inner.lock().await.judging().clone();
        let shown = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let read = tokio::task::spawn_blocking(move || ReadOnce::at(&path, set.policy())).await;
        let read = read
            .map_err(|_| SwapError::Interrupted)?
            .map_err(|broken| SwapError::Refused(broken.by(&shown)))?;
        let name = read.name().to_owned();
        Ok((name, self.take(read, Sender::Hand).await?))
    }

    /// Takes a plugin out of service. Its file stays where it is, and serves again once it changes.
    pub async fn remove(&self, name: &str) -> Result<(), SwapError> {
        self.give_up(name, "");
        let _work = self.work.lock().await;
        {
            let inner = self.inner.lock().await;
            let entry = inner.book.plugins.get(name);
            let entry = entry.ok_or_else(|| SwapError::Unknown(name.to_owned()))?;
            if entry.pinned {
                return Err(SwapError::Pinned(name.to_owned()));
            }
        }
        self.take_out(name, "removed by the operator", false).await
    }

    /// `forget`: nothing of it is remembered but the history.
    pub(crate) async fn take_out(
        &self,
        name: &str,
        why: &str,
        forget: bool,
    ) -> Result<(), SwapError> {
        let mut inner = self.inner.lock().await;
        let mut next = inner.clone();
        let Some(entry) = next.book.plugins.get_mut(name) else {
            return Err(SwapError::Unknown(name.to_owned()));
        };
        let active = entry.active.take();
        entry.previous = None;
        entry.probation = None;
        entry.waiting = None;
        let papers = std::mem::take(&mut entry.papers);
        if forget {
            next.book.plugins.remove(name);
        }
        if let Some(active) = &active {
            // From afar it does not come back as something older.
            next.book.trusted(name, active);
            next.book.note(name, active, "removed", why);
        }
        next.serving.remove(name);
        next.older.remove(name);
        next.trials.remove(name);
        next.asking.remove(name);
        self.commit(&mut inner, next).await?;
        tracing::info!(target: "plugins", plugin = name, "out of service: {why}");
        if let Some(active) = active {
            let papers = papers.get(&active.digest).cloned().unwrap_or_default();
            self.tell(name, &active, State::Removed, why, &papers.from);
        }
        Ok(())
    }

    /// Keeps what serves, whatever comes; or lets it be replaced again.
    pub async fn pin(&self, name: &str, pinned: bool) -> Result<Version, SwapError> {
        let mut inner = self.inner.lock().await;
        let mut next = inner.clone();
        let entry = next.book.plugins.get_mut(name);
        let entry = entry.ok_or_else(|| SwapError::Unknown(name.to_owned()))?;
        let active = entry
            .active
            .clone()
            .ok_or_else(|| SwapError::Unknown(name.to_owned()))?;
        entry.pinned = pinned;
        let state = if pinned { "pinned" } else { "unpinned" };
        next.book.note(name, &active, state, "by the operator");
        if !pinned {
            next.asking.remove(name);
            next.forget_handled();
        }
        self.write(&next.book).await?;
        let papers = next.book.plugins.get(name);
        let papers = papers.map(|entry| entry.papers_of(&active.digest));
        *inner = next;
        if pinned {
            let from = papers.unwrap_or_default().from;
            self.tell(name, &active, State::Pinned, "by the operator", &from);
        }
        Ok(active)
    }

    /// A version that serves or served, from the store, under another `plugins.toml`.
    async fn again_under(
        &self,
        set: &Arc<PluginSet>,
        name: &str,
        version: &Version,
        papers: &Papers,
    ) -> Result<Option<worker_plugins::Probed>, Broken> {
        let (kept, wanted, digest) = (self.kept.clone(), name.to_owned(), version.digest.clone());
        let stored = tokio::task::spawn_blocking(move || Stored::again(&kept, &wanted, &digest));
        let interrupted = |_| Rule::Readable.broken("reading it was interrupted");
        let stored = stored.await.map_err(interrupted)??;
        let terms = self.terms_of(papers, &papers.from);
        prepare(&self.options.sandbox, set, stored, terms).await
    }

    /// Applies a changed `plugins.toml` to what serves. What it no longer allows goes out of service. Where that leaves
    /// no router, it applies to candidates alone.
    pub(crate) async fn grant_anew(&self, set: Arc<PluginSet>) -> Result<(), SwapError> {
        let _work = self.work.lock().await;
        let names = self.inner.lock().await.known_names();
        let mut plugged: Vec<(String, Option<Plugged>, bool)> = Vec::new();
        let mut distrusted = Vec::new();
        for name in names {
            let entry = self.inner.lock().await.book.plugins.get(&name).cloned();
            let Some(entry) = entry else { continue };
            let papers = entry.papers;
            for (version, is_active) in [(entry.active, true), (entry.previous, false)] {
                let Some(version) = version else { continue };
                let papers = papers.get(&version.digest).cloned().unwrap_or_default();
                let again = self.again_under(&set, &name, &version, &papers).await;
                let again = again.map_err(|broken| broken.by(&format!("{name}.wasm")));
                let again = again.unwrap_or_else(|refusal| {
                    let is_signature = matches!(
                        refusal.rule,
                        Rule::NotSigned | Rule::UnknownKey | Rule::Signature
                    );
                    if is_signature && is_active {
                        distrusted.push((name.clone(), refusal.to_string()));
                    }
                    tracing::warn!(target: "plugins", "{refusal}; out of service by the new plugins.toml");
                    None
                });
                let again = again.map(worker_plugins::Probed::into_plugged);
                plugged.push((name.clone(), again, is_active));
            }
        }
        let mut inner = self.inner.lock().await;
        let mut next = inner.clone();
        for (name, again, is_active) in plugged {
            let to = if is_active {
                &mut next.serving
            } else {
                &mut next.older
            };
            match again {
                Some(one) => drop(to.insert(name, one)),
                None => drop(to.remove(&name)),
            }
        }
        let mut told = Vec::new();
        for (name, why) in distrusted {
            told.extend(next.distrust(&name, &why));
        }
        next.set = set.clone();
        next.unapplied = None;
        next.forget_handled();
        if let Err(error) = set.generation(next.serving.values().cloned()) {
            // What serves goes on; what comes is judged by the new one all the same: a key that is gone lets nothing in any more.
            inner.unapplied = Some((set, self.serving.current().id().to_owned()));
            inner.forget_handled();
            return Err(error.into());
        }
        self.commit(&mut inner, next).await?;
        drop(inner);
        for (name, version, why, from) in told {
            self.tell(&name, &version, State::RolledBack, &why, &from);
        }
        tracing::info!(target: "plugins", generation = self.serving.current().id(), "the new plugins.toml applies");
        Ok(())
    }
}

impl Inner {
    /// What serves is signed by nobody whom the operator still trusts: the version before serves, where that one may.
    fn distrust(&mut self, name: &str, why: &str) -> Option<(String, Version, String, Sender)> {
        let older = self.older.remove(name);
        self.trials.remove(name);
        let entry = self.book.plugins.get_mut(name)?;
        let bad = entry.active.take()?;
        let from = entry.papers_of(&bad.digest).from;
        entry.probation = None;
        entry.active = entry.previous.take().filter(|_| older.is_some());
        entry.tidy();
        if let Some(older) = older {
            self.serving.insert(name.to_owned(), older);
        }
        let asking = Asking {
            digest: bad.digest.clone(),
            version: bad.version.clone(),
            from: from.clone(),
            state: Asked::RolledBack(why.to_owned()),
        };
        self.asking.insert(name.to_owned(), asking);
        self.book.note(name, &bad, "rolled-back", why);
        Some((name.to_owned(), bad, why.to_owned(), from))
    }
}

/// The digest of a plugin of this name in a generation.
fn used(generation: &Generation, name: &str) -> Option<String> {
    identities(generation)
        .find(|identity| identity.name == name)
        .map(|identity| identity.digest.clone())
}
