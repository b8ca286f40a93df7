//! A candidate's way into service.

use std::sync::Arc;

use worker_plugins::{Broken, Engine, ReadOnce, Rule, Stored, failpoint};

use super::enter::not_recorded;
use super::provide::given_up;
use super::underway::Way;
use super::{Asked, SwapError, Swapper, Taken, prepare};
use crate::book::{Entry, Papers, Version};
use crate::parcel::{Parcel, Sender, State};

/// A candidate, stored.
pub(crate) struct Candidate {
    pub(crate) name: String,
    pub(crate) digest: String,
    pub(crate) stored: Stored,
    pub(crate) papers: Papers,
}

/// How far a candidate came.
pub(crate) enum Tried {
    /// It serves.
    In(Version),
    /// Nothing speaks against it, and the programs of this engine have to be downloaded first.
    Lacks(Arc<Engine>),
}

/// How often a candidate is judged anew because what serves changed by itself meanwhile. It does so once or twice at most.
const TRIES: usize = 3;

impl Swapper {
    /// Takes bytes in that came another way than by the folder. Whatever the answer, what serves is a whole generation, and
    /// the folder's file does not undo it. What is not the operator's own hand must be signed.
    ///
    /// Every state on the way, and those that follow, are told to [`Swapper::changes`].
    pub async fn receive(self: &Arc<Self>, parcel: Parcel) -> Result<Taken, SwapError> {
        failpoint("received");
        let Parcel {
            name,
            bytes,
            signature,
            from,
        } = parcel;
        let file = format!("{name}.wasm");
        let read = tokio::task::spawn_blocking(move || {
            ReadOnce::from_bytes(&file, bytes.into())
                .map(|read| read.signed(signature))
                .map_err(|broken| broken.by(&file))
        });
        let read = read.await.map_err(|_| SwapError::Interrupted)?;
        let unread = |digest: &str| Version {
            digest: digest.to_owned(),
            version: String::new(),
        };
        match read {
            Ok(read) => {
                self.tell(&name, &unread(read.digest()), State::Received, "", &from);
                self.take(read, from).await
            }
            Err(refusal) => {
                self.refuse(&name, &unread(""), refusal.clone(), &from)
                    .await;
                Err(SwapError::Refused(refusal))
            }
        }
    }

    /// Takes a file in. Whatever the answer, what serves is a whole generation: the one before, or one with this file.
    ///
    /// Nobody but the operator's own command waits for programs to be downloaded: other files, other pushes and a changed
    /// `plugins.toml` have their turn meanwhile.
    pub(crate) async fn take(
        self: &Arc<Self>,
        read: ReadOnce,
        from: Sender,
    ) -> Result<Taken, SwapError> {
        let pushed = from.update().is_some();
        let way = self.underway.begin(read.name(), read.digest(), pushed);
        let engine = match self.take_once(&read, &from, &way).await? {
            Tried::In(version) => return Ok(Taken::In(version)),
            Tried::Lacks(engine) => engine,
        };
        let waits = matches!(from, Sender::Hand | Sender::Address { .. });
        let stopping = self.stopping.clone();
        let providing = self.clone().take_with_programs(read, from, way, engine);
        if waits {
            return providing.await.map(Taken::In);
        }
        // Every outcome is told and shown on the way.
        tokio::spawn(async move { stopping.run_until_cancelled(providing).await.map(drop) });
        Ok(Taken::Later)
    }

    /// Has the programs of a candidate come. What serves may be another afterwards, so the file goes the whole way once more.
    async fn take_with_programs(
        self: Arc<Self>,
        read: ReadOnce,
        from: Sender,
        way: Way,
        engine: Arc<Engine>,
    ) -> Result<Version, SwapError> {
        let broken = match self.provide(&engine, &from, &way).await {
            Ok(()) => match self.take_once(&read, &from, &way).await? {
                Tried::In(version) => return Ok(version),
                Tried::Lacks(_) => gone_again(),
            },
            Err(broken) => broken,
        };
        let refusal = broken.by(&format!("{}.wasm", read.name()));
        let version = unread(&read);
        self.refuse(read.name(), &version, refusal.clone(), &from)
            .await;
        let _work = self.work.lock().await;
        self.clear_store().await;
        Err(SwapError::Refused(refusal))
    }

    /// The whole way, unless programs have to be downloaded first.
    async fn take_once(
        &self,
        read: &ReadOnce,
        from: &Sender,
        way: &Way,
    ) -> Result<Tried, SwapError> {
        let _work = self.work.lock().await;
        let (name, unread) = (read.name(), unread(read));
        if way.is_given_up() {
            return Err(self.refuse_at_once(name, &unread, given_up(), from).await);
        }
        if let Some(answer) = self.known(read, from).await {
            return answer.map(Tried::In);
        }
        // It wants to serve, and is the newest that does.
        match from.update() {
            // Its signature is not verified yet.
            Some(_) => self.give_up_pushed(name, &unread.digest),
            None => self.give_up(name, &unread.digest),
        }
        failpoint("read");
        if !self.is_told(name, &unread.digest).await {
            self.ask(name, &unread, Asked::Checking, from).await;
        }
        let taken = self.judge_until_it_stands(read, from, way).await;
        match &taken {
            Ok(Tried::In(_)) => {}
            Ok(Tried::Lacks(_)) => way.supersede(),
            Err(error) => {
                self.refuse_for(name, &unread, error, from).await;
                self.clear_store().await;
            }
        }
        taken
    }

    /// What was found out about a candidate stands as long as that serves which it was found out against.
    async fn judge_until_it_stands(
        &self,
        read: &ReadOnce,
        from: &Sender,
        way: &Way,
    ) -> Result<Tried, SwapError> {
        for _ in 0..TRIES {
            let candidate = self.store(read.clone(), from).await?;
            if let Some(tried) = self.try_in(candidate, way).await? {
                return Ok(tried);
            }
        }
        Err(SwapError::Refused(
            outdated().by(&format!("{}.wasm", read.name())),
        ))
    }

    /// Removes stored files that no decision needs: whoever drops files into the folder must not fill the disk with them. Only for
    /// whoever holds `work`: what is in the pipeline is in no book yet.
    async fn clear_store(&self) {
        let (kept, book) = (self.kept.clone(), self.book().await);
        // What cannot be cleared away now is cleared away at the next start.
        let _ = tokio::task::spawn_blocking(move || kept.sweep(&|digest| book.needs(digest))).await;
    }

    /// Whether this file's refusal or waiting is shown already.
    async fn is_told(&self, name: &str, digest: &str) -> bool {
        let inner = self.inner.lock().await;
        inner.asking.get(name).is_some_and(|asking| {
            asking.digest == digest && matches!(asking.state, Asked::Refused(_) | Asked::Waiting(_))
        })
    }

    pub(super) async fn store(
        &self,
        read: ReadOnce,
        from: &Sender,
    ) -> Result<Candidate, SwapError> {
        let (name, digest) = (read.name().to_owned(), read.digest().to_owned());
        let papers = Papers {
            from: from.clone(),
            signature: read.signature().map(str::to_owned),
            granted: None,
        };
        let kept = self.kept.clone();
        let stored = tokio::task::spawn_blocking(move || read.store(&kept));
        let stored = stored
            .await
            .map_err(|_| SwapError::Interrupted)?
            .map_err(|broken| SwapError::Refused(broken.by(&format!("{name}.wasm"))))?;
        failpoint("stored");
        Ok(Candidate {
            name,
            digest,
            stored,
            papers,
        })
    }

    /// What can be said by the digest alone.
    async fn known(&self, read: &ReadOnce, from: &Sender) -> Option<Result<Version, SwapError>> {
        let (name, digest) = (read.name(), read.digest());
        let inner = self.inner.lock().await;
        let entry = inner.book.plugins.get(name).cloned().unwrap_or_default();
        let locked = inner.judging().policy().permissions(name).locked;
        let quarantined = inner.book.quarantine_of(digest).cloned();
        drop(inner);
        let version = Version {
            digest: digest.to_owned(),
            version: String::new(),
        };
        if locked && from.update().is_some() {
            let broken =
                Rule::Locked.broken("plugins.toml says `locked = true`: no studio changes it");
            return Some(Err(self.refuse_at_once(name, &version, broken, from).await));
        }
        if let Some(active) = entry
            .active
            .clone()
            .filter(|active| active.digest == digest)
        {
            return self.is_active(read, from, &entry, active).await;
        }
        let from_folder = *from == Sender::Folder;
        let later = entry.later.as_ref();
        let is_later = later.is_some_and(|later| later.version.digest == digest);
        if entry.seen.as_deref() == Some(digest) && from_folder && !is_later {
            // It was decided about before: rolled back, removed, or replaced by hand.
            return Some(Ok(version));
        }
        if entry.pinned {
            self.note_pinned(name, &version, from).await;
            self.ask(name, &version, Asked::Pinned, from).await;
            return Some(Err(SwapError::Pinned(name.to_owned())));
        }
        let quarantined = quarantined?;
        let broken =
            Rule::Probe.broken(format!("its digest is quarantined: {}", quarantined.reason));
        Some(Err(self.refuse_at_once(name, &version, broken, from).await))
    }

    /// The very file that serves came once more. With another signature it is verified anew.
    async fn is_active(
        &self,
        read: &ReadOnce,
        from: &Sender,
        entry: &Entry,
        active: Version,
    ) -> Option<Result<Version, SwapError>> {
        let (name, digest) = (read.name(), read.digest());
        let papers = entry.papers_of(digest);
        // What a studio brought and the operator's folder holds unsigned as well stays signed.
        let says_less = papers.from.is_remote() && read.signature().is_none();
        let differs = papers.signature.as_deref() != read.signature() && !says_less;
        if from.is_remote() || differs {
            let anew = self.sign_anew(read, from, papers, &active).await;
            if let Err(broken) = anew {
                return Some(Err(self.refuse_at_once(name, &active, broken, from).await));
            }
        }
        let mut held = self.held().await;
        // What another sender's candidate waits for, or broke, is shown on.
        let same = |asking: &super::Asking| asking.from == *from || asking.digest == digest;
        if held.asking.get(name).is_some_and(same) {
            let asked = held.asking.remove(name);
            // It is what its sender wants now, and what came before it is not.
            if let Some(before) =
                asked.filter(|asked| asked.from == *from && asked.digest != digest)
            {
                self.underway.withdraw(name, &before.digest);
            }
        }
        let state = match held.trials.contains_key(name) {
            true => State::Probation,
            false => State::Active,
        };
        let waits = entry.waiting.as_ref().map(|one| &one.papers.from);
        let withdrawn = *from == Sender::Folder && waits == Some(&Sender::Folder);
        if *from == Sender::Folder && entry.seen.as_deref() != Some(digest) || withdrawn {
            let mut book = held.book.clone();
            if let Some(entry) = book.plugins.get_mut(name) {
                entry.seen = Some(digest.to_owned());
                if withdrawn {
                    entry.waiting = None;
                }
            }
            // Not written down, it is seen once more at the next start.
            drop(self.record(held, book).await);
        } else {
            drop(held);
        }
        self.tell(name, &active, state, "it serves already", from);
        Some(Ok(active))
    }

    /// What serves is signed by another key now, or no longer, or for the first time.
    async fn sign_anew(
        &self,
        read: &ReadOnce,
        from: &Sender,
        papers: Papers,
        active: &Version,
    ) -> Result<(), Broken> {
        let name = read.name().to_owned();
        let before = papers.from.clone();
        let papers = Papers {
            from: if from.is_remote() {
                from.clone()
            } else {
                papers.from
            },
            signature: read.signature().map(str::to_owned),
            granted: papers.granted,
        };
        let (kept, wanted, digest) = (self.kept.clone(), name.clone(), active.digest.clone());
        let stored = tokio::task::spawn_blocking(move || Stored::again(&kept, &wanted, &digest));
        let stored = stored
            .await
            .map_err(|_| Rule::Readable.unmet("reading it was interrupted"))??;
        let set = self.inner.lock().await.judging().clone();
        let terms = self.terms_of(&papers, from);
        let probed = prepare(&self.options.sandbox, &set, stored, terms).await?;
        let Some(probed) = probed else { return Ok(()) };
        if from.is_remote() && !before.is_remote() {
            // It was the operator's own before, and stays so.
            return Ok(());
        }
        let held = self.held().await;
        let mut next = held.clone();
        let Some(entry) = next.book.plugins.get_mut(&name) else {
            return Ok(());
        };
        let same = next
            .serving
            .get(&name)
            .is_some_and(|one| one.identity().digest == active.digest);
        if !same || entry.papers_of(&active.digest) == papers {
            return Ok(());
        }
        entry.papers.insert(active.digest.clone(), papers);
        let plugged = probed.into_plugged();
        tracing::info!(target: "plugins", plugin = name, digest = active.digest, "{}", plugged.identity().signature);
        next.serving.insert(name, plugged);
        let committed = self.commit(held, next).await;
        committed.map(drop).map_err(not_recorded)
    }
}

fn unread(read: &ReadOnce) -> Version {
    Version {
        digest: read.digest().to_owned(),
        version: String::new(),
    }
}

/// What is said when programs that came are not there when they are looked for.
pub(crate) fn gone_again() -> Broken {
    Rule::Programs
        .broken("its programs were downloaded and are gone again; look for what removes them")
}

/// What is said of a candidate that was compared with what serves no more.
pub(crate) fn outdated() -> Broken {
    Rule::Overtaken.unmet(
        "what serves under its name changed while it was compared with it; have it taken in again",
    )
}
