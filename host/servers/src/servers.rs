//! All servers of a worker.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use worker_files::remove_tree;

use crate::error::ServerError;
use crate::instance::Instance;
use crate::keep;
use crate::launch::{Holds, Key, Launch};
use crate::lease::{Lease, User};
use crate::limits::Limits;
use crate::shown::{Shown, random};
use crate::slot::Slot;

/// How often one call may find that the server died just before it. More only hides that it keeps dying.
const TRIES: usize = 2;

/// Servers that are remembered although they do not run. More is a plugin that asks for another one each time.
const REMEMBERED: usize = 256;

/// All servers. Cheap to clone.
#[derive(Clone)]
pub struct Servers(Arc<Inner>);

struct Inner {
    limits: Limits,
    /// One folder per process.
    folder: PathBuf,
    shown: Shown,
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
    stopping: CancellationToken,
}

/// One server, for people.
#[derive(Clone, Debug)]
pub struct Status {
    /// Plugin that it is for.
    pub plugin: String,
    /// The program's bare name.
    pub program: String,
    /// Model that it served last.
    pub model: String,
    /// Number of its process.
    pub pid: i32,
    /// Port on 127.0.0.1, of its own network or of the worker's.
    pub port: u16,
    /// Whether the network is its own.
    pub own_network: bool,
    /// When its process was started.
    pub since: SystemTime,
    /// Requests it got, repeats counted.
    pub calls: u64,
    /// Processes started for it so far.
    pub starts: u64,
    /// Whether a call uses it or waits for it.
    pub busy: bool,
}

impl Servers {
    /// None yet. What servers of an earlier worker left in `folder` is removed; it must not be another worker's. What cannot be
    /// removed is logged, and left beside a folder of this worker's own.
    ///
    /// # Errors
    /// When no folder can be made.
    pub fn open(folder: &Path, limits: Limits) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let folder = match remove_tree(folder) {
            Ok(()) => folder.to_owned(),
            Err(error) => {
                tracing::warn!(target: "server", folder = %folder.display(), %error, "what servers of an earlier run left cannot be removed; remove it by hand");
                folder.join(format!("{:016x}", random()))
            }
        };
        let shown = folder.join("shown");
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&shown)?;
        // Programs see the path; a link in it would be outside of what their sandbox opens.
        let folder = std::fs::canonicalize(&folder)?;
        Ok(Self(Arc::new(Inner {
            limits,
            shown: Shown::new(folder.join("shown")),
            folder,
            slots: Mutex::default(),
            stopping: CancellationToken::new(),
        })))
    }

    /// Where files of the cache are shown to servers.
    #[must_use]
    pub fn shown(&self) -> &Shown {
        &self.0.shown
    }

    /// A server that is ready, and a turn to ask it; started where it does not run. `wait` bounds the time until its turn,
    /// without that of its start.
    ///
    /// # Errors
    /// See [`ServerError`].
    pub async fn lease(
        &self,
        launch: &Launch,
        job: &str,
        wait: Duration,
        cancel: &CancellationToken,
    ) -> Result<Lease, ServerError> {
        if self.0.stopping.is_cancelled() {
            return Err(ServerError::Stopping);
        }
        let slot = self.slot(launch);
        let user = User::of(&slot);
        let program = || launch.program.clone();
        let parallel = launch.parallel.clamp(1, 64) as usize;
        if slot.lock().users > parallel.saturating_add(self.0.limits.queue) {
            return Err(ServerError::Busy {
                program: program(),
                limit: self.0.limits.queue,
            });
        }
        let turn = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(ServerError::Cancelled),
            () = self.0.stopping.cancelled() => return Err(ServerError::Stopping),
            turn = timeout(wait, slot.gate.clone().acquire_owned()) => match turn {
                Ok(Ok(turn)) => turn,
                Ok(Err(_)) => return Err(ServerError::Stopping),
                Err(_) => return Err(ServerError::Late { program: program() }),
            },
        };
        let instance = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(ServerError::Cancelled),
            () = self.0.stopping.cancelled() => return Err(ServerError::Stopping),
            instance = self.ready(&slot, &launch.holds, cancel) => instance?,
        };
        slot.lock().model.clone_from(&launch.model);
        Ok(Lease {
            user,
            instance,
            _turn: turn,
            on_cancel_limit: self.0.limits.on_cancel,
            job: job.to_owned(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<Slot>>> {
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, launch: &Launch) -> Arc<Slot> {
        let mut slots = self.lock();
        if slots.len() >= REMEMBERED {
            slots.retain(|_, slot| {
                let state = slot.lock();
                state.users > 0 || state.instance.is_some()
            });
        }
        slots
            .entry(launch.key())
            .or_insert_with(|| Arc::new(Slot::new(launch.clone())))
            .clone()
    }

    /// The process, started where there is none.
    async fn ready(
        &self,
        slot: &Arc<Slot>,
        holds: &Holds,
        cancel: &CancellationToken,
    ) -> Result<Arc<Instance>, ServerError> {
        let _starting = slot.starting.lock().await;
        let mut last = None;
        for _ in 0..TRIES {
            if let Some(instance) = slot.usable() {
                return Ok(instance);
            }
            // One that is being ended still holds its memory.
            let ending = slot.lock().instance.clone();
            if let Some(ending) = ending {
                ending.gone().await;
            }
            self.may_start(slot).await?;
            match keep::start(slot, holds, &self.0.limits, &self.0.folder, cancel).await {
                Ok(instance) if instance.is_usable() => return Ok(instance),
                Ok(instance) => {
                    let gone = instance.gone().await;
                    last = Some(ServerError::DiedStarting {
                        program: slot.launch.program.clone(),
                        how: gone.how,
                        said: gone.said,
                    });
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or(ServerError::Stopping))
    }

    /// Waits out the pause after a death; refuses one that dies again and again.
    async fn may_start(&self, slot: &Slot) -> Result<(), ServerError> {
        let limits = &self.0.limits;
        let next = {
            let mut state = slot.lock();
            let count = state.deaths(limits.window);
            if count >= limits.crashes {
                return Err(ServerError::CrashLoop {
                    program: slot.launch.program.clone(),
                    count,
                    window: limits.window,
                    said: state.said.clone(),
                });
            }
            state.next_start(limits)
        };
        if let Some(next) = next {
            sleep_until(next).await;
        }
        Ok(())
    }

    /// Whether the server for this runs.
    #[must_use]
    pub fn is_warm(&self, launch: &Launch) -> bool {
        let slot = self.lock().get(&launch.key()).cloned();
        slot.is_some_and(|slot| slot.usable().is_some())
    }

    /// Ends servers that nobody uses, the one used longest ago first, until `enough` says so; `keep` stays. Their memory is
    /// free when this returns.
    pub async fn release_memory<F: Future<Output = bool>>(
        &self,
        keep: Option<&Launch>,
        mut enough: impl FnMut() -> F,
    ) {
        let keep = keep.map(Launch::key);
        let mut idle: Vec<_> = self
            .lock()
            .iter()
            .filter(|(key, slot)| {
                let state = slot.lock();
                Some(**key) != keep && state.users == 0 && state.instance.is_some()
            })
            .map(|(_, slot)| (slot.lock().last_used, slot.clone()))
            .collect();
        idle.sort_by_key(|(last_used, _)| *last_used);
        for (_, slot) in idle {
            if enough().await {
                return;
            }
            let ended = {
                let state = slot.lock();
                let instance = state.instance.clone().filter(|_| state.users == 0);
                // Under the lock: whoever comes now waits until it is gone.
                instance.inspect(|instance| instance.end())
            };
            if let Some(ended) = ended {
                ended.gone().await;
            }
        }
    }

    /// Ends the servers whose plugin or program is not served any more: at once, or with the call in hand.
    pub fn retire(&self, is_current: impl Fn(&Launch) -> bool) {
        self.lock().retain(|_, slot| {
            if is_current(&slot.launch) {
                return true;
            }
            slot.lock().retired = true;
            slot.changed.notify_waiters();
            false
        });
    }

    /// A job was stopped. A server that may still be working for it is ended.
    pub async fn job_stopped(&self, job: &str) {
        let slots: Vec<_> = self.lock().values().cloned().collect();
        for slot in slots {
            let ended = {
                let state = slot.lock();
                let is_its = state.unsettled.as_deref() == Some(job) && state.users == 0;
                state
                    .instance
                    .clone()
                    .filter(|_| is_its)
                    .inspect(|instance| instance.end())
            };
            if let Some(ended) = ended {
                ended.gone().await;
            }
        }
    }

    /// A job ended by itself: what its plugin left a server doing is the plugin's affair.
    pub fn job_ended(&self, job: &str) {
        for slot in self.lock().values() {
            let mut state = slot.lock();
            if state.unsettled.as_deref() == Some(job) {
                state.unsettled = None;
            }
        }
    }

    /// Ends all servers, for good. Nothing of them runs when this returns.
    pub async fn stop(&self) {
        self.0.stopping.cancel();
        let running: Vec<_> = self
            .lock()
            .values()
            .filter_map(|slot| slot.lock().instance.clone())
            .collect();
        running.iter().for_each(|instance| instance.end());
        for instance in running {
            instance.gone().await;
        }
    }

    /// The servers that run.
    #[must_use]
    pub fn list(&self) -> Vec<Status> {
        let slots = self.lock();
        let mut listed: Vec<Status> = slots.values().filter_map(|slot| status(slot)).collect();
        listed.sort_by_key(|server| (server.since, server.pid));
        listed
    }
}

fn status(slot: &Slot) -> Option<Status> {
    let state = slot.lock();
    let instance = state
        .instance
        .as_ref()
        .filter(|instance| instance.is_usable())?;
    Some(Status {
        plugin: slot.launch.plugin.clone(),
        program: slot.launch.program.clone(),
        model: state.model.clone(),
        pid: instance.pid,
        port: instance.place.port(),
        own_network: instance.place.network().is_some(),
        since: instance.since,
        calls: instance.calls.load(Ordering::Relaxed),
        starts: state.starts,
        busy: state.users > 0,
    })
}
