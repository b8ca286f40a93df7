//! Reads one stream of a running program, for as long as it is open.
//!
//! A program that prints must never wait for us, or it hangs while holding the GPU: every byte is read as it comes, and
//! what the receiver of the lines is too slow for is dropped, oldest first.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::lines::{Ending, Splitter, Tail};
use crate::watch::Clock;

/// How often lines are handed on. Smaller calls a plugin more often for no gain; larger makes progress jump.
const EVERY: Duration = Duration::from_millis(100);
/// Lines waiting to be handed on; older ones are dropped.
const WAITING: usize = 200;

/// What makes going on pointless.
#[derive(Debug)]
pub(crate) enum Problem {
    /// More bytes than may be kept.
    TooMuch,
    /// They cannot be kept.
    Store(io::Error),
}

/// One stream: what of it is kept and where its lines go.
pub(crate) struct Stream {
    splitter: Splitter,
    tail: Tail,
    sender: mpsc::Sender<Vec<String>>,
    waiting: Vec<String>,
    due: Option<Instant>,
    /// The unfinished line as it was last handed on.
    shown: Option<String>,
    clock: Clock,
}

impl Stream {
    pub(crate) fn new(sender: mpsc::Sender<Vec<String>>, tail: Tail, clock: Clock) -> Self {
        Self {
            splitter: Splitter::default(),
            tail,
            sender,
            waiting: Vec::new(),
            due: None,
            shown: None,
            clock,
        }
    }

    /// Told whenever something is read.
    pub(crate) fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// Reads to the end of the stream. Dropped earlier, it loses nothing that was read.
    pub(crate) async fn read(&mut self, mut from: pipe::Receiver) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let due = self.due.unwrap_or_else(Instant::now);
            tokio::select! {
                read = from.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => break,
                    Ok(length) => self.take(buffer.get(..length).unwrap_or_default()),
                },
                () = sleep_until(due), if self.due.is_some() => {}
            }
            if self.due.is_some_and(|due| due <= Instant::now()) {
                self.hand_on();
            }
        }
        self.hand_on();
    }

    fn take(&mut self, bytes: &[u8]) {
        self.clock.now();
        let Self {
            splitter,
            tail,
            waiting,
            shown,
            ..
        } = self;
        splitter.push(bytes, |line, ending| {
            tail.push(line.as_deref(), ending);
            // A line that was handed on unfinished, and did not change, is not news.
            let known = shown.take();
            waiting.extend(line.filter(|line| known.as_ref() != Some(line)));
            if waiting.len() > 2 * WAITING {
                waiting.drain(..WAITING);
            }
        });
        self.due.get_or_insert_with(|| Instant::now() + EVERY);
    }

    fn hand_on(&mut self) {
        self.due = None;
        let partial = self.splitter.partial();
        if partial.is_some() && partial != self.shown {
            self.waiting.extend(partial.clone());
            self.shown = partial;
        }
        if self.waiting.is_empty() {
            return;
        }
        let excess = self.waiting.len().saturating_sub(WAITING);
        self.waiting.drain(..excess);
        match self.sender.try_send(std::mem::take(&mut self.waiting)) {
            Err(mpsc::error::TrySendError::Full(lines)) => {
                self.waiting = lines;
                self.due = Some(Instant::now() + EVERY);
            }
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
        }
    }

    /// The last lines, the unfinished one included.
    pub(crate) fn into_tail(mut self) -> String {
        if let Some(rest) = self.splitter.partial() {
            self.tail.push(Some(&rest), Ending::Stays);
        }
        self.tail.text()
    }
}

/// Copies a stream to a file up to `limit` bytes. Goes on reading after a problem, which is sent once.
pub(crate) async fn keep(
    mut from: pipe::Receiver,
    mut file: File,
    limit: u64,
    problem: mpsc::Sender<Problem>,
    clock: Clock,
) {
    let mut buffer = vec![0; 256 * 1024];
    let mut total: u64 = 0;
    let mut broken = false;
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        total = total.saturating_add(length as u64);
        clock.now();
        if broken {
            continue;
        }
        let written = if total > limit {
            Err(Problem::TooMuch)
        } else {
            file.write_all(buffer.get(..length).unwrap_or_default())
                .await
                .map_err(Problem::Store)
        };
        if let Err(what) = written {
            broken = true;
            let _ = problem.try_send(what);
        }
    }
    if let Err(error) = file.flush().await
        && !broken
    {
        let _ = problem.try_send(Problem::Store(error));
    }
}

/// Creates the file that standard output is kept in; that there is one already is an error.
pub(crate) async fn create(path: PathBuf) -> io::Result<File> {
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .await
}
