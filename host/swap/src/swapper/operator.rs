//! Decisions about what serves, by the operator's word. None waits for a candidate that is on its way: it is given up.

use std::path::PathBuf;
use std::sync::Arc;

use worker_plugins::ReadOnce;

use super::{Held, SwapError, Swapper, Taken};
use crate::book::{Entry, Forgiven, Quarantined, Version};
use crate::parcel::{Sender, State};

/// Digits of a digest that say which is meant. Fewer could mean another that is quarantined later.
const LEAST_DIGITS: usize = 12;

/// What is remembered of a plugin, where the operator did not pin it.
fn unpinned<'a>(held: &'a Held, name: &str) -> Result<&'a Entry, SwapError> {
    let entry = held.book.plugins.get(name);
    let entry = entry.ok_or_else(|| SwapError::Unknown(name.to_owned()))?;
    if entry.pinned {
        return Err(SwapError::Pinned(name.to_owned()));
    }
    Ok(entry)
}

impl Swapper {
    /// The version before serves again. What served until now can be brought back by the same word.
    pub async fn rollback(&self, name: &str) -> Result<Version, SwapError> {
        let held = self.held().await;
        let entry = unpinned(&held, name)?;
        self.give_up(name, "");
        let none = || SwapError::NoPrevious(name.to_owned());
        let before = entry.previous.clone().ok_or_else(none)?;
        let mut next = held.clone();
        let older = next.older.remove(name).ok_or_else(none)?;
        next.trials.remove(name);
        if let Some(now) = next.serving.insert(name.to_owned(), older) {
            next.older.insert(name.to_owned(), now);
        }
        let Some(entry) = next.book.plugins.get_mut(name) else {
            return Err(SwapError::Unknown(name.to_owned()));
        };
        let now = entry.active.take();
        entry.activate(Some(before.clone()));
        entry.previous = now.clone();
        entry.probation = None;
        entry.later = None;
        let (papers, why) = (entry.papers.clone(), "rolled back by the operator");
        next.book.note(name, &before, "active", why);
        if let Some(now) = &now {
            // The operator's word stands: what was rolled back does not come again by itself.
            next.book.replaced(name, &before.digest, &now.digest, false);
        }
        drop(self.commit(held, next).await?);
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

    /// Takes a file anywhere on this machine in.
    pub async fn add(self: &Arc<Self>, path: PathBuf) -> Result<(String, Taken), SwapError> {
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
        let held = self.held().await;
        unpinned(&held, name)?;
        self.give_up(name, "");
        self.take_out(held, name, "removed by the operator", false)
            .await
    }

    /// `forget`: nothing of it is remembered but the history.
    pub(crate) async fn take_out(
        &self,
        held: Held,
        name: &str,
        why: &str,
        forget: bool,
    ) -> Result<(), SwapError> {
        let mut next = held.clone();
        let Some(entry) = next.book.plugins.get_mut(name) else {
            return Err(SwapError::Unknown(name.to_owned()));
        };
        let active = entry.active.take();
        entry.previous = None;
        entry.probation = None;
        entry.waiting = None;
        entry.later = None;
        let papers = std::mem::take(&mut entry.papers);
        if forget || *entry == Entry::default() {
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
        drop(self.commit(held, next).await?);
        tracing::info!(target: "plugins", plugin = name, "out of service: {why}");
        if let Some(active) = active {
            let papers = papers.get(&active.digest).cloned().unwrap_or_default();
            self.tell(name, &active, State::Removed, why, &papers.from);
        }
        Ok(())
    }

    /// Keeps what serves, whatever comes; or lets it be replaced again.
    pub async fn pin(&self, name: &str, pinned: bool) -> Result<Version, SwapError> {
        let held = self.held().await;
        let mut next = held.clone();
        let entry = next.book.plugins.get_mut(name);
        let entry = entry.ok_or_else(|| SwapError::Unknown(name.to_owned()))?;
        let active = entry
            .active
            .clone()
            .ok_or_else(|| SwapError::Unknown(name.to_owned()))?;
        entry.pinned = pinned;
        if pinned {
            // What serves now is meant, also where it serves instead of another.
            entry.later = None;
            entry.tidy();
        }
        let from = entry.papers_of(&active.digest).from;
        let state = if pinned { "pinned" } else { "unpinned" };
        next.book.note(name, &active, state, "by the operator");
        if !pinned {
            next.asking.remove(name);
            next.forget_handled();
        }
        drop(self.apply(held, next, None).await?);
        if pinned {
            self.tell(name, &active, State::Pinned, "by the operator", &from);
        }
        Ok(active)
    }

    /// Lifts a quarantine: the version may be brought again. `digest` may be the first digits of it.
    pub async fn forgive(&self, digest: &str) -> Result<Quarantined, SwapError> {
        let none = || SwapError::NotQuarantined(digest.to_owned());
        if digest.len() < LEAST_DIGITS {
            return Err(none());
        }
        let held = self.held().await;
        let mut next = held.clone();
        let one = match next.book.forgive(digest) {
            Forgiven::One(one) => one,
            Forgiven::None => return Err(none()),
            Forgiven::Several => return Err(SwapError::SeveralQuarantined(digest.to_owned())),
        };
        // A file of the folder that was refused for it is looked at once more.
        next.forget_handled();
        drop(self.apply(held, next, None).await?);
        tracing::info!(target: "plugins", plugin = one.plugin, digest = one.digest, "no longer quarantined, by the operator's word");
        Ok(one)
    }
}
