//! Both ends of a session: a scripted studio, a recording worker, and a run between them.

mod studio;
mod worker;

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use worker_session::{
    Identity, LogShipper, SessionError, SessionOptions, States, Timing, Transport,
};
use worker_wire::ApiBase;

pub(crate) use self::{studio::*, worker::*};

/// For anything that should happen. Never waited out by a passing test.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Waits for something that should happen.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(SOON, future)
        .await
        .unwrap_or_else(|_| panic!("{what} did not happen"))
}

/// Short periods, and limits long enough that none is met by accident.
pub(crate) fn quick() -> Timing {
    let short = Duration::from_millis(20);
    Timing {
        heartbeat: short,
        log_flush: short,
        poll: short,
        backoff_first: Duration::from_millis(2),
        backoff_cap: Duration::from_millis(10),
        duplicate: Duration::from_millis(60),
        linger: Duration::from_millis(100),
        ..Timing::default()
    }
}

/// One run of the session.
pub(crate) struct Run {
    pub(crate) worker: Arc<Worker>,
    pub(crate) store: Arc<Store>,
    pub(crate) told: mpsc::UnboundedReceiver<Told>,
    pub(crate) states: States,
    pub(crate) log: LogShipper,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), SessionError>>,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Run {
    pub(crate) fn start(studio: &Studio, identity: Identity) -> Self {
        Self::with(studio.base(), identity, |_, _| {})
    }

    pub(crate) fn with(
        base: ApiBase,
        identity: Identity,
        change: impl FnOnce(&mut SessionOptions, &Store),
    ) -> Self {
        let (sender, told) = mpsc::unbounded_channel();
        let worker = Arc::new(Worker::telling(sender));
        let store = Arc::new(Store::default());
        *store.first.lock().unwrap() = identity;
        let mut options = SessionOptions {
            transport: Transport::new(&base).unwrap(),
            base,
            identity: store.clone(),
            worker: worker.clone(),
            log: LogShipper::new(),
            states: States::new(),
            reconnect_attempts: None,
            timing: quick(),
            agent_version: "9.9.9".to_owned(),
        };
        change(&mut options, &store);
        let (states, log) = (options.states.clone(), options.log.clone());
        let stop = CancellationToken::new();
        let task = tokio::spawn(worker_session::run(options, stop.clone()));
        Self {
            worker,
            store,
            told,
            states,
            log,
            stop,
            task,
        }
    }

    /// The next thing the worker was told.
    pub(crate) async fn told(&mut self) -> Told {
        soon("a word to the worker", self.told.recv())
            .await
            .unwrap()
    }

    /// How the run ended.
    pub(crate) async fn outcome(&mut self) -> Result<(), SessionError> {
        soon("the end of the run", &mut self.task).await.unwrap()
    }

    /// Stops the run, which must end without an error.
    pub(crate) async fn stop_cleanly(&mut self) {
        self.stop.cancel();
        self.outcome().await.unwrap();
    }
}
