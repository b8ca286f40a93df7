//! Which generation serves now, and which earlier ones still have a job.

use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use crate::generation::Generation;

/// The one pointer to what serves. Taken once per job, at its offer; whoever took it keeps what it took.
///
/// A reader holds the lock for the copy of one pointer and a writer for its exchange, so an offer never waits for a swap.
#[derive(Debug)]
pub struct Serving {
    current: RwLock<Arc<Generation>>,
    earlier: Mutex<Vec<Weak<Generation>>>,
}

impl Serving {
    /// Serves this generation.
    pub fn new(generation: Arc<Generation>) -> Arc<Self> {
        Arc::new(Self {
            current: RwLock::new(generation),
            earlier: Mutex::default(),
        })
    }

    /// What serves now.
    pub fn current(&self) -> Arc<Generation> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Has this generation serve from now on. Jobs that took an earlier one keep it.
    pub fn publish(&self, generation: Arc<Generation>) {
        let before = {
            let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, generation)
        };
        let mut earlier = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        earlier.retain(|one| one.strong_count() > 0);
        earlier.push(Arc::downgrade(&before));
    }

    /// Earlier generations that a job still holds, oldest first.
    pub fn draining(&self) -> Vec<Arc<Generation>> {
        let mut earlier = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        earlier.retain(|one| one.strong_count() > 0);
        earlier.iter().filter_map(Weak::upgrade).collect()
    }
}
