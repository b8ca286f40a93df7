//! A candidate's way into service.

use std::sync::Arc;

use worker_plugins::{
    Against, Broken, Engine, Origin, Plugged, ReadOnce, Rule, Stored, Terms, failpoint,
};

use super::{Asked, Inner, Place, SwapError, Swapper, prepare};
use crate::book::{Entry, Papers, Version};
use crate::parcel::{Parcel, Sender, State};
use crate::trial::{JOBS, JOBS_UNSHADOWED, Trial};

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

impl Swapper {
    /// Takes bytes in that came another way than by the folder. Whatever the answer, what serves is a whole generation, and
    /// the folder's file does not undo it. What is not the operator's own hand must be signed.
    ///
    /// Every state on the way, and those that follow, are told to [`Swapper::changes`].
    pub async fn receive(&self, parcel: Parcel) -> Result<Version, SwapError> {
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
    pub(crate) async fn take(&self, read: ReadOnce, from: Sender) -> Result<Version, SwapError> {
        let (name, version) = (read.name().to_owned(), unread(&read));
        let engine = match self.take_once(read.clone(), &from).await? {
            Tried::In(version) => return Ok(version),
            Tried::Lacks(engine) => engine,
        };
        // Nobody waits for the download. What serves may be another afterwards, so the file goes the whole way once more.
        let broken = match self.provide(&engine, &from, from.update().is_some()).await {
            Ok(()) => match self.take_once(read, &from).await? {
                Tried::In(version) => return Ok(version),
                Tried::Lacks(_) => gone_again(),
            },
            Err(broken) => broken,
        };
        let refusal = broken.by(&format!("{name}.wasm"));
        self.refuse(&name, &version, refusal.clone(), &from).await;
        self.clear_store().await;
        Err(SwapError::Refused(refusal))
    }

    /// The whole way, unless programs have to be downloaded first.
    async fn take_once(&self, read: ReadOnce, from: &Sender) -> Result<Tried, SwapError> {
        let _work = self.work.lock().await;
        let name = read.name().to_owned();
        let unread = unread(&read);
        if let Some(answer) = self.known(&read, from).await {
            return answer.map(Tried::In);
        }
        // It wants to serve, and is the newest that does.
        match from.update() {
            // Its signature is not verified yet.
            Some(_) => self.give_up_pushed(&name, &unread.digest),
            None => self.give_up(&name, &unread.digest),
        }
        failpoint("read");
        if !self.is_told(&name, &unread.digest).await {
            self.ask(&name, &unread, Asked::Checking, from).await;
        }
        let taken = match self.store(read, from).await {
            Ok(candidate) => self.try_in(candidate).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &taken {
            self.refuse_for(&name, &unread, error, from).await;
            self.clear_store().await;
        }
        taken
    }

    /// Removes stored files that no decision needs: whoever drops files into the folder must not fill the disk with them.
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
        if entry.seen.as_deref() == Some(digest) && from_folder {
            // It was decided about before: rolled back, removed, or replaced by hand.
            return Some(Ok(version));
        }
        if entry.pinned {
            self.note_pinned(name, &version).await;
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
        let mut inner = self.inner.lock().await;
        // What another sender's candidate waits for, or broke, is shown on.
        let same = |asking: &super::Asking| asking.from == *from || asking.digest == digest;
        if inner.asking.get(name).is_some_and(same) {
            inner.asking.remove(name);
        }
        let waits = entry.waiting.as_ref().map(|one| &one.papers.from);
        let withdrawn = *from == Sender::Folder && waits == Some(&Sender::Folder);
        if *from == Sender::Folder && entry.seen.as_deref() != Some(digest) || withdrawn {
            let mut book = inner.book.clone();
            if let Some(entry) = book.plugins.get_mut(name) {
                entry.seen = Some(digest.to_owned());
                if withdrawn {
                    entry.waiting = None;
                }
            }
            if self.write(&book).await.is_ok() {
                inner.book = book;
            }
        }
        let state = match inner.trials.contains_key(name) {
            true => State::Probation,
            false => State::Active,
        };
        drop(inner);
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
            .map_err(|_| Rule::Readable.broken("reading it was interrupted"))??;
        let set = self.inner.lock().await.judging().clone();
        let terms = self.terms_of(&papers, from);
        let probed = prepare(&self.options.sandbox, &set, stored, terms).await?;
        let Some(probed) = probed else { return Ok(()) };
        if from.is_remote() && !before.is_remote() {
            // It was the operator's own before, and stays so.
            return Ok(());
        }
        let mut inner = self.inner.lock().await;
        let mut next = inner.clone();
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
        self.commit(&mut inner, next)
            .await
            .map_err(|error| Rule::Stored.broken(error.to_string()))
    }

    /// The terms of a version that serves or served.
    pub(crate) fn terms_of(&self, papers: &Papers, from: &Sender) -> Terms {
        terms(&self.options.place, papers, from)
    }

    /// The terms of a candidate: also what it would replace.
    async fn terms_of_candidate(&self, name: &str, digest: &str, papers: &Papers) -> Terms {
        let inner = self.inner.lock().await;
        let entry = inner.book.plugins.get(name);
        let active = entry.and_then(|entry| entry.active.as_ref());
        let mut terms = self.terms_of(papers, &papers.from);
        terms.candidate = true;
        // What the operator granted to what serves, a successor that asks for no more need not be granted anew.
        let before = active
            .zip(entry)
            .and_then(|(active, entry)| entry.papers_of(&active.digest).granted);
        terms.granted.extend(before);
        if papers.from.is_remote() {
            let floor = inner.book.floors.get(name).cloned().unwrap_or_default();
            let asked = inner.serving.get(name).map(|serves| serves.asked().clone());
            let serves = active.map(|active| active.digest.clone());
            let pair = (digest.to_owned(), serves.clone().unwrap_or_default());
            terms.against = Some(Against {
                asked: papers.granted.is_none().then(|| asked.unwrap_or_default()),
                highest: highest(floor.highest, active),
                replaced: floor.replaced.iter().any(|one| one == digest),
                spent: floor.orders.contains(&pair),
                serves,
            });
        }
        terms
    }

    /// Takes a stored candidate through every step that is left.
    pub(crate) async fn try_in(&self, candidate: Candidate) -> Result<Tried, SwapError> {
        let Candidate {
            name,
            digest,
            stored,
            papers,
        } = candidate;
        let refused = |broken: Broken| SwapError::Refused(broken.by(&format!("{name}.wasm")));
        let set = self.inner.lock().await.judging().clone();
        let terms = self.terms_of_candidate(&name, &digest, &papers).await;
        let probed = prepare(&self.options.sandbox, &set, stored, terms).await;
        let probed = match probed {
            Ok(Some(probed)) => probed,
            Ok(None) => {
                let broken = Rule::Granted.broken("it is disabled in plugins.toml");
                return Err(refused(broken));
            }
            Err(broken) => match broken.lacks {
                Some(lacks) => return Err(self.hold(&name, *lacks, papers).await),
                None => return Err(refused(broken)),
            },
        };
        let before = self.inner.lock().await.serving.get(&name).cloned();
        let compared = self
            .compare(before.as_ref(), probed.plugged())
            .await
            .map_err(refused)?;
        failpoint("shadowed");
        let plugged = probed.into_plugged();
        let version = Version {
            digest,
            version: plugged.identity().version.clone(),
        };
        self.look_for_programs(&plugged).await;
        let lacks = self.lacks_programs(before.as_ref(), &plugged).await;
        if let Some(engine) = lacks.map_err(refused)? {
            return Ok(Tried::Lacks(engine));
        }
        let from = papers.from.clone();
        let mut inner = self.inner.lock().await;
        // The operator may have pinned it while this was compiled, compared or downloaded for.
        if inner
            .book
            .plugins
            .get(&name)
            .is_some_and(|entry| entry.pinned)
        {
            return Err(SwapError::Pinned(name));
        }
        let mut next = inner.clone();
        let left = if compared.enough() {
            JOBS
        } else {
            JOBS_UNSHADOWED
        };
        let told = format!("{}; {compared}", plugged.identity().signature);
        let told = match next.goes_down(&name, &version) {
            Some(before) => format!("goes down from {before}; {told}"),
            None => told,
        };
        next.enter(plugged, &version, left, papers);
        next.book.note(&name, &version, "probation", &told);
        self.commit(&mut inner, next).await.map_err(|error| {
            refused(Rule::Stored.broken(format!("it could not be put into service: {error}")))
        })?;
        drop(inner);
        tracing::info!(target: "plugins", plugin = name, version = version.version, digest = version.digest, generation = self.serving.current().id(), "in service, on probation for {left} jobs; {told}");
        self.tell(&name, &version, State::Probation, &told, &from);
        Ok(Tried::In(version))
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

/// Under which terms a version serves.
pub(crate) fn terms(place: &Place, papers: &Papers, from: &Sender) -> Terms {
    let origin = match (from, place) {
        (Sender::Studio { .. } | Sender::Address { .. }, _) => Origin::Remote,
        (Sender::Folder, Place::Embedded) => Origin::BuiltIn,
        (Sender::Folder | Sender::Hand, _) => Origin::Operator,
    };
    Terms {
        origin,
        signature: papers.signature.clone(),
        granted: papers.granted.iter().cloned().collect(),
        ..Terms::default()
    }
}

/// The higher of what was trusted and what serves.
fn highest(trusted: Option<String>, active: Option<&Version>) -> Option<String> {
    let parse = |text: &str| semver::Version::parse(text).ok();
    let serves = active.and_then(|active| parse(&active.version));
    let trusted = trusted.as_deref().and_then(parse);
    let higher = match (trusted, serves) {
        (Some(a), Some(b)) => Some(if a.cmp_precedence(&b).is_ge() { a } else { b }),
        (a, b) => a.or(b),
    };
    higher.map(|version| version.to_string())
}

impl Inner {
    /// The version that serves, where this one is lower.
    fn goes_down(&self, name: &str, version: &Version) -> Option<String> {
        let active = self.book.plugins.get(name)?.active.as_ref()?;
        let before = semver::Version::parse(&active.version).ok()?;
        let after = semver::Version::parse(&version.version).ok()?;
        after
            .cmp_precedence(&before)
            .is_lt()
            .then(|| before.to_string())
    }

    /// Puts a version into service, in place of what serves under its name.
    fn enter(&mut self, plugged: Plugged, version: &Version, left: u32, mut papers: Papers) {
        let name = plugged.identity().name.clone();
        let (asked, given) = (
            plugged.asked().clone(),
            self.judging().policy().permissions(&name),
        );
        let before = self.serving.insert(name.clone(), plugged);
        match before {
            Some(before) => drop(self.older.insert(name.clone(), before)),
            None => drop(self.older.remove(&name)),
        }
        let record = self.records.remove(&name).unwrap_or_default();
        self.trials.insert(name.clone(), Trial::new(left, record));
        self.asking.remove(&name);
        // Granted to what it replaces, beside plugins.toml: it is its own from now on.
        if papers.granted.is_none() && !asked.beyond(&given).is_nothing() {
            papers.granted = Some(asked);
        }
        let (by_hand, from_afar) = (papers.from != Sender::Folder, papers.from.is_remote());
        let entry: &mut Entry = self.book.plugins.entry(name.clone()).or_default();
        entry.previous = entry.active.take();
        if !by_hand {
            entry.seen = Some(version.digest.clone());
        }
        entry.by_hand = by_hand;
        entry.active = Some(version.clone());
        entry.probation = Some(left);
        entry.waiting = None;
        entry.papers.insert(version.digest.clone(), papers);
        entry.tidy();
        if let Some(previous) = entry.previous.clone() {
            self.book
                .replaced(&name, &version.digest, &previous.digest, from_afar);
        }
    }
}
