//! Log lines on their way to the studio.
//!
//! Lines wait in memory while there is no session, so the queue is bounded twice: by lines, the oldest going first,
//! and by the length of a line. A batch leaves the queue only when the socket has taken it; one that was not taken goes
//! back to the front.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use worker_wire::{LogEntry, LogLevel};

/// Lines that wait at most. More would hold more memory through a long outage; fewer would lose its beginning.
pub const LOG_QUEUE_LINES: usize = 5000;

/// Bytes of a message that are kept, with [`LOG_QUEUE_LINES`] some 20 MB in all. More would let one line crowd out a
/// frame; less would cut what a failing program said.
pub const LOG_LINE_BYTES: usize = 4096;

/// Bytes of messages in one frame: well under what studios accept in one message.
const BATCH_BYTES: usize = 256 * 1024;

/// Collects log lines for the studio's operators. Clones feed the same queue.
#[derive(Clone, Debug, Default)]
pub struct LogShipper {
    queue: Arc<Mutex<Queue>>,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<LogEntry>,
    /// Lines lost since the last batch that was sent.
    dropped: u64,
}

impl Queue {
    fn trim(&mut self) {
        while self.lines.len() > LOG_QUEUE_LINES {
            self.lines.pop_front();
            self.dropped += 1;
        }
    }
}

impl LogShipper {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Queues a line, cut to [`LOG_LINE_BYTES`]. When the queue is full the oldest line goes, and the next batch says
    /// how many went.
    pub fn push(&self, mut entry: LogEntry) {
        cut(&mut entry.message);
        let mut queue = self.lock();
        queue.lines.push_back(entry);
        queue.trim();
    }

    /// Lines that wait now.
    pub fn waiting(&self) -> usize {
        self.lock().lines.len()
    }

    /// The next frame's worth of lines, oldest first; `None` when there are none.
    pub(crate) fn batch(&self) -> Option<Batch> {
        let mut queue = self.lock();
        let mut bytes = 0;
        let count = queue
            .lines
            .iter()
            .take_while(|line| {
                bytes += line.message.len();
                bytes <= BATCH_BYTES
            })
            .count();
        if count == 0 {
            return None;
        }
        let lines = queue.lines.drain(..count).collect();
        let dropped = std::mem::take(&mut queue.dropped);
        drop(queue);
        Some(Batch {
            shipper: self.clone(),
            lines,
            dropped,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // A queue of lines has no state that a panic elsewhere could have left half-changed.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cut(message: &mut String) {
    if message.len() > LOG_LINE_BYTES {
        message.truncate(message.floor_char_boundary(LOG_LINE_BYTES));
        message.push('…');
    }
}

/// Lines taken from the queue. Dropped without [`Batch::sent`], they go back to its front.
pub(crate) struct Batch {
    shipper: LogShipper,
    lines: Vec<LogEntry>,
    dropped: u64,
}

impl Batch {
    /// The frame's entries, led by a word on what was lost before them.
    pub(crate) fn entries(&self) -> Vec<LogEntry> {
        let mark = (self.dropped > 0).then(|| {
            let text = format!(
                "{} log line(s) were dropped while the queue was full",
                self.dropped
            );
            LogEntry::now(LogLevel::Warn, "logs", text, None)
        });
        mark.into_iter().chain(self.lines.iter().cloned()).collect()
    }

    /// The socket has taken them.
    pub(crate) fn sent(mut self) {
        self.lines.clear();
        self.dropped = 0;
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if self.lines.is_empty() && self.dropped == 0 {
            return;
        }
        let mut queue = self.shipper.lock();
        queue.dropped += self.dropped;
        for line in self.lines.drain(..).rev() {
            queue.lines.push_front(line);
        }
        queue.trim();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: impl Into<String>) -> LogEntry {
        LogEntry::now(LogLevel::Info, "test", text.into(), None)
    }

    fn messages(batch: &Batch) -> Vec<String> {
        batch.entries().into_iter().map(|e| e.message).collect()
    }

    #[test]
    fn a_batch_that_was_not_sent_comes_first_again() {
        let log = LogShipper::new();
        log.push(line("a"));
        log.push(line("b"));
        let batch = log.batch().unwrap();
        log.push(line("c"));
        drop(batch);
        let batch = log.batch().unwrap();
        assert_eq!(messages(&batch), ["a", "b", "c"]);
        batch.sent();
        assert!(log.batch().is_none());
    }

    #[test]
    fn a_returned_batch_keeps_the_bound_and_the_count() {
        let log = LogShipper::new();
        for n in 0..LOG_QUEUE_LINES + 2 {
            log.push(line(n.to_string()));
        }
        let batch = log.batch().unwrap();
        assert!(messages(&batch)[0].starts_with("2 log line(s)"));
        for n in 0..3 {
            log.push(line(format!("late {n}")));
        }
        drop(batch);
        assert_eq!(log.waiting(), LOG_QUEUE_LINES);
        let batch = log.batch().unwrap();
        assert!(messages(&batch)[0].starts_with("5 log line(s)"));
        assert_eq!(messages(&batch)[1], "5");
    }

    #[test]
    fn long_lines_are_cut_and_spread_over_frames() {
        let log = LogShipper::new();
        for _ in 0..100 {
            log.push(line("é".repeat(LOG_LINE_BYTES)));
        }
        let mut total = 0;
        while let Some(batch) = log.batch() {
            let lines = messages(&batch);
            assert!(lines.iter().all(|l| l.len() <= LOG_LINE_BYTES + 3));
            assert!(lines.iter().map(String::len).sum::<usize>() <= BATCH_BYTES);
            total += lines.len();
            batch.sent();
        }
        assert_eq!(total, 100);
    }
}
