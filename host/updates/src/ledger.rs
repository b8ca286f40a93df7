//! What is known of each update and each plugin, the updates also on disk.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use worker_swap::Book;
use worker_wire::{PluginStatus, plugin_state as word};

use crate::outbox::same;

/// Updates that are remembered. More makes each session begin with more frames; fewer forgets what a studio may still ask for.
const UPDATES: usize = 64;
/// Plugins whose last state is remembered: as many as a worker may have.
const PLUGINS: usize = 128;
/// A larger file is none of ours.
const MAX_BYTES: u64 = 4 << 20;

/// The record of updates cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {}: {source}; check its owner and the free space", path.display())]
pub struct LedgerError {
    /// The file.
    pub path: PathBuf,
    /// The system's error.
    pub source: std::io::Error,
}

/// What is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    /// By the order in which they came.
    updates: Vec<PluginStatus>,
    /// By name: the last state of what came another way.
    others: BTreeMap<String, PluginStatus>,
}

/// Whether an update in this state is still at work.
pub(crate) fn under_way(state: &str) -> bool {
    [word::QUEUED, word::FETCHING, word::RECEIVED, word::CHECKING].contains(&state)
}

impl Ledger {
    /// Reads the record of a worker that ran before. One that cannot be understood is said and begun anew. Blocks.
    pub(crate) fn load(path: &Path) -> Result<Self, LedgerError> {
        let failed = |source| LedgerError {
            path: path.to_owned(),
            source,
        };
        let mut bytes = Vec::new();
        match fs::File::open(path) {
            Ok(file) => {
                file.take(MAX_BYTES)
                    .read_to_end(&mut bytes)
                    .map_err(failed)?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(failed(error)),
        }
        let updates: Vec<PluginStatus> = serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::warn!(target: "plugins", %error, "{} cannot be understood; what became of earlier updates is not told again", path.display());
            Vec::new()
        });
        let updates = updates.into_iter().map(PluginStatus::bounded);
        Ok(Self {
            updates: updates.take(UPDATES).collect(),
            others: BTreeMap::new(),
        })
    }

    /// Writes it whole: temporary name, sync, rename, sync of the folder. Blocks.
    pub(crate) fn save(&self, path: &Path) -> Result<(), LedgerError> {
        let failed = |source| LedgerError {
            path: path.to_owned(),
            source,
        };
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        let text = serde_json::to_vec(&self.updates).map_err(|error| failed(error.into()))?;
        file.write_all(&text).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        #[cfg(unix)]
        fs::File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(failed)?;
        Ok(())
    }

    /// Brings what was under way when a worker ended to what the swap knows of it.
    pub(crate) fn settle(&mut self, book: &Book, now: &str) {
        for status in &mut self.updates {
            let (state, reason) = after_restart(status, book);
            if status.state != state {
                status.state = state;
                status.reason = reason;
                status.at = now.to_owned();
            }
        }
    }

    /// Takes the last thing that happened to each plugin from the book, as far as no update brought it.
    pub(crate) fn recall(&mut self, book: &Book) {
        for event in &book.history {
            if self.brought(&event.plugin, &event.digest).is_none() {
                let status = PluginStatus {
                    update_id: None,
                    name: event.plugin.clone(),
                    version: event.version.clone(),
                    digest: event.digest.clone(),
                    state: event.state.clone(),
                    reason: event.reason.clone(),
                    rule: None,
                    at: event.at.clone(),
                };
                self.note(&status.bounded());
            }
        }
    }

    /// One update.
    pub(crate) fn update(&self, id: &str) -> Option<&PluginStatus> {
        self.updates
            .iter()
            .find(|one| one.update_id.as_deref() == Some(id))
    }

    /// Takes a state in. Whether it is news.
    pub(crate) fn note(&mut self, status: &PluginStatus) -> bool {
        let known = match &status.update_id {
            Some(_) => self.updates.iter_mut().find(|one| same(one, status)),
            None => self.others.get_mut(&status.name),
        };
        if let Some(known) = known {
            let news = (&known.state, &known.reason, &known.digest)
                != (&status.state, &status.reason, &status.digest);
            *known = status.clone();
            return news;
        }
        if status.update_id.is_some() {
            if self.updates.len() >= UPDATES {
                let ended = self.updates.iter().position(|one| !under_way(&one.state));
                self.updates.remove(ended.unwrap_or_default());
            }
            self.updates.push(status.clone());
        } else if self.others.len() < PLUGINS {
            self.others.insert(status.name.clone(), status.clone());
        }
        true
    }

    /// The update that brought a version, where one did.
    pub(crate) fn brought(&self, name: &str, digest: &str) -> Option<String> {
        let mut updates = self.updates.iter().rev();
        let found = updates.find(|one| one.name == name && one.digest == digest)?;
        found.update_id.clone()
    }

    /// All that is known.
    pub(crate) fn all(&self) -> impl DoubleEndedIterator<Item = PluginStatus> {
        self.others.values().chain(&self.updates).cloned()
    }
}

fn after_restart(status: &PluginStatus, book: &Book) -> (String, String) {
    let entry = book.plugins.get(&status.name);
    let serves = entry.is_some_and(|entry| {
        let active = entry.active.as_ref();
        active.is_some_and(|active| active.digest == status.digest)
    });
    if serves {
        let tried = entry.is_some_and(|entry| entry.probation.is_some());
        let state = if tried { word::PROBATION } else { word::ACTIVE };
        return (state.to_owned(), status.reason.clone());
    }
    let served = [word::PROBATION, word::ACTIVE].contains(&status.state.as_str());
    if !served && !under_way(&status.state) {
        return (status.state.clone(), status.reason.clone());
    }
    let mut events = book.history.iter().rev();
    let last = events.find(|event| event.plugin == status.name && event.digest == status.digest);
    match last {
        Some(event) if ![word::PROBATION, word::ACTIVE].contains(&event.state.as_str()) => {
            (event.state.clone(), event.reason.clone())
        }
        _ if served => (
            word::REMOVED.to_owned(),
            "another version serves under its name".to_owned(),
        ),
        _ => (
            word::INTERRUPTED.to_owned(),
            "the worker ended before it was taken in; send it again".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(id: &str, state: &str) -> PluginStatus {
        PluginStatus {
            update_id: Some(id.to_owned()),
            name: "x".to_owned(),
            digest: "d".to_owned(),
            state: state.to_owned(),
            ..PluginStatus::default()
        }
    }

    #[test]
    fn what_was_under_way_ends_in_a_told_state() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("updates.json");
        let mut ledger = Ledger::default();
        assert!(ledger.note(&status("u-1", word::FETCHING)));
        assert!(!ledger.note(&status("u-1", word::FETCHING)));
        assert!(ledger.note(&status("u-2", word::REFUSED)));
        ledger.save(&path).unwrap();
        let mut ledger = Ledger::load(&path).unwrap();
        ledger.settle(&Book::default(), "now");
        assert_eq!(ledger.update("u-1").unwrap().state, word::INTERRUPTED);
        assert_eq!(ledger.update("u-2").unwrap().state, word::REFUSED);

        let mut ledger = Ledger::load(&path).unwrap();
        let mut book = Book::default();
        let entry = book.plugins.entry("x".to_owned()).or_default();
        entry.active = Some(worker_swap::Version {
            digest: "d".to_owned(),
            version: String::new(),
        });
        entry.probation = Some(3);
        ledger.settle(&book, "now");
        assert_eq!(ledger.update("u-1").unwrap().state, word::PROBATION);

        fs::write(&path, "nonsense").unwrap();
        assert!(Ledger::load(&path).unwrap().update("u-1").is_none());
    }

    #[test]
    fn what_is_at_work_is_remembered_before_what_has_ended() {
        let mut ledger = Ledger::default();
        ledger.note(&status("at-work", word::FETCHING));
        for number in 0..UPDATES * 3 {
            ledger.note(&status(&number.to_string(), word::REFUSED));
        }
        assert!(ledger.update("at-work").is_some());
        assert_eq!(ledger.all().count(), UPDATES);
    }
}
