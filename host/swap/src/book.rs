//! What was decided about each plugin, on disk.
//!
//! One JSON file, written whole: temporary name, fsync, rename, fsync of the folder. It is written before a decision takes
//! effect, so that a crash at any point leaves either the state before it or the state after it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use worker_plugins::{Asked, Lacks};
use worker_wire::timestamp;

use crate::parcel::Sender;

/// Events kept. More makes each write longer; fewer tells less of the story.
const MAX_EVENTS: usize = 256;
/// Of those, about what came from afar and does not serve. More leaves less room for what the operator did.
const MAX_EVENTS_AFAR: usize = 32;
/// Quarantined digests kept, and digests with a strike; the oldest go first.
const MAX_QUARANTINED: usize = 256;
/// Replacements remembered of a plugin. Fewer would let an old version of the same number come again from afar.
const MAX_REPLACED: usize = 128;
/// A larger file is none of ours, and none is written. Smaller refuses a worker with many plugins its swaps; larger only costs memory.
const MAX_BYTES: u64 = 16 << 20;
/// Size up to which candidates may wait in it. The rest is for what must never fail for want of room: to roll back and to quarantine.
const MAX_WAITING_BYTES: u64 = MAX_BYTES / 2;
/// Longest reason that is kept, in bytes. With [`MAX_EVENTS`] and [`MAX_QUARANTINED`] all of them stay far below [`MAX_BYTES`], also
/// where JSON takes six bytes for one; less cuts what a comparison found.
const MAX_REASON: usize = 1024;
/// How often a digest may go wrong on probation by what may be somebody else's doing (a crash may be the power's, failing jobs those of a
/// host) before it is quarantined.
const MAX_STRIKES: u32 = 2;

/// One version of a plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// SHA-256 of its file in hexadecimal.
    pub digest: String,
    /// What its metadata calls it; may be empty.
    pub version: String,
}

/// What is known of a version beside its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Papers {
    /// Who brought it.
    pub from: Sender,
    /// The text of its signature file.
    pub signature: Option<String>,
    /// What the operator granted it by command: all that it asks for.
    pub granted: Option<Asked>,
}

impl Papers {
    /// Those of what the worker brings along.
    pub(crate) fn built_in() -> Self {
        Self {
            from: Sender::BuiltIn,
            ..Self::default()
        }
    }
}

/// A version that asks for more than it may have, until the operator grants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// It.
    pub version: Version,
    /// All that it asks for.
    pub asked: Asked,
    /// The part that is to be granted.
    pub more: Asked,
    /// What else is known of it.
    pub papers: Papers,
}

impl Waiting {
    /// What the pipeline found lacking, with what else is known.
    pub(crate) fn of(lacks: Lacks, papers: Papers) -> Self {
        let Lacks {
            digest,
            version,
            asked,
            more,
        } = lacks;
        Self {
            version: Version { digest, version },
            asked,
            more,
            papers,
        }
    }
}

/// How low a plugin from afar may not go. Outlives the plugin, so that removing it and adding it anew is no way round.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Floor {
    /// The highest version that was ever trusted.
    pub highest: Option<String>,
    /// Digests that served and were replaced by another, the latest last.
    pub replaced: Vec<String>,
    /// Replacements by what came from afar, new and old: none is ordered twice. The latest last.
    pub orders: Vec<(String, String)>,
}

/// One plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// What serves; none when it was taken out of service.
    pub active: Option<Version>,
    /// What served before.
    pub previous: Option<Version>,
    /// Digest of the folder's file when it was last decided about. A file that differs is a candidate.
    pub seen: Option<String>,
    /// No candidate is taken.
    pub pinned: bool,
    /// Jobs that `active` still has to do well before it is trusted.
    pub probation: Option<u32>,
    /// It did not come from the folder, so that a missing file means nothing.
    pub by_hand: bool,
    /// What is known of `active` and `previous`, by digest.
    pub papers: BTreeMap<String, Papers>,
    /// The version that waits for the operator.
    pub waiting: Option<Waiting>,
    /// What served and could not be loaded at a start, for a reason that may pass. Each start tries it first.
    pub later: Option<Later>,
}

/// A version that is to serve again once it can be loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Later {
    /// It.
    pub version: Version,
    /// Jobs that it still had to do well.
    pub probation: Option<u32>,
}

impl Entry {
    /// What is known of one version.
    pub fn papers_of(&self, digest: &str) -> Papers {
        self.papers.get(digest).cloned().unwrap_or_default()
    }

    /// Every version that may serve again without anybody bringing it.
    fn versions(&self) -> impl Iterator<Item = &Version> {
        let later = self.later.as_ref().map(|later| &later.version);
        let all = [self.active.as_ref(), self.previous.as_ref(), later];
        all.into_iter().flatten()
    }

    /// Forgets what is known of versions that are gone.
    pub(crate) fn tidy(&mut self) {
        let kept: Vec<String> = self.versions().map(|one| one.digest.clone()).collect();
        self.papers.retain(|digest, _| kept.contains(digest));
    }

    /// Whether a missing file in the folder takes it out of service.
    pub(crate) fn is_a_file(&self) -> bool {
        self.seen.is_some() && !self.by_hand && !self.pinned
    }

    /// Another version serves, or none. Whether a missing file means something goes by what that version came by.
    pub(crate) fn activate(&mut self, version: Option<Version>) {
        if let Some(version) = &version {
            self.by_hand = self.papers_of(&version.digest).from != Sender::Folder;
        }
        self.active = version;
    }
}

/// What was found to forgive.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Forgiven {
    One(Quarantined),
    None,
    Several,
}

/// A digest that is not taken again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// The plugin's name.
    pub plugin: String,
    /// The digest.
    pub digest: String,
    /// Why.
    pub reason: String,
    /// When, RFC 3339.
    pub at: String,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, RFC 3339.
    pub at: String,
    /// The plugin's name.
    pub plugin: String,
    /// The version it happened to.
    pub version: String,
    /// Its digest.
    pub digest: String,
    /// The state it came to: `active`, `probation`, `waiting`, `granted`, `refused`, `rolled-back`, `quarantined`, `forgiven`, `pinned`,
    /// `unpinned`, `removed`.
    pub state: String,
    /// Why.
    pub reason: String,
    /// Whether it is about what came from afar and does not serve: anybody there can bring about many of these.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[serde(default)]
    pub afar: bool,
}

/// All that is remembered.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Book {
    /// The folder that the entries are about, or the built-in set.
    pub place: String,
    /// Set while a worker runs: found set at start, the last one crashed.
    pub running: bool,
    /// By name.
    pub plugins: BTreeMap<String, Entry>,
    /// How low plugins from afar may not go, by name.
    pub floors: BTreeMap<String, Floor>,
    /// Oldest first.
    pub quarantined: Vec<Quarantined>,
    /// How often a version went wrong on probation, by digest.
    pub strikes: BTreeMap<String, u32>,
    /// Oldest first.
    pub history: Vec<Event>,
}

/// The book cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {}: {source}; check its owner and the free space", path.display())]
pub struct BookError {
    /// The file.
    pub path: PathBuf,
    /// The system's error.
    pub source: std::io::Error,
}

impl Book {
    /// Reads the book; an empty one where there is none. One that cannot be understood is set aside under `.broken` and said. Blocks.
    pub fn load(path: &Path) -> Result<Self, BookError> {
        match Self::read(path)? {
            Ok(book) => Ok(book),
            Err(error) => {
                let aside = path.with_extension("json.broken");
                tracing::error!(target: "plugins", %error, "{} cannot be understood and is set aside as {}; plugins start anew from their folder", path.display(), aside.display());
                fs::rename(path, aside).map_err(|source| BookError {
                    path: path.to_owned(),
                    source,
                })?;
                Ok(Self::default())
            }
        }
    }

    /// Reads it beside whoever owns it: one that cannot be understood counts as empty and stays where it is. Blocks.
    pub fn peek(path: &Path) -> Result<Self, BookError> {
        Ok(Self::read(path)?.unwrap_or_default())
    }

    fn read(path: &Path) -> Result<serde_json::Result<Self>, BookError> {
        let failed = |source| BookError {
            path: path.to_owned(),
            source,
        };
        let mut bytes = Vec::new();
        match fs::File::open(path) {
            Ok(file) => file
                .take(MAX_BYTES)
                .read_to_end(&mut bytes)
                .map_err(failed)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Ok(Self::default()));
            }
            Err(error) => return Err(failed(error)),
        };
        Ok(serde_json::from_slice(&bytes))
    }

    /// Writes it, whole and synced. Blocks.
    pub fn save(&self, path: &Path) -> Result<(), BookError> {
        self.save_past(path, "")
    }

    /// The same, past a point at which a test may end the process.
    pub(crate) fn save_past(&self, path: &Path, point: &str) -> Result<(), BookError> {
        let failed = |source| BookError {
            path: path.to_owned(),
            source,
        };
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        let text = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        if text.len() as u64 > MAX_BYTES {
            return Err(failed(too_large()));
        }
        file.write_all(&text).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        worker_plugins::failpoint(point);
        file.persist(path).map_err(|error| failed(error.error))?;
        #[cfg(unix)]
        fs::File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(failed)?;
        Ok(())
    }

    /// Plugins of which a version waits.
    pub(crate) fn waiting(&self) -> usize {
        let entries = self.plugins.values();
        entries.filter(|entry| entry.waiting.is_some()).count()
    }

    /// Whether another candidate may wait in it.
    pub(crate) fn has_room(&self) -> bool {
        let text = serde_json::to_vec_pretty(self);
        text.is_ok_and(|text| text.len() as u64 <= MAX_WAITING_BYTES)
    }

    /// Why a digest is quarantined.
    pub fn quarantine_of(&self, digest: &str) -> Option<&Quarantined> {
        self.quarantined.iter().find(|one| one.digest == digest)
    }

    /// Quarantines a digest.
    pub(crate) fn quarantine(&mut self, plugin: &str, digest: &str, reason: &str) {
        if self.quarantine_of(digest).is_some() {
            return;
        }
        self.quarantined.push(Quarantined {
            plugin: plugin.to_owned(),
            digest: digest.to_owned(),
            reason: cut(reason),
            at: timestamp(SystemTime::now()),
        });
        let surplus = self.quarantined.len().saturating_sub(MAX_QUARANTINED);
        self.quarantined.drain(..surplus);
    }

    /// Writes down what happened.
    pub(crate) fn note(&mut self, plugin: &str, version: &Version, state: &str, reason: &str) {
        self.write_down(plugin, version, state, reason, false);
    }

    /// Writes down what became of something that does not serve. Of what comes from afar only the latest are kept, so that no sender
    /// washes away what the operator wants to know.
    pub(crate) fn note_of(
        &mut self,
        from: &Sender,
        plugin: &str,
        version: &Version,
        state: &str,
        reason: &str,
    ) {
        self.write_down(plugin, version, state, reason, from.is_remote());
        let afar = self.history.iter().filter(|event| event.afar).count();
        let mut surplus = afar.saturating_sub(MAX_EVENTS_AFAR);
        self.history.retain(|event| {
            let goes = event.afar && surplus > 0;
            surplus -= usize::from(goes);
            !goes
        });
    }

    fn write_down(
        &mut self,
        plugin: &str,
        version: &Version,
        state: &str,
        reason: &str,
        afar: bool,
    ) {
        self.history.push(Event {
            at: timestamp(SystemTime::now()),
            plugin: plugin.to_owned(),
            version: version.version.clone(),
            digest: version.digest.clone(),
            state: state.to_owned(),
            reason: cut(reason),
            afar,
        });
        let surplus = self.history.len().saturating_sub(MAX_EVENTS);
        self.history.drain(..surplus);
    }

    /// After a crash: whatever was in probation goes back, and at its second crash its digest is quarantined.
    pub(crate) fn after_crash(&mut self) {
        let tried: Vec<String> = self
            .plugins
            .iter()
            .filter(|(_, entry)| entry.probation.is_some())
            .map(|(name, _)| name.clone())
            .collect();
        for name in tried {
            let Some(entry) = self.plugins.get_mut(&name) else {
                continue;
            };
            entry.probation = None;
            let Some(bad) = entry.active.take() else {
                continue;
            };
            let before = entry.previous.take();
            entry.activate(before);
            let twice = self.strike(&bad.digest);
            let reason = "the worker crashed during its probation";
            self.note(&name, &bad, "rolled-back", reason);
            if twice {
                self.quarantine(
                    &name,
                    &bad.digest,
                    &format!("{reason}, the second time that it went wrong"),
                );
            }
        }
    }

    /// A version on probation did badly in a way that may have been somebody else's doing. Whether that is enough to quarantine it.
    pub(crate) fn strike(&mut self, digest: &str) -> bool {
        let strikes = self.strikes.entry(digest.to_owned()).or_default();
        *strikes += 1;
        if *strikes >= MAX_STRIKES {
            self.strikes.remove(digest);
            return true;
        }
        while self.strikes.len() > MAX_QUARANTINED {
            let other = self.strikes.keys().find(|one| *one != digest).cloned();
            let Some(other) = other else { break };
            self.strikes.remove(&other);
        }
        false
    }

    /// Lifts the quarantine of the digest that begins so.
    pub(crate) fn forgive(&mut self, digest: &str) -> Forgiven {
        let meant = |one: &Quarantined| one.digest.starts_with(digest);
        let mut found = self.quarantined.iter().filter(|one| meant(one));
        let Some(one) = found.next().cloned() else {
            return Forgiven::None;
        };
        if found.next().is_some() {
            return Forgiven::Several;
        }
        self.quarantined.retain(|other| other.digest != one.digest);
        self.strikes.remove(&one.digest);
        let version = Version {
            digest: one.digest.clone(),
            version: self.version_of(&one),
        };
        self.note(&one.plugin, &version, "forgiven", "by the operator");
        Forgiven::One(one)
    }

    /// What a quarantined digest's version is called, as far as the history still says.
    fn version_of(&self, one: &Quarantined) -> String {
        let mut events = self.history.iter().rev();
        let last = events.find(|event| event.digest == one.digest && !event.version.is_empty());
        last.map(|event| event.version.clone()).unwrap_or_default()
    }

    /// Whether any entry needs this digest.
    pub(crate) fn needs(&self, digest: &str) -> bool {
        self.plugins.values().any(|entry| {
            let waiting = entry.waiting.as_ref().map(|waiting| &waiting.version);
            let mut all = entry.versions().chain(waiting);
            all.any(|version| version.digest == digest)
        })
    }

    /// What serves is trusted: from afar nothing lower is taken any more.
    pub(crate) fn trusted(&mut self, plugin: &str, version: &Version) {
        let Ok(now) = semver::Version::parse(&version.version) else {
            return;
        };
        let floor = self.floors.entry(plugin.to_owned()).or_default();
        let before = floor.highest.as_deref().map(semver::Version::parse);
        if !matches!(before, Some(Ok(before)) if before.cmp_precedence(&now).is_ge()) {
            floor.highest = Some(version.version.clone());
        }
    }

    /// One version took the place of another.
    pub(crate) fn replaced(&mut self, plugin: &str, new: &str, old: &str, from_afar: bool) {
        let floor = self.floors.entry(plugin.to_owned()).or_default();
        floor
            .replaced
            .retain(|digest| digest != old && digest != new);
        floor.replaced.push(old.to_owned());
        if from_afar {
            floor.orders.push((new.to_owned(), old.to_owned()));
        }
        let surplus = floor.replaced.len().saturating_sub(MAX_REPLACED);
        floor.replaced.drain(..surplus);
        let surplus = floor.orders.len().saturating_sub(MAX_REPLACED);
        floor.orders.drain(..surplus);
    }
}

/// A book that no start would read is not written: what is on disk stays.
fn too_large() -> std::io::Error {
    std::io::Error::new(
        std::io::ErrorKind::FileTooLarge,
        format!("it would be longer than {MAX_BYTES} bytes; `plugin remove` what is not wanted"),
    )
}

fn cut(reason: &str) -> String {
    let end = reason.floor_char_boundary(MAX_REASON);
    match reason.get(..end) {
        Some(start) if end < reason.len() => format!("{start}…"),
        _ => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(digest: &str) -> Version {
        Version {
            digest: digest.to_owned(),
            version: "1".to_owned(),
        }
    }

    #[test]
    fn a_crash_counts_against_what_was_on_probation_and_against_nothing_else() {
        let mut book = Book::default();
        let entry = |probation| Entry {
            active: Some(version("new")),
            previous: Some(version("old")),
            probation,
            ..Entry::default()
        };
        book.plugins.insert("trusted".to_owned(), entry(None));
        book.plugins.insert("tried".to_owned(), entry(Some(3)));
        book.after_crash();
        assert_eq!(book.plugins["trusted"].active, Some(version("new")));
        assert_eq!(book.plugins["tried"].active, Some(version("old")));
        assert!(book.quarantine_of("new").is_none(), "once may be the power");
        book.plugins.insert("tried".to_owned(), entry(Some(3)));
        book.after_crash();
        assert!(
            book.quarantine_of("new").is_some(),
            "twice is its own doing"
        );
    }

    #[test]
    fn long_reasons_are_cut_and_a_book_that_no_start_reads_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let mut book = Book::default();
        let long = "\u{1}ü".repeat(1 << 20);
        for number in 0..2 * MAX_EVENTS {
            book.note("x", &version("d"), "refused", &long);
            book.quarantine("x", &format!("d-{number}"), &long);
        }
        assert!(book.has_room());
        book.save(&path).unwrap();
        assert_eq!(Book::load(&path).unwrap().history, book.history);
        let before = fs::read(&path).unwrap();
        book.place = "p".repeat(usize::try_from(MAX_BYTES).unwrap());
        book.save(&path).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), before);
        assert!(!book.has_room());
    }

    #[test]
    fn what_comes_from_afar_does_not_wash_the_operators_history_away() {
        let mut book = Book::default();
        book.note("x", &version("own"), "pinned", "by the operator");
        let from = Sender::Studio {
            update: "u".to_owned(),
        };
        for number in 0..4 * MAX_EVENTS {
            let digest = format!("d-{number}");
            book.note_of(&from, "x", &version(&digest), "refused", "not signed");
        }
        assert_eq!(book.history.len(), 1 + MAX_EVENTS_AFAR);
        assert_eq!(book.history[0].digest, "own");
        let last = format!("d-{}", 4 * MAX_EVENTS - 1);
        assert_eq!(book.history.last().unwrap().digest, last);
        book.note_of(&Sender::Folder, "x", &version("file"), "refused", "why");
        assert_eq!(book.history.len(), 2 + MAX_EVENTS_AFAR);
    }

    #[test]
    fn a_quarantine_is_lifted_by_the_digest_that_is_meant() {
        let mut book = Book::default();
        for digest in ["aa-1", "aa-2", "bb"] {
            book.quarantine("x", digest, "why");
        }
        assert!(book.strike("bb") || book.strike("bb"));
        assert_eq!(book.forgive("aa"), Forgiven::Several);
        assert_eq!(book.forgive("cc"), Forgiven::None);
        assert!(matches!(book.forgive("aa-1"), Forgiven::One(one) if one.digest == "aa-1"));
        assert!(book.quarantine_of("aa-1").is_none() && book.quarantine_of("aa-2").is_some());
        assert!(!book.strike("bb"), "it begins anew");
        assert!(matches!(book.forgive("bb"), Forgiven::One(_)));
        assert!(!book.strike("bb"), "and so it does once it is forgiven");
        assert_eq!(book.history.last().unwrap().state, "forgiven");
    }

    #[test]
    fn strikes_are_bounded() {
        let mut book = Book::default();
        for number in 0..3 * MAX_QUARANTINED {
            assert!(!book.strike(&format!("d-{number}")));
        }
        assert_eq!(book.strikes.len(), MAX_QUARANTINED);
    }

    #[test]
    fn a_missing_file_means_something_by_what_serves_and_not_by_what_served() {
        let mut entry = Entry::default();
        let pushed = Papers {
            from: Sender::Hand,
            ..Papers::default()
        };
        entry.papers.insert("added".to_owned(), pushed);
        entry.activate(Some(version("added")));
        assert!(entry.by_hand);
        entry.activate(Some(version("from-the-folder")));
        assert!(!entry.by_hand);
    }

    #[test]
    fn what_cannot_be_understood_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        fs::write(&path, "{ not json").unwrap();
        assert!(Book::load(&path).unwrap().plugins.is_empty());
        assert!(dir.path().join("state.json.broken").exists());
        let mut book = Book::default();
        book.quarantine("x", "d", "why");
        book.save(&path).unwrap();
        assert!(Book::load(&path).unwrap().quarantine_of("d").is_some());
    }
}
