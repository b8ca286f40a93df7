//! Updates from their announcement to a told end.

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;
use worker_egress::Policy;
use worker_swap::{Parcel, Sender, StateChange, Swapper, Taken};
use worker_wire::{
    Extension, PluginStatus, PluginUpdate, StudioAccount, StudioLink, UpdateError, WorkerFrame,
    plugin_state as word, timestamp,
};

use crate::fetch::{Fetch, FetchError};
use crate::ledger::{Ledger, LedgerError, under_way};
use crate::outbox::Outbox;

/// The rule that an update breaks whose announcement is wrong, or does not fit what its URL gives.
const ANNOUNCED: &str = "announced";

/// Bounds of what a studio can ask for.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Plugins with an update that waits for its turn. More lets a studio keep a worker fetching for longer.
    pub waiting: usize,
    /// Pause between two statuses: a flood of updates must not crowd out the frames of jobs.
    pub pause: Duration,
    /// How long the swap's own word on an update is waited for after it has answered.
    pub settle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            waiting: 16,
            pause: Duration::from_millis(10),
            settle: Duration::from_secs(2),
        }
    }
}

/// What [`Updates::open`] needs.
pub struct Options {
    /// Folder for its own files.
    pub state: PathBuf,
    /// The rules of this worker's downloads.
    pub policy: Policy,
    /// Takes new versions in.
    pub swapper: Arc<Swapper>,
    /// Bounds.
    pub limits: Limits,
}

/// Takes updates, and tells what becomes of plugins.
pub struct Updates {
    options: Options,
    /// What the swap says, from the beginning; taken by the one who hears it.
    changes: Mutex<Option<broadcast::Receiver<StateChange>>>,
    inner: Mutex<Inner>,
    /// Something is to be fetched.
    work: Notify,
    /// Something is to be told, or there is a session to tell it in.
    tell: Notify,
    /// The state of an update changed.
    noted: Notify,
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<PluginUpdate>,
    current: Option<Current>,
    ledger: Ledger,
    /// The ledger holds what its file does not.
    unsaved: bool,
    outbox: Outbox,
    /// The session, where its studio listens to statuses.
    link: Option<StudioLink>,
    account: Option<Arc<StudioAccount>>,
}

/// The update that is being fetched or taken in.
struct Current {
    id: String,
    name: String,
    /// Gives up the fetching.
    cancel: CancellationToken,
}

impl std::fmt::Debug for Updates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Updates").finish_non_exhaustive()
    }
}

impl Updates {
    /// Reads what is known of earlier updates, and settles what was under way when the worker ended.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub async fn open(options: Options) -> Result<Arc<Self>, LedgerError> {
        let path = record(&options);
        let folder = parts(&options);
        let read = tokio::task::spawn_blocking(move || {
            // What an interrupted fetch left is nobody's.
            match std::fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => std::fs::create_dir_all(&folder),
            }
            .map_err(|source| LedgerError {
                path: folder,
                source,
            })?;
            Ledger::load(&path)
        });
        let interrupted = |error| LedgerError {
            path: options.state.clone(),
            source: std::io::Error::other(error),
        };
        let mut ledger = read.await.map_err(interrupted)??;
        let changes = Mutex::new(Some(options.swapper.changes()));
        let book = options.swapper.book().await;
        ledger.settle(&book, &now());
        ledger.recall(&book);
        Ok(Arc::new(Self {
            options,
            changes,
            inner: Mutex::new(Inner {
                ledger,
                unsaved: true,
                ..Inner::default()
            }),
            work: Notify::new(),
            tell: Notify::new(),
            noted: Notify::new(),
        }))
    }

    /// Takes an announcement. Returns at once.
    pub fn announced(&self, update: Result<PluginUpdate, UpdateError>) {
        let update = match update {
            Ok(update) => update,
            Err(error) => return self.refuse_unread(error),
        };
        let mut inner = self.lock();
        if let Some(known) = inner.ledger.update(&update.update_id).cloned() {
            let same = known.name == update.name && known.digest == update.digest;
            if !same {
                let reason = "its updateId was used for another update";
                inner.push(status(&update, word::REFUSED, reason));
                return self.tell.notify_one();
            }
            let again = [word::UNFETCHED, word::INTERRUPTED].contains(&known.state.as_str());
            if !again {
                // Said again, for a studio that does not know.
                inner.push(known);
                return self.tell.notify_one();
            }
        }
        // Nothing is verified yet, so it ends no more than a studio began.
        self.options
            .swapper
            .give_up_pushed(&update.name, &update.digest);
        inner.put(update, self.options.limits.waiting);
        drop(inner);
        self.tell.notify_one();
        self.work.notify_one();
    }

    /// One that cannot be read is answered where it says which it is.
    fn refuse_unread(&self, error: UpdateError) {
        let told = PluginStatus {
            update_id: error.update_id,
            name: error.name.unwrap_or_default(),
            state: word::REFUSED.to_owned(),
            reason: error.reason,
            rule: Some(ANNOUNCED.to_owned()),
            at: now(),
            ..PluginStatus::default()
        };
        if told.update_id.is_some() {
            // Not remembered: it is no update.
            self.lock().push(told);
            self.tell.notify_one();
        }
    }

    /// A session is open: what is known is told in it, where the studio listens.
    pub fn welcomed(&self, link: &StudioLink) {
        let mut inner = self.lock();
        inner.account = Some(link.account().clone());
        inner.link = link.speaks(Extension::PluginStatus).then(|| link.clone());
        let known: Vec<PluginStatus> = inner.ledger.all().collect();
        inner.outbox.remind(known.into_iter());
        drop(inner);
        self.tell.notify_one();
    }

    /// Fetches, hands over and tells until `stop`. What is being fetched then is told as interrupted by the next start.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let changes = self
            .changes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let changes = changes.unwrap_or_else(|| self.options.swapper.changes());
        let all = async { tokio::join!(self.take_in(), self.hear(changes), self.send()) };
        stop.run_until_cancelled(all).await;
        self.save().await;
    }

    async fn take_in(&self) {
        loop {
            let Some((update, cancel)) = self.next() else {
                self.save().await;
                self.work.notified().await;
                continue;
            };
            // On disk before anything is done, so that the next start knows of it.
            self.save().await;
            self.one(&update, &cancel).await;
            self.lock().current = None;
        }
    }

    fn next(&self) -> Option<(PluginUpdate, CancellationToken)> {
        let mut inner = self.lock();
        let update = inner.waiting.pop_front()?;
        let cancel = CancellationToken::new();
        inner.current = Some(Current {
            id: update.update_id.clone(),
            name: update.name.clone(),
            cancel: cancel.clone(),
        });
        inner.note(status(&update, word::FETCHING, ""));
        drop(inner);
        tracing::info!(target: "plugins", plugin = update.name, version = update.version, digest = update.digest, update = update.update_id, "the studio pushes a plugin");
        self.tell.notify_one();
        Some((update, cancel))
    }

    async fn one(&self, update: &PluginUpdate, cancel: &CancellationToken) {
        let bytes = match self.fetch(update, cancel).await {
            Ok(bytes) => bytes,
            Err(error) => {
                let state = match error {
                    FetchError::Refused(_) => word::REFUSED,
                    FetchError::Unfetched(_) => word::UNFETCHED,
                    FetchError::Superseded => word::SUPERSEDED,
                };
                tracing::warn!(target: "plugins", plugin = update.name, digest = update.digest, update = update.update_id, "a pushed plugin is not taken: {error}");
                return self.note(status(update, state, &error.to_string()));
            }
        };
        let parcel = Parcel {
            name: update.name.clone(),
            bytes,
            signature: Some(update.signature.clone()).filter(|text| !text.trim().is_empty()),
            from: Sender::Studio {
                update: update.update_id.clone(),
            },
        };
        // Where its programs have to come first, the next update has its turn meanwhile.
        let taken = self.options.swapper.receive(parcel).await;
        // The swap says each state itself; this is only for an answer that came without one.
        if !matches!(taken, Ok(Taken::Later)) && !self.ended(&update.update_id).await {
            match taken {
                Ok(Taken::Later) => {}
                Ok(Taken::In(version)) => {
                    tracing::warn!(target: "plugins", plugin = update.name, "a pushed plugin was taken without a word on its state");
                    let state = status(update, word::PROBATION, "");
                    self.note(PluginStatus {
                        version: version.version,
                        ..state
                    });
                }
                Err(error) => self.note(status(update, word::REFUSED, &error.to_string())),
            }
        }
    }

    async fn fetch(
        &self,
        update: &PluginUpdate,
        cancel: &CancellationToken,
    ) -> Result<Vec<u8>, FetchError> {
        let account = self.lock().account.clone();
        let account =
            account.ok_or_else(|| FetchError::Unfetched("there is no studio".to_owned()))?;
        let folder = parts(&self.options);
        let fetch = Fetch {
            update,
            account: &account,
            policy: &self.options.policy,
            limit: self.options.swapper.file_limit(&update.name).await,
            folder: &folder,
        };
        fetch.run(cancel).await
    }

    /// Waits for an update to be no longer under way. False when that takes too long.
    async fn ended(&self, id: &str) -> bool {
        let ended = async {
            loop {
                let noted = self.noted.notified();
                let at_work = |known: &PluginStatus| under_way(&known.state);
                if !self.lock().ledger.update(id).is_some_and(at_work) {
                    return;
                }
                noted.await;
            }
        };
        tokio::time::timeout(self.options.limits.settle, ended)
            .await
            .is_ok()
    }

    /// Takes in what the swap says.
    async fn hear(&self, mut changes: broadcast::Receiver<StateChange>) {
        loop {
            match changes.recv().await {
                Ok(change) => self.changed(change),
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    tracing::warn!(target: "plugins", missed, "states of plugins came faster than they were read; the book says what counts");
                    let book = self.options.swapper.book().await;
                    self.resettle(&book);
                }
                Err(broadcast::error::RecvError::Closed) => return std::future::pending().await,
            }
        }
    }

    fn changed(&self, change: StateChange) {
        let update_id = change
            .update
            .or_else(|| self.lock().ledger.brought(&change.name, &change.digest));
        self.note(PluginStatus {
            update_id,
            name: change.name,
            version: change.version,
            digest: change.digest,
            state: change.state.name().to_owned(),
            reason: change.reason,
            rule: change.rule.map(|rule| rule.name().to_owned()),
            at: now(),
        });
    }

    fn resettle(&self, book: &worker_swap::Book) {
        let mut inner = self.lock();
        let before: Vec<PluginStatus> = inner.ledger.all().collect();
        let mut at_work: HashSet<String> = inner
            .waiting
            .iter()
            .map(|one| one.update_id.clone())
            .collect();
        at_work.extend(inner.current.as_ref().map(|current| current.id.clone()));
        inner.ledger.settle(book, &now());
        let after: Vec<PluginStatus> = inner.ledger.all().collect();
        for (before, after) in before.into_iter().zip(after) {
            let is_at_work = before
                .update_id
                .as_ref()
                .is_some_and(|id| at_work.contains(id));
            let swapper = &self.options.swapper;
            let is_underway =
                under_way(&before.state) && swapper.is_underway(&before.name, &before.digest);
            if is_at_work || is_underway {
                // Not over: it says itself how it ends.
                inner.ledger.note(&before);
            } else if before.state != after.state {
                inner.push(after);
            }
        }
        inner.unsaved = true;
        drop(inner);
        self.tell.notify_one();
    }

    fn note(&self, status: PluginStatus) {
        self.lock().note(status.bounded());
        self.noted.notify_waiters();
        self.tell.notify_one();
        // Has it saved.
        self.work.notify_one();
    }

    /// Sends what waits while there is a session that listens.
    async fn send(&self) {
        loop {
            let next = {
                let mut inner = self.lock();
                match inner.link.clone() {
                    Some(link) => inner.outbox.take().map(|status| (link, status)),
                    None => None,
                }
            };
            let Some((link, status)) = next else {
                self.tell.notified().await;
                continue;
            };
            let frame = WorkerFrame::PluginStatus(status.clone());
            if link.send(frame).await.is_err() {
                let mut inner = self.lock();
                inner.outbox.put_back(status);
                // Unless the next session is open already.
                let over = inner.link.as_ref().is_some_and(StudioLink::ended);
                if over {
                    inner.link = None;
                }
                continue;
            }
            tokio::time::sleep(self.options.limits.pause).await;
        }
    }

    /// Writes the ledger where it has changed. What cannot be written is said; the session is told all the same.
    async fn save(&self) {
        let ledger = {
            let mut inner = self.lock();
            if !std::mem::take(&mut inner.unsaved) {
                return;
            }
            inner.ledger.clone()
        };
        let path = record(&self.options);
        let saved = tokio::task::spawn_blocking(move || ledger.save(&path)).await;
        if let Ok(Err(error)) = saved {
            tracing::warn!(target: "plugins", %error, "what became of updates cannot be written down; after a restart the studio is not told");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Queues an update. A later one of the same plugin takes the place of an earlier one that is not taken in yet.
    fn put(&mut self, update: PluginUpdate, most: usize) {
        let place = self.waiting.iter().position(|one| one.name == update.name);
        if let Some(old) = place.and_then(|at| self.waiting.remove(at)) {
            self.note(status(
                &old,
                word::SUPERSEDED,
                "a later update of the plugin came",
            ));
        }
        if self.waiting.len() >= most {
            let reason = format!("{most} updates wait already; send it again later");
            self.note(status(&update, word::UNFETCHED, &reason));
            return;
        }
        if let Some(current) = self.current.as_ref().filter(|one| one.name == update.name) {
            // Takes effect while it is fetched; what the swap has already is taken in first.
            current.cancel.cancel();
        }
        self.note(status(&update, word::QUEUED, ""));
        self.waiting.push_back(update);
    }

    /// Remembers a state and has it told, where it is news.
    fn note(&mut self, status: PluginStatus) {
        if self.ledger.note(&status) {
            self.unsaved |= status.update_id.is_some();
            self.push(status);
        }
    }

    fn push(&mut self, status: PluginStatus) {
        self.outbox.push(status);
    }
}

fn status(update: &PluginUpdate, state: &str, reason: &str) -> PluginStatus {
    PluginStatus {
        update_id: Some(update.update_id.clone()),
        name: update.name.clone(),
        version: update.version.clone(),
        digest: update.digest.clone(),
        state: state.to_owned(),
        reason: reason.to_owned(),
        rule: (state == word::REFUSED).then(|| ANNOUNCED.to_owned()),
        at: now(),
    }
    .bounded()
}

fn record(options: &Options) -> PathBuf {
    options.state.join("updates.json")
}

fn parts(options: &Options) -> PathBuf {
    options.state.join("incoming")
}

fn now() -> String {
    timestamp(SystemTime::now())
}
