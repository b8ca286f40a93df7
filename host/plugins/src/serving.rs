//! Which generation serves now, and which earlier ones still have a job.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::watch;

use crate::generation::Generation;

/// The one pointer to what serves. Taken once per job, at its offer; whoever took it keeps what it took.
///
/// A reader holds the channel's lock for the copy of one pointer and a writer for its exchange, so an offer never waits for a swap.
#[derive(Debug)]
pub struct Serving {
    current: watch::Sender<Arc<Generation>>,
    earlier: Mutex<Vec<Weak<Generation>>>,
    published: AtomicU64,
}

impl Serving {
    /// Serves this generation.
    pub fn new(generation: Arc<Generation>) -> Arc<Self> {
        Arc::new(Self {
            current: watch::Sender::new(generation),
            earlier: Mutex::default(),
            published: AtomicU64::new(1),
        })
    }

    /// What serves now.
    pub fn current(&self) -> Arc<Generation> {
        self.current.borrow().clone()
    }

    /// Hears of each generation that is published from now on.
    pub fn follow(&self) -> watch::Receiver<Arc<Generation>> {
        self.current.subscribe()
    }

    /// Has this generation serve from now on. Jobs that took an earlier one keep it.
    pub fn publish(&self, generation: Arc<Generation>) {
        let mut earlier = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        earlier.retain(|one| one.strong_count() > 0);
        // Written down before whoever follows hears of it, so that they find it among those that a job may hold.
        earlier.push(Arc::downgrade(&self.current.borrow()));
        self.current.send_replace(generation);
        self.published.fetch_add(1, Ordering::Relaxed);
    }

    /// Generations published so far. While it stays, what serves is the very same object.
    pub fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    /// Earlier generations that a job still holds, oldest first.
    pub fn draining(&self) -> Vec<Arc<Generation>> {
        let mut earlier = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        earlier.retain(|one| one.strong_count() > 0);
        earlier.iter().filter_map(Weak::upgrade).collect()
    }
}
