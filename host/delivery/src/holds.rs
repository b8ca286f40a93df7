//! Who has which product in hand, so that a slot, a redelivery and an acknowledgement never work on the same one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use worker_wire::StudioLink;

use crate::id::EntryId;

/// What is being done with a product.
#[derive(Debug, PartialEq, Eq)]
enum Hold {
    /// Somebody delivers it.
    Working,
    /// A frame was sent.
    Awaiting { job: String, failure: bool },
    /// It is acknowledged and about to be removed.
    Leaving,
}

/// The shared state of one delivery.
#[derive(Debug, Default)]
pub(crate) struct Holds(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    link: Option<StudioLink>,
    held: HashMap<EntryId, (u64, Hold)>,
    /// Number of the last claim. A claim changes only what it holds itself: when a session ends, the products of its
    /// unanswered frames may be claimed anew while their senders still return.
    claims: u64,
}

/// A product in hand. It is let go of on drop, unless a frame went out for it.
#[derive(Debug)]
pub(crate) struct Claim {
    holds: Arc<Holds>,
    id: EntryId,
    number: u64,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.holds.state();
        if state.held.get(&self.id) == Some(&(self.number, Hold::Working)) {
            state.held.remove(&self.id);
        }
    }
}

impl Claim {
    /// A frame is about to go out. Said before it is sent: the acknowledgement may be quicker than the sender.
    pub(crate) fn awaits(&self, job: &str, failure: bool) {
        let job = job.to_owned();
        self.turn(Hold::Awaiting { job, failure });
    }

    /// The frame did not go out after all.
    pub(crate) fn unsent(&self) {
        self.turn(Hold::Working);
    }

    fn turn(&self, into: Hold) {
        let mut state = self.holds.state();
        if let Some((number, hold)) = state.held.get_mut(&self.id)
            && *number == self.number
        {
            *hold = into;
        }
    }
}

impl Holds {
    /// Takes a product in hand; `None` when somebody has it.
    pub(crate) fn claim(self: &Arc<Self>, id: &EntryId) -> Option<Claim> {
        let mut state = self.state();
        if state.held.contains_key(id) {
            return None;
        }
        state.claims += 1;
        let number = state.claims;
        state.held.insert(id.clone(), (number, Hold::Working));
        Some(Claim {
            holds: Arc::clone(self),
            id: id.clone(),
            number,
        })
    }

    /// Whether somebody has a product in hand.
    pub(crate) fn is_held(&self, id: &EntryId) -> bool {
        self.state().held.contains_key(id)
    }

    /// An acknowledgement: which product it is of, if any. That product is held until [`Self::gone`].
    pub(crate) fn acknowledged(&self, job: &str, failure: bool) -> Option<EntryId> {
        let mut state = self.state();
        let (id, (_, hold)) = state.held.iter_mut().find(|(_, (_, hold))| {
            matches!(hold, Hold::Awaiting { job: of, failure: f } if of == job && *f == failure)
        })?;
        *hold = Hold::Leaving;
        Some(id.clone())
    }

    /// A product has left the spool, or could not; either way nobody has it in hand.
    pub(crate) fn gone(&self, id: &EntryId) {
        self.state().held.remove(id);
    }

    /// A session began.
    pub(crate) fn began(&self, link: StudioLink) {
        let mut state = self.state();
        state.link = Some(link);
        state.forget_awaited();
    }

    /// The session is over: nothing is acknowledged any more.
    pub(crate) fn ended(&self) {
        let mut state = self.state();
        state.link = None;
        state.forget_awaited();
    }

    /// The session that runs.
    pub(crate) fn link(&self) -> Option<StudioLink> {
        self.state().link.clone().filter(|link| !link.ended())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements: a panic elsewhere leaves nothing half-done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget_awaited(&mut self) {
        self.held
            .retain(|_, (_, hold)| !matches!(hold, Hold::Awaiting { .. }));
    }
}
