//! What can go wrong in one call of a plugin.

use std::fmt;

/// A call that gave no answer. The instance it ran in is gone; the next call gets a fresh one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallError {
    /// The plugin's name.
    pub plugin: String,
    /// The function that was called, under the contract's name.
    pub export: &'static str,
    /// What went wrong.
    pub fault: Fault,
    /// The last thing that the plugin logged as an error during the call: a panic's message, mostly.
    pub said: Option<String>,
}

impl CallError {
    /// Whether the plugin is to blame. An overloaded machine, a cancelled call and a failure of the host's own
    /// are held against no plugin.
    pub fn is_plugins_fault(&self) -> bool {
        !matches!(
            self.fault,
            Fault::Deadline { .. } | Fault::Cancelled | Fault::Host { .. }
        )
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "plugin `{}` failed in `{}`: {}",
            self.plugin, self.export, self.fault
        )?;
        match &self.said {
            Some(said) => write!(f, " (it said: {said})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for CallError {}

/// What ended a call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It computed more than it may. The same everywhere and under any load.
    #[error("it used up its computing limit, {limit_ms} ms worth of fuel")]
    Fuel {
        /// The limit in milliseconds of an idle core.
        limit_ms: u64,
    },
    /// It took many times longer than its fuel is worth: the machine is overloaded. Not held against the plugin.
    #[error(
        "it was stopped at the time limit of {limit_ms} ms with fuel left: this machine is overloaded; try again when it is less busy"
    )]
    Deadline {
        /// The limit in milliseconds of wall-clock time.
        limit_ms: u64,
    },
    /// Nobody waits for the answer any more.
    #[error("the call was cancelled")]
    Cancelled,
    /// It wanted more memory than it may have.
    #[error("it wanted more memory than its limit of {limit_mib} MiB")]
    Memory {
        /// The limit over all its memories.
        limit_mib: u64,
    },
    /// It wanted more table elements, or more tables, memories or instances than it may have.
    #[error("it wanted more table elements than the limit of {limit}")]
    Tables {
        /// The limit over all its tables.
        limit: usize,
    },
    /// It recursed too deeply.
    #[error("it recursed beyond the call stack's limit of {limit_kib} KiB")]
    Stack {
        /// The limit.
        limit_kib: usize,
    },
    /// It trapped.
    #[error("{0}")]
    Trap(String),
    /// What it returned could not be taken over: more than the limit, not UTF-8, a pointer to nowhere.
    #[error(
        "what it passed to the host could not be taken (at most {limit_mib} MiB are): {reason}"
    )]
    Transfer {
        /// The limit on what one call may return.
        limit_mib: u64,
        /// What was wrong, in the engine's words.
        reason: String,
    },
    /// A part of what it returned is too large.
    #[error("{what} has {size} {unit}, the limit is {limit}")]
    ReturnedTooLarge {
        /// Which part.
        what: String,
        /// How large it is.
        size: u64,
        /// Of what.
        unit: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A part of what it returned makes no sense.
    #[error("{0}")]
    BadValue(String),
    /// It could not be instantiated for another reason.
    #[error("it could not be instantiated: {0}")]
    Instantiate(String),
    /// The host failed, not the plugin.
    #[error("the host could not make the call: {reason}")]
    Host {
        /// Why.
        reason: String,
    },
}
