//! A stored candidate's last steps: judged by what it would replace, compared with it, put into its place.

use worker_plugins::{Against, Broken, Origin, Plugged, Rule, Terms, failpoint};

use super::provide::given_up;
use super::start::version_of;
use super::take::{Candidate, Tried};
use super::underway::Way;
use super::{Inner, Place, SwapError, Swapper, prepare};
use crate::book::{Entry, Papers, Version};
use crate::parcel::{Sender, State};
use crate::trial::{JOBS, JOBS_UNSHADOWED, Trial};

impl Swapper {
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

    /// Takes a stored candidate through every step that is left. None where what it was compared with serves no more.
    pub(crate) async fn try_in(
        &self,
        candidate: Candidate,
        way: &Way,
    ) -> Result<Option<Tried>, SwapError> {
        let Candidate {
            name,
            digest,
            stored,
            papers,
        } = candidate;
        let refused = |broken: Broken| SwapError::Refused(broken.by(&format!("{name}.wasm")));
        let (set, against, before) = {
            let inner = self.inner.lock().await;
            let serving = inner.serving.get(&name).cloned();
            (inner.judging().clone(), inner.active_digest(&name), serving)
        };
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
        let compared = self
            .compare(before.as_ref(), probed.plugged())
            .await
            .map_err(refused)?;
        failpoint("shadowed");
        let plugged = probed.into_plugged();
        let version = version_of(&plugged);
        self.look_for_programs(&plugged).await;
        let lacks = self.lacks_programs(before.as_ref(), &plugged).await;
        if let Some(engine) = lacks.map_err(refused)? {
            return Ok(Some(Tried::Lacks(engine)));
        }
        let from = papers.from.clone();
        let held = self.held().await;
        // The operator's word may have come while this was compiled, compared or downloaded for.
        if way.is_given_up() {
            return Err(refused(given_up()));
        }
        let entry = held.book.plugins.get(&name);
        if entry.is_some_and(|entry| entry.pinned) {
            return Err(SwapError::Pinned(name));
        }
        if held.active_digest(&name) != against {
            return Ok(None);
        }
        let mut next = held.clone();
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
        let committed = self.commit(held, next).await;
        drop(committed.map_err(|error| refused(not_recorded(error)))?);
        tracing::info!(target: "plugins", plugin = name, version = version.version, digest = version.digest, generation = self.serving.current().id(), "in service, on probation for {left} jobs; {told}");
        self.tell(&name, &version, State::Probation, &told, &from);
        Ok(Some(Tried::In(version)))
    }
}

/// A set of plugins that makes no generation is a fault of the candidate's; a book that cannot be written is none.
pub(super) fn not_recorded(error: SwapError) -> Broken {
    let told = format!("it could not be put into service: {error}");
    match error {
        SwapError::Book(_) | SwapError::Interrupted => Rule::Stored.unmet(told),
        _ => Rule::Stored.broken(told),
    }
}

/// Under which terms a version serves.
pub(crate) fn terms(place: &Place, papers: &Papers, from: &Sender) -> Terms {
    let origin = match (from, place) {
        (Sender::Studio { .. } | Sender::Address { .. }, _) => Origin::Remote,
        (Sender::BuiltIn, _) | (Sender::Folder, Place::Embedded) => Origin::BuiltIn,
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
    fn active_digest(&self, name: &str) -> Option<String> {
        let active = self.book.plugins.get(name)?.active.as_ref()?;
        Some(active.digest.clone())
    }

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
        let (from_folder, from_afar) = (papers.from == Sender::Folder, papers.from.is_remote());
        let entry: &mut Entry = self.book.plugins.entry(name.clone()).or_default();
        entry.previous = entry.active.take();
        if from_folder {
            entry.seen = Some(version.digest.clone());
        }
        entry.papers.insert(version.digest.clone(), papers);
        entry.activate(Some(version.clone()));
        entry.probation = Some(left);
        entry.waiting = None;
        entry.later = None;
        entry.tidy();
        if let Some(previous) = entry.previous.clone() {
            self.book
                .replaced(&name, &version.digest, &previous.digest, from_afar);
        }
    }
}
