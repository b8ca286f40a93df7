//! What surrounds a guest during one call: the meter of its memory and tables, and its log.

use std::sync::Arc;
use std::time::Instant;

use wasmtime::ResourceLimiter;

use crate::contract::Level;
use crate::guests::Abandoned;
use crate::names::one_line;

/// Elements over all tables of one instance: an interpreter's function table has 12,000.
pub(crate) const MAX_TABLE_ELEMENTS: usize = 20_000;
/// Tables of one instance.
pub(crate) const MAX_TABLES: usize = 8;
/// Memories of one instance; composed components have one for each part.
pub(crate) const MAX_MEMORIES: usize = 8;
/// Core instances of one component instance.
pub(crate) const MAX_INSTANCES: usize = 32;

/// Log lines of one call, their bytes, and the bytes of one. Fewer hide what a failing plugin says; more let it drown the rest.
const MAX_LOG_LINES: u32 = 64;
const MAX_LOG_BYTES: usize = 16 * 1024;
const MAX_LINE_BYTES: usize = 2 * 1024;
/// How much of the last error is repeated in the message that the job fails with.
const MAX_SAID_BYTES: usize = 300;

/// The state of a store.
pub(crate) struct Room {
    pub(crate) meter: Meter,
    pub(crate) log: Log,
    pub(crate) deadline: Instant,
    pub(crate) abandoned: Abandoned,
    /// Why the clock ended the call, if it did.
    pub(crate) stopped: Option<Stopped>,
    /// Where randomness of the empty WASI context comes from: the job's, so that the plugin stays a function.
    pub(crate) entropy: u64,
}

/// Why the clock ended a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// The time was over, and the machine too busy for the call to have used its limit.
    Deadline,
    /// The time was over, and the limit on computing used up.
    UsedUp,
    Abandoned,
}

/// Which limit of the meter was hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Over {
    #[error("memory limit")]
    Memory,
    #[error("table limit")]
    Tables,
}

/// Sums what all memories and tables of a store hold, where the engine's own limits look at each alone.
pub(crate) struct Meter {
    memory: usize,
    memory_limit: usize,
    elements: usize,
    /// The limit that was hit; growth beyond one ends the call.
    pub(crate) over: Option<Over>,
}

impl Meter {
    pub(crate) fn new(memory_limit: usize) -> Self {
        Self {
            memory: 0,
            memory_limit,
            elements: 0,
            over: None,
        }
    }
}

// Growth that is refused ends the call here instead of being answered by -1: languages answer that by aborting, and an abort does
// not say why.
impl ResourceLimiter for Meter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let total = self.memory.saturating_add(desired.saturating_sub(current));
        if total > self.memory_limit {
            self.over = Some(Over::Memory);
            return Err(wasmtime::Error::new(Over::Memory));
        }
        self.memory = total;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let total = self
            .elements
            .saturating_add(desired.saturating_sub(current));
        if total > MAX_TABLE_ELEMENTS {
            self.over = Some(Over::Tables);
            return Err(wasmtime::Error::new(Over::Tables));
        }
        self.elements = total;
        Ok(true)
    }

    fn instances(&self) -> usize {
        MAX_INSTANCES
    }

    fn tables(&self) -> usize {
        MAX_TABLES
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES
    }
}

/// The log lines of one call, counted.
pub(crate) struct Log {
    plugin: Arc<str>,
    lines: u32,
    bytes: usize,
    dropped: u64,
    /// The last line that was an error.
    pub(crate) said: Option<String>,
}

impl Log {
    pub(crate) fn new(plugin: Arc<str>) -> Self {
        Self {
            plugin,
            lines: 0,
            bytes: 0,
            dropped: 0,
            said: None,
        }
    }

    /// Whether another line would be shown. What would not is not even read.
    pub(crate) fn is_open(&mut self) -> bool {
        let open = self.lines < MAX_LOG_LINES && self.bytes < MAX_LOG_BYTES;
        if !open {
            self.dropped += 1;
        }
        open
    }

    pub(crate) fn write(&mut self, level: Level, message: &str) {
        let line = one_line(
            message,
            MAX_LINE_BYTES.min(MAX_LOG_BYTES - self.bytes.min(MAX_LOG_BYTES)),
        );
        self.lines += 1;
        self.bytes += line.len();
        let plugin = &*self.plugin;
        match level {
            Level::Debug => tracing::debug!(target: "plugin", plugin, "{line}"),
            Level::Info => tracing::info!(target: "plugin", plugin, "{line}"),
            Level::Warn => tracing::warn!(target: "plugin", plugin, "{line}"),
            Level::Error => {
                tracing::error!(target: "plugin", plugin, "{line}");
                self.said = Some(one_line(message, MAX_SAID_BYTES));
            }
        }
    }

    /// Says once how much was dropped.
    pub(crate) fn close(&self) {
        if self.dropped > 0 {
            tracing::warn!(
                target: "plugin",
                plugin = &*self.plugin,
                "{} more log lines of this call were dropped",
                self.dropped
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_summed_over_all_memories() {
        let mut meter = Meter::new(10);
        assert!(meter.memory_growing(0, 6, None).is_ok());
        assert!(meter.memory_growing(0, 4, None).is_ok());
        assert!(meter.memory_growing(6, 7, None).is_err());
        assert_eq!(meter.over, Some(Over::Memory));
    }

    #[test]
    fn elements_are_summed_over_all_tables() {
        let mut meter = Meter::new(0);
        assert!(meter.table_growing(0, MAX_TABLE_ELEMENTS, None).is_ok());
        assert!(meter.table_growing(0, 1, None).is_err());
        assert_eq!(meter.over, Some(Over::Tables));
    }

    #[test]
    fn a_flood_is_counted_not_shown() {
        let mut log = Log::new("x".into());
        for _ in 0..1_000 {
            if log.is_open() {
                log.write(Level::Info, "line");
            }
        }
        assert_eq!(
            (log.lines, log.dropped),
            (MAX_LOG_LINES, 1_000 - u64::from(MAX_LOG_LINES))
        );
        let mut log = Log::new("x".into());
        while log.is_open() {
            log.write(Level::Error, &"y".repeat(10_000));
        }
        assert!(log.bytes <= MAX_LOG_BYTES + 64 * 32, "{}", log.bytes);
        assert!(log.said.unwrap().len() < 400);
    }
}
