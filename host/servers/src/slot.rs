//! What is known of one server, running or not: who uses it, when it last died.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use crate::instance::Instance;
use crate::launch::{Holds, Launch};
use crate::limits::Limits;
use crate::shown::random;

/// One server. It outlives its process, since it remembers how often that died.
pub(crate) struct Slot {
    /// As of its first lease, but for what is only held: that goes with the process.
    pub(crate) launch: Launch,
    /// Lets as many calls through as the server takes at once.
    pub(crate) gate: Arc<Semaphore>,
    /// Held while a process is started, so that two calls start one.
    pub(crate) starting: tokio::sync::Mutex<()>,
    /// Told when a lease ends.
    pub(crate) changed: Notify,
    state: Mutex<State>,
}

pub(crate) struct State {
    pub(crate) instance: Option<Arc<Instance>>,
    /// Leases and whoever waits for one.
    pub(crate) users: usize,
    pub(crate) last_used: Instant,
    pub(crate) model: String,
    /// Processes started so far.
    pub(crate) starts: u64,
    /// Not to be used again: it goes when its last user does.
    pub(crate) retired: bool,
    /// The job that used it last, unless that job's work is known to be over.
    pub(crate) unsettled: Option<String>,
    deaths: VecDeque<Instant>,
    /// What the last one to die said.
    pub(crate) said: String,
}

impl Slot {
    pub(crate) fn new(launch: Launch) -> Self {
        // A plugin may say any number; more at once than this no server takes.
        let parallel = launch.parallel.clamp(1, 64) as usize;
        let state = State {
            instance: None,
            users: 0,
            last_used: Instant::now(),
            model: launch.model.clone(),
            starts: 0,
            retired: false,
            unsettled: None,
            deaths: VecDeque::new(),
            said: String::new(),
        };
        Self {
            launch: Launch {
                holds: Holds::default(),
                ..launch
            },
            gate: Arc::new(Semaphore::new(parallel)),
            starting: tokio::sync::Mutex::new(()),
            changed: Notify::new(),
            state: Mutex::new(state),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // The data is whole after every statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process, if it can be asked.
    pub(crate) fn usable(&self) -> Option<Arc<Instance>> {
        self.lock()
            .instance
            .clone()
            .filter(|instance| instance.is_usable())
    }

    /// Comes back when nobody has used it for so long; ends it in the same breath, so that nobody can come between.
    pub(crate) async fn idle(&self, limit: Duration, instance: &Instance) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let due = {
                let state = self.lock();
                let due = state.last_used + limit;
                if state.users == 0 && (state.retired || due <= Instant::now()) {
                    instance.end();
                    return;
                }
                (state.users == 0).then_some(due)
            };
            match due {
                Some(due) => tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    () = changed => {}
                },
                None => changed.await,
            }
        }
    }
}

impl State {
    /// Notes a death that nobody wanted.
    pub(crate) fn died(&mut self, said: String) {
        self.deaths.push_back(Instant::now());
        self.said = said;
    }

    /// Deaths within the window; older ones are forgotten.
    pub(crate) fn deaths(&mut self, window: Duration) -> usize {
        while self
            .deaths
            .front()
            .is_some_and(|when| when.elapsed() > window)
        {
            self.deaths.pop_front();
        }
        self.deaths.len()
    }

    /// When it may be started again: at once, unless it died.
    pub(crate) fn next_start(&mut self, limits: &Limits) -> Option<Instant> {
        let deaths = self.deaths(limits.window);
        let last = *self.deaths.back()?;
        let doublings = u32::try_from(deaths.saturating_sub(1))
            .unwrap_or(u32::MAX)
            .min(16);
        let whole = limits
            .backoff
            .saturating_mul(1 << doublings)
            .min(limits.longest_backoff);
        // Half of it random, so that workers that died of one cause do not come back as one.
        let half = whole / 2;
        let span = u64::try_from(half.as_millis()).unwrap_or(u64::MAX).max(1);
        Some(last + half + Duration::from_millis(random() % span))
    }
}
