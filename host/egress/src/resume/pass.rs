//! One file on its way to disk: written at several places at once, hashed in order as it becomes whole.
//!
//! The hashing thread reads back what was just written, from memory if the system still has it. So one connection or
//! six, fresh or resumed, the digest is ready soon after the last byte.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::spans::Spans;

/// Pieces on their way to the disk, per connection; the network gives them in up to some hundred KiB.
const ON_THE_WAY: usize = 32;
/// Bytes hashed at a time. Smaller wakes the thread more often; larger leaves more to do at the end.
const BLOCK: usize = 1 << 20;

struct State {
    spans: Spans,
    /// The file's length, once all of it is there.
    whole: Option<u64>,
    /// Nobody wants it any more.
    stopped: bool,
}

struct Shared {
    file: Arc<File>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file being written. Dropped, its threads end.
pub(crate) struct Pass {
    shared: Arc<Shared>,
    tasks: TaskTracker,
    hasher: Option<JoinHandle<io::Result<[u8; 32]>>>,
}

/// Sees what is there, after the pass as well.
pub(crate) struct Watch(Arc<Shared>);

impl Watch {
    /// What is there now.
    pub(crate) fn spans(&self) -> Spans {
        self.0.lock().spans.clone()
    }
}

impl Pass {
    /// For looking at it later.
    pub(crate) fn watch(&self) -> Watch {
        Watch(Arc::clone(&self.shared))
    }

    /// Goes on with `file`, of which `spans` are there.
    pub(crate) fn new(file: Arc<File>, spans: Spans, tasks: TaskTracker) -> Self {
        let shared = Arc::new(Shared {
            file,
            state: Mutex::new(State {
                spans,
                whole: None,
                stopped: false,
            }),
            changed: Condvar::new(),
        });
        let reading = Arc::clone(&shared);
        let hasher = tasks.spawn_blocking(move || hash(&reading));
        Self {
            shared,
            tasks,
            hasher: Some(hasher),
        }
    }

    /// What is there now.
    pub(crate) fn spans(&self) -> Spans {
        self.shared.lock().spans.clone()
    }

    /// Number of bytes that are there now.
    pub(crate) fn covered(&self) -> u64 {
        self.shared.lock().spans.covered()
    }

    /// Takes bytes from `at` on.
    pub(crate) fn writer(&self, at: u64) -> Writer {
        let (sender, pieces) = mpsc::channel(ON_THE_WAY);
        let shared = Arc::clone(&self.shared);
        Writer {
            sender,
            thread: self
                .tasks
                .spawn_blocking(move || write(&shared, at, pieces)),
        }
    }

    /// The digest, when all `total` bytes are there.
    pub(crate) async fn finish(mut self, total: u64) -> io::Result<[u8; 32]> {
        self.shared.lock().whole = Some(total);
        self.shared.changed.notify_all();
        match self.hasher.take() {
            Some(hasher) => hasher.await.unwrap_or_else(|_| Err(stopping())),
            None => Err(stopping()),
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_all();
    }
}

/// One connection's way to the file.
pub(crate) struct Writer {
    sender: mpsc::Sender<Bytes>,
    thread: JoinHandle<io::Result<()>>,
}

impl Writer {
    /// Hands a piece over. False: the thread has stopped, and [`Writer::finish`] says why.
    pub(crate) async fn push(&self, piece: Bytes) -> bool {
        self.sender.send(piece).await.is_ok()
    }

    /// Waits until all that was handed over is written.
    pub(crate) async fn finish(self) -> io::Result<()> {
        drop(self.sender);
        self.thread.await.unwrap_or_else(|_| Err(stopping()))
    }
}

fn write(shared: &Shared, mut at: u64, mut pieces: mpsc::Receiver<Bytes>) -> io::Result<()> {
    while let Some(piece) = pieces.blocking_recv() {
        if shared.lock().stopped {
            return Err(stopping());
        }
        shared.file.write_all_at(&piece, at)?;
        let end = at + piece.len() as u64;
        shared.lock().spans.add(at, end);
        shared.changed.notify_all();
        at = end;
    }
    Ok(())
}

fn hash(shared: &Shared) -> io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BLOCK];
    let mut at: u64 = 0;
    loop {
        let ready = {
            let state = shared
                .changed
                .wait_while(shared.lock(), |state| {
                    !state.stopped
                        && state.whole.is_none()
                        && state.spans.prefix() < at + BLOCK as u64
                })
                .unwrap_or_else(PoisonError::into_inner);
            if state.stopped {
                return Err(stopping());
            }
            if state.whole == Some(at) {
                return Ok(hasher.finalize().into());
            }
            state.spans.prefix()
        };
        let length =
            usize::try_from(ready.saturating_sub(at)).map_or(BLOCK, |left| left.min(BLOCK));
        let block = buffer.get_mut(..length).unwrap_or_default();
        if block.is_empty() {
            return Err(io::Error::other("the file has a gap"));
        }
        shared.file.read_exact_at(block, at)?;
        hasher.update(&*block);
        at += length as u64;
    }
}

fn stopping() -> io::Error {
    io::Error::other("the download was stopped")
}
