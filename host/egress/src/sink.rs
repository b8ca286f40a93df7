//! Writes and hashes on a thread of its own, beside the network.
//!
//! Both take long for a large file, and neither belongs on a thread that serves connections. What is on its way between
//! the two is bounded, so a slow disk slows the download instead of filling memory.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Pieces on their way; the network gives them in up to 64 KiB or so. More costs memory per download; fewer makes the
/// network wait for each hiccup of the disk.
const ON_THE_WAY: usize = 64;

/// A file that is being written. Dropped, its thread ends after what it has.
pub(crate) struct Sink {
    sender: mpsc::Sender<Bytes>,
    thread: JoinHandle<io::Result<[u8; 32]>>,
}

impl Sink {
    /// Makes the file, which must not exist.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        let (sender, pieces) = mpsc::channel(ON_THE_WAY);
        Ok(Self {
            sender,
            thread: tokio::task::spawn_blocking(move || write(file, pieces)),
        })
    }

    /// Hands a piece over. False: the thread has stopped, and [`Sink::finish`] says why.
    pub(crate) async fn push(&self, piece: Bytes) -> bool {
        self.sender.send(piece).await.is_ok()
    }

    /// The digest of all that was handed over, once it is written.
    pub(crate) async fn finish(self) -> io::Result<[u8; 32]> {
        drop(self.sender);
        self.thread
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the worker is stopping")))
    }
}

fn write(mut file: File, mut pieces: mpsc::Receiver<Bytes>) -> io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    while let Some(piece) = pieces.blocking_recv() {
        file.write_all(&piece)?;
        hasher.update(&piece);
    }
    Ok(hasher.finalize().into())
}
