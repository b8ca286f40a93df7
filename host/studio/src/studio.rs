//! The studio as its callers hold it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use axum::Router;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use worker_wire::Secret;

use crate::components::{Components, Room};
use crate::core::Core;
use crate::options::{Compose, StudioOptions};
use crate::store::{self, OpenError, Store};
use crate::{api, guard, wire};

/// How long closing waits for sessions to say goodbye.
const GOODBYE: Duration = Duration::from_secs(5);

/// An open studio.
pub struct Studio {
    core: Mutex<Core>,
    pub(crate) store: Store,
    pub(crate) results: PathBuf,
    pub(crate) components: Components,
    pub(crate) compose: Arc<dyn Compose>,
    token: Secret,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl Studio {
    /// Opens the studio in its folder and recovers what the last run left: queued jobs are queued again, and so are
    /// claimed ones, those of a worker that speaks `resume` after giving it a while to come back.
    pub async fn open(options: StudioOptions) -> Result<Arc<Self>, OpenError> {
        let results = options.dir.join("results");
        store::private_dir(&options.dir)?;
        store::private_dir(&results)?;
        let room = Room {
            count: options.limits.components,
            bytes: options.limits.component_bytes,
        };
        let components = Components::open(options.dir.join("components"), room)?;
        let (connection, recovered) = store::open(&options.dir)?;
        let store = Store::start(connection)?;
        let alarm = options.timing.alarm;
        let core = Core::recover(
            options.limits,
            options.timing,
            options.approve,
            results.clone(),
            store.clone(),
            recovered,
        );
        core.sweep_results().map_err(|source| OpenError::Folder {
            path: results.clone(),
            source,
        })?;
        let studio = Arc::new(Self {
            core: Mutex::new(core),
            store,
            results,
            components,
            compose: options.compose,
            token: options.token,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let alarm = ring(Arc::downgrade(&studio), alarm, studio.stop.clone());
        studio.tasks.spawn(alarm);
        Ok(studio)
    }

    /// The routes that workers use, below `/graphics/api`. A browser's requests are refused. Serve them with
    /// [`crate::serve`], which says where a request came from: without that no worker counts as local.
    pub fn wire_router(self: &Arc<Self>) -> Router {
        guard::no_browsers(wire::router(Arc::clone(self)))
    }

    /// The routes that people and commands use, below `/api`, unguarded: put them behind [`guard::protect`].
    pub fn api_router(self: &Arc<Self>) -> Router {
        api::router(Arc::clone(self))
    }

    /// Both, guarded: all that a server on its own needs.
    pub fn router(self: &Arc<Self>) -> Router {
        self.wire_router()
            .merge(guard::protect(self.api_router(), &self.token))
    }

    /// Names the install whose registration is approved at once under [`crate::Approval::OwnInstall`].
    pub fn install_own_worker(&self, install_id: impl Into<String>) {
        self.core().set_own_install(install_id.into());
    }

    /// Ends every session, writes what is left, closes the database. A claimed job stays with its worker, which may
    /// come back for it at the next start.
    pub async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(GOODBYE, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("some sessions did not end in time");
        }
        self.store.close().await;
    }

    /// The state. Held for the length of one call, never across an await.
    pub(crate) fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Studio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Studio")
            .field("results", &self.results)
            .finish_non_exhaustive()
    }
}

async fn ring(studio: Weak<Studio>, every: Duration, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        match studio.upgrade() {
            Some(studio) => studio.core().sweep(),
            None => return,
        }
    }
}
