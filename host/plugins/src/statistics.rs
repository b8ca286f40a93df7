//! What is counted of one generation while it serves.

use std::sync::atomic::{AtomicU64, Ordering};

/// How the jobs of one generation ended: counters, the one part of it that moves.
#[derive(Debug, Default)]
pub struct Statistics {
    done: AtomicU64,
    failed: AtomicU64,
    broke: AtomicU64,
}

impl Statistics {
    /// Counts a job with a product.
    pub fn done(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a job that ended without one.
    pub fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a job in which a plugin broke.
    pub fn broke(&self) {
        self.broke.fetch_add(1, Ordering::Relaxed);
    }

    /// Jobs with a product, jobs without one, and jobs in which a plugin broke.
    pub fn counts(&self) -> [u64; 3] {
        [&self.done, &self.failed, &self.broke].map(|count| count.load(Ordering::Relaxed))
    }
}
