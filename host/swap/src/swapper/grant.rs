//! The operator's word on what asks for more.

use worker_plugins::{Rule, Stored};

use super::take::{Candidate, Tried, gone_again, outdated};
use super::underway::Way;
use super::{SwapError, Swapper};
use crate::book::{Version, Waiting};

impl Swapper {
    /// What waits under a name.
    pub async fn waiting(&self, name: &str) -> Option<Waiting> {
        let inner = self.inner.lock().await;
        inner.book.plugins.get(name)?.waiting.clone()
    }

    /// Grants the version that waits what it asks for, and takes it on. The grant is for that version alone; `digest` says which one
    /// was looked at.
    pub async fn grant(
        &self,
        name: &str,
        digest: Option<&str>,
    ) -> Result<(Version, Waiting), SwapError> {
        let work = self.work.lock().await;
        let waiting = self.waiting(name).await;
        let mut waiting = waiting.ok_or_else(|| SwapError::NothingWaits(name.to_owned()))?;
        if self
            .book()
            .await
            .plugins
            .get(name)
            .is_some_and(|entry| entry.pinned)
        {
            return Err(SwapError::Pinned(name.to_owned()));
        }
        let waits = waiting.version.digest.clone();
        if digest.is_some_and(|digest| digest != waits) {
            return Err(SwapError::AnotherWaits {
                name: name.to_owned(),
                digest: waits,
            });
        }
        waiting.papers.granted = Some(waiting.asked.clone());
        let way = self.underway.begin(name, &waits, false);
        let (tried, _work) = match self.take_granted(name, &waiting, &way).await {
            Ok(Tried::Lacks(engine)) => {
                way.supersede();
                // Nobody waits for the download.
                drop(work);
                let provided = self.provide(&engine, &waiting.papers.from, &way).await;
                let work = self.work.lock().await;
                let tried = match provided {
                    Ok(()) => self.take_stored(name, &waiting, &way).await,
                    Err(broken) => Err(SwapError::Refused(broken.by(&format!("{name}.wasm")))),
                };
                (tried, work)
            }
            tried => (tried, work),
        };
        let taken = match tried {
            Ok(Tried::In(version)) => Ok(version),
            Ok(Tried::Lacks(_)) => {
                Err(SwapError::Refused(gone_again().by(&format!("{name}.wasm"))))
            }
            Err(error) => Err(error),
        };
        if let Err(error) = &taken {
            if speaks_against(error) {
                self.forget_waiting(name).await;
            }
            self.refuse_for(name, &waiting.version, error, &waiting.papers.from)
                .await;
        }
        Ok((taken?, waiting))
    }

    async fn take_granted(
        &self,
        name: &str,
        waiting: &Waiting,
        way: &Way,
    ) -> Result<Tried, SwapError> {
        let held = self.held().await;
        let mut book = held.book.clone();
        let told = format!("by the operator: {}", waiting.more);
        book.note(name, &waiting.version, "granted", &told);
        drop(self.record(held, book).await?);
        self.take_stored(name, waiting, way).await
    }

    async fn take_stored(
        &self,
        name: &str,
        waiting: &Waiting,
        way: &Way,
    ) -> Result<Tried, SwapError> {
        let (kept, wanted) = (self.kept.clone(), name.to_owned());
        let digest = waiting.version.digest.clone();
        let again = digest.clone();
        let stored = tokio::task::spawn_blocking(move || Stored::again(&kept, &wanted, &again));
        let stored = stored.await.map_err(|_| SwapError::Interrupted)?;
        let stored =
            stored.map_err(|broken| SwapError::Refused(broken.by(&format!("{name}.wasm"))))?;
        let candidate = Candidate {
            name: name.to_owned(),
            digest,
            stored,
            papers: waiting.papers.clone(),
        };
        let tried = self.try_in(candidate, way).await?;
        tried.ok_or_else(|| SwapError::Refused(outdated().by(&format!("{name}.wasm"))))
    }

    /// What waited does no more; a book that cannot be written has it wait on, which does no harm.
    pub(crate) async fn forget_waiting(&self, name: &str) {
        let held = self.held().await;
        let mut book = held.book.clone();
        let Some(entry) = book.plugins.get_mut(name) else {
            return;
        };
        entry.waiting = None;
        if *entry == crate::book::Entry::default() {
            book.plugins.remove(name);
        }
        drop(self.record(held, book).await);
    }
}

/// Whether a version that was granted what it asks for is not to be granted it again as it is.
fn speaks_against(error: &SwapError) -> bool {
    match error {
        SwapError::Refused(refusal) => !refusal.passing && refusal.rule != Rule::Overtaken,
        _ => false,
    }
}
