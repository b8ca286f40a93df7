//! Candidates on their way into service, so that a later word can end them wherever they are: at a download, or in the pipeline.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Underway(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    ways: Vec<One>,
    /// The next one's number.
    next: u64,
}

#[derive(Debug)]
struct One {
    number: u64,
    name: String,
    digest: String,
    /// Whether a studio wants it, and not the operator.
    pushed: bool,
    given_up: CancellationToken,
}

/// One candidate among them, until this is dropped.
#[derive(Debug)]
pub(crate) struct Way {
    of: Arc<Underway>,
    number: u64,
    given_up: CancellationToken,
}

impl Underway {
    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A candidate sets out.
    pub(crate) fn begin(self: &Arc<Self>, name: &str, digest: &str, pushed: bool) -> Way {
        let mut all = self.lock();
        let number = all.next;
        all.next += 1;
        let given_up = CancellationToken::new();
        all.ways.push(One {
            number,
            name: name.to_owned(),
            digest: digest.to_owned(),
            pushed,
            given_up: given_up.clone(),
        });
        Way {
            of: self.clone(),
            number,
            given_up,
        }
    }

    /// Gives up every version of this plugin other than `digest`, which may be none. `pushed`: only what a studio wants.
    pub(crate) fn give_up(&self, name: &str, digest: &str, pushed: bool) {
        self.end(|one| one.name == name && one.digest != digest && (one.pushed || !pushed));
    }

    /// Gives up the version of this digest.
    pub(crate) fn withdraw(&self, name: &str, digest: &str) {
        self.end(|one| one.name == name && one.digest == digest);
    }

    fn end(&self, which: impl Fn(&One) -> bool) {
        for one in self.lock().ways.iter().filter(|one| which(one)) {
            one.given_up.cancel();
        }
    }

    /// Whether one candidate of this name is on its way at most.
    pub(crate) fn is_alone(&self, name: &str) -> bool {
        let all = self.lock();
        all.ways.iter().filter(|one| one.name == name).count() <= 1
    }

    /// Whether this version is on its way.
    pub(crate) fn has(&self, name: &str, digest: &str) -> bool {
        let all = self.lock();
        let mut ways = all.ways.iter();
        ways.any(|one| one.name == name && one.digest == digest)
    }
}

impl Way {
    /// Cancelled when something else is wanted.
    pub(crate) fn given_up(&self) -> &CancellationToken {
        &self.given_up
    }

    pub(crate) fn is_given_up(&self) -> bool {
        self.given_up.is_cancelled()
    }

    /// Nothing speaks against it, so that it is the one of its name: every other is given up, one of the same bytes too.
    pub(crate) fn supersede(&self) {
        let all = self.of.lock();
        let own = all.ways.iter().find(|one| one.number == self.number);
        let Some(own) = own else { return };
        for one in &all.ways {
            if one.name == own.name && one.number != own.number {
                one.given_up.cancel();
            }
        }
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.of.lock().ways.retain(|one| one.number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_studios_word_ends_what_a_studio_wants_alone() {
        for (pushed, ends) in [(true, true), (false, false)] {
            let underway = Arc::new(Underway::default());
            let way = underway.begin("x", "old", pushed);
            underway.give_up("x", "old", true);
            underway.give_up("y", "new", true);
            assert!(!way.is_given_up());
            underway.give_up("x", "new", true);
            assert_eq!(way.is_given_up(), ends);
            underway.give_up("x", "new", false);
            assert!(way.is_given_up());
        }
    }

    #[test]
    fn the_one_that_nothing_speaks_against_is_the_only_one() {
        let underway = Arc::new(Underway::default());
        let (first, same) = (
            underway.begin("x", "a", false),
            underway.begin("x", "a", false),
        );
        let other = underway.begin("y", "a", false);
        same.supersede();
        assert!(first.is_given_up() && !same.is_given_up() && !other.is_given_up());
        assert!(!underway.is_alone("x") && underway.is_alone("y"));
        drop(first);
        assert!(underway.has("x", "a") && underway.is_alone("x"));
        underway.withdraw("x", "a");
        assert!(same.is_given_up());
        drop(same);
        assert!(!underway.has("x", "a"));
    }
}
