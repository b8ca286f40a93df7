//! What is to be told, in order and bounded.

use std::collections::{HashSet, VecDeque};

use worker_wire::PluginStatus;

/// Statuses that wait for a session. More keeps more of a flood that nobody reads; fewer loses states between while a studio is
/// away. It must be more than there are updates and plugins, so that the last word on each stays.
pub(crate) const WAITING: usize = 512;

/// Statuses that wait to be sent.
#[derive(Debug, Default)]
pub(crate) struct Outbox(VecDeque<PluginStatus>);

/// What a status is about: of two about the same, the later one says what counts.
fn about(status: &PluginStatus) -> (&str, Option<&str>) {
    (&status.name, status.update_id.as_deref())
}

/// Whether two statuses are about the same.
pub(crate) fn same(one: &PluginStatus, other: &PluginStatus) -> bool {
    about(one) == about(other)
}

impl Outbox {
    /// Puts one at the end. Where there is no room, one that a later one outdates goes, else the oldest.
    pub(crate) fn push(&mut self, status: PluginStatus) {
        if self.0.len() >= WAITING {
            let mut later = HashSet::from([about(&status)]);
            let mut outdated = None;
            for (at, one) in self.0.iter().enumerate().rev() {
                if !later.insert(about(one)) {
                    outdated = Some(at);
                }
            }
            self.0.remove(outdated.unwrap_or_default());
        }
        self.0.push_back(status);
    }

    /// Takes the first.
    pub(crate) fn take(&mut self) -> Option<PluginStatus> {
        self.0.pop_front()
    }

    /// Puts one that was not sent back to the front.
    pub(crate) fn put_back(&mut self, status: PluginStatus) {
        self.0.push_front(status);
    }

    /// Puts what is known before what waits, as far as nothing about it waits.
    pub(crate) fn remind(&mut self, known: impl DoubleEndedIterator<Item = PluginStatus>) {
        for status in known.rev() {
            if self.0.len() < WAITING && !self.0.iter().any(|one| same(one, &status)) {
                self.0.push_front(status);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(update: &str, state: &str) -> PluginStatus {
        PluginStatus {
            update_id: Some(update.to_owned()),
            state: state.to_owned(),
            ..PluginStatus::default()
        }
    }

    #[test]
    fn the_last_word_on_each_update_outlives_a_flood() {
        let mut outbox = Outbox::default();
        for update in 0..100 {
            for state in 0..50 {
                outbox.push(status(&update.to_string(), &state.to_string()));
            }
        }
        let left: Vec<PluginStatus> = std::iter::from_fn(|| outbox.take()).collect();
        assert_eq!(left.len(), WAITING);
        for update in 0..100 {
            let last = left
                .iter()
                .rfind(|one| one.update_id.as_deref() == Some(&update.to_string()));
            assert_eq!(last.unwrap().state, "49", "{update}");
        }
    }

    #[test]
    fn what_waits_is_newer_than_what_is_known() {
        let mut outbox = Outbox::default();
        outbox.push(status("a", "probation"));
        outbox.push(status("a", "active"));
        outbox.remind([status("a", "active"), status("b", "refused")].into_iter());
        let told: Vec<String> = std::iter::from_fn(|| outbox.take())
            .map(|one| one.state)
            .collect();
        assert_eq!(told, ["refused", "probation", "active"]);
    }
}
