//! One process of a server.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::place::Place;

/// Batches of lines that may wait for whoever reads them during a call. More are dropped: they are for looking at.
const LINE_BATCHES: usize = 16;

/// How a process ended.
#[derive(Clone, Debug)]
pub(crate) struct Gone {
    /// Its exit, for people.
    pub(crate) how: String,
    /// Its last lines.
    pub(crate) said: String,
    /// Whether it was ended because it listened for other machines.
    pub(crate) open: bool,
}

/// A process that was started; ready or not, running or gone.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) place: Place,
    pub(crate) pid: i32,
    pub(crate) since: SystemTime,
    pub(crate) calls: AtomicU64,
    ending: CancellationToken,
    gone: watch::Receiver<Option<Gone>>,
    readers: Mutex<Vec<mpsc::Sender<Vec<String>>>>,
}

impl Instance {
    pub(crate) fn new(place: Place, pid: i32, gone: watch::Receiver<Option<Gone>>) -> Self {
        Self {
            place,
            pid,
            since: SystemTime::now(),
            calls: AtomicU64::new(0),
            ending: CancellationToken::new(),
            gone,
            readers: Mutex::default(),
        }
    }

    /// Begins to end it; see [`Instance::gone`].
    pub(crate) fn end(&self) {
        self.ending.cancel();
    }

    /// Comes back when it is to end.
    pub(crate) async fn to_end(&self) {
        self.ending.cancelled().await;
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.ending.is_cancelled()
    }

    pub(crate) fn is_usable(&self) -> bool {
        !self.is_ending() && self.gone.borrow().is_none()
    }

    /// Waits until its whole group is gone. Bounded: ending it is, and before that the caller waits for something else too.
    pub(crate) async fn gone(&self) -> Gone {
        let mut gone = self.gone.clone();
        let told = gone
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|gone| gone.clone());
        told.unwrap_or_else(|| Gone {
            how: "its keeper is gone".to_owned(),
            said: String::new(),
            open: false,
        })
    }

    pub(crate) fn count_call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// What it prints from now on, in batches.
    pub(crate) fn lines(&self) -> mpsc::Receiver<Vec<String>> {
        let (sender, receiver) = mpsc::channel(LINE_BATCHES);
        self.readers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(sender);
        receiver
    }

    /// Hands lines to whoever reads; those who do not keep up miss them.
    pub(crate) fn printed(&self, lines: &[String]) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.retain(|reader| !reader.is_closed());
        for reader in readers.iter() {
            let _ = reader.try_send(lines.to_vec());
        }
    }
}
