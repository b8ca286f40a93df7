//! Decisions about what serves, by how jobs end.

use std::sync::Arc;

use worker_plugins::{Generation, Statistics};
use worker_runner::{Again, JobEnd, JobReport, Witness};

use super::live::identities;
use super::{Asked, Asking, Held, SwapError, Swapper};
use crate::parcel::State;
use crate::trial::Word;

/// What a job's end means for one plugin.
struct Blame {
    name: String,
    why: String,
    /// Whether it broke by its own doing. Jobs that fail may be the doing of what they ask for.
    broke: bool,
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
        count(report.generation.statistics(), &report.end);
        let broke = |name: &str, why: String| Blame {
            name: name.to_owned(),
            why,
            broke: true,
        };
        let blame = match &report.end {
            JobEnd::Fault(fault) if fault.is_plugins_fault() => {
                Some(broke(&fault.plugin, fault.to_string()))
            }
            JobEnd::Invalid { plugin, what } => Some(broke(plugin, what.clone())),
            _ => None,
        };
        let held = self.held().await;
        let (held, blame) = match blame {
            Some(blame) => (held, blame),
            None => {
                let (held, worse) = self.counted(held, &report).await;
                self.live.follow(&held);
                (held, worse?)
            }
        };
        let Blame { name, why, broke } = blame;
        let used = used(&report.generation, &name)?;
        let active = held.serving.get(&name)?.identity().clone();
        if active.digest != used || !held.trials.contains_key(&name) {
            // Another version serves already; or this one was trusted long ago, and its fault is the job's alone.
            let back = held.book.quarantine_of(&used).is_some() && report.untouched;
            return back.then(|| self.serving.current());
        }
        if let Err(error) = self.roll_back(held, &name, &why, broke).await {
            tracing::error!(target: "plugins", plugin = name, %error, "it broke on probation and cannot be rolled back: {why}");
            return None;
        }
        report.untouched.then(|| self.serving.current())
    }

    /// Counts a job that ended by an answer; says which plugin does worse than before, where one does.
    async fn counted(&self, mut held: Held, report: &JobReport) -> (Held, Option<Blame>) {
        let failed = match report.end {
            JobEnd::Done => false,
            JobEnd::Failed { .. } => true,
            _ => return (held, None),
        };
        let Some(engine) = report.engine.as_ref() else {
            return (held, None);
        };
        let mut passed = Vec::new();
        let inner = &mut *held;
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
                Word::Worse(why) => {
                    let name = name.clone();
                    let blame = Blame {
                        name,
                        why,
                        broke: false,
                    };
                    return (held, Some(blame));
                }
            }
        }
        let name = &engine.identity().name;
        if !inner.trials.contains_key(name) {
            let record = inner.records.entry(name.clone()).or_default();
            record.add(failed, &report.programs);
        }
        for name in passed {
            held = self.trust(held, &name).await;
        }
        (held, None)
    }

    async fn trust(&self, mut held: Held, name: &str) -> Held {
        held.trials.remove(name);
        let mut book = held.book.clone();
        let Some(entry) = book.plugins.get_mut(name) else {
            return held;
        };
        entry.probation = None;
        let Some(active) = entry.active.clone() else {
            return held;
        };
        let from = entry.papers_of(&active.digest).from;
        book.note(name, &active, "active", "its probation is over");
        book.trusted(name, &active);
        self.tell(name, &active, State::Active, "its probation is over", &from);
        tracing::info!(target: "plugins", plugin = name, version = active.version, "its probation is over");
        match self.record(held, book).await {
            Ok(held) => held,
            Err(error) => {
                tracing::warn!(target: "plugins", plugin = name, %error, "that its probation is over cannot be written down");
                self.held().await
            }
        }
    }

    /// Brings the version before back. One that came without any before it is taken out of service. `broke`: its digest is not
    /// taken again; otherwise not after the second time.
    async fn roll_back(
        &self,
        held: Held,
        name: &str,
        why: &str,
        broke: bool,
    ) -> Result<(), SwapError> {
        let mut next = held.clone();
        next.trials.remove(name);
        let older = next.older.remove(name);
        let (bad, papers) = {
            let entry = next
                .book
                .plugins
                .get_mut(name)
                .ok_or_else(|| SwapError::Unknown(name.to_owned()))?;
            let bad = entry.active.take();
            let bad = bad.ok_or_else(|| SwapError::Unknown(name.to_owned()))?;
            let papers = entry.papers_of(&bad.digest);
            entry.probation = None;
            let before = entry.previous.take();
            entry.activate(before.filter(|_| older.is_some()));
            entry.tidy();
            (bad, papers)
        };
        match older {
            Some(before) => drop(next.serving.insert(name.to_owned(), before)),
            None => drop(next.serving.remove(name)),
        }
        let quarantine = broke || next.book.strike(&bad.digest);
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
        drop(self.commit(held, next).await?);
        tracing::warn!(target: "plugins", plugin = name, digest = bad.digest, generation = self.serving.current().id(), "rolled back: {why}");
        self.tell(name, &bad, State::RolledBack, why, &papers.from);
        if quarantine {
            self.tell(name, &bad, State::Quarantined, why, &papers.from);
        }
        Ok(())
    }
}

/// A job that was stopped, or that the host or the network did not serve, says nothing of what served it.
fn count(statistics: &Statistics, end: &JobEnd) {
    match end {
        JobEnd::Done => statistics.done(),
        JobEnd::Failed { .. } => statistics.failed(),
        JobEnd::Fault(fault) if fault.is_plugins_fault() => statistics.broke(),
        JobEnd::Invalid { .. } => statistics.broke(),
        JobEnd::Fault(_) | JobEnd::Other => {}
    }
}

/// The digest of a plugin of this name in a generation.
fn used(generation: &Generation, name: &str) -> Option<String> {
    identities(generation)
        .find(|identity| identity.name == name)
        .map(|identity| identity.digest.clone())
}
