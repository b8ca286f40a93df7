//! Lines for the worker's log: the one import that a plugin has.
//!
//! The host prefixes the plugin's name, escapes control characters and bounds how much one call
//! may say. A step runs again from the start each time, so a line written here is written again
//! at each step; [`crate::Context::note`] writes one only where the plugin goes on to something new.

use crate::bindings::engine_world::studio::worker::log as host;

pub use host::Level;

/// Writes a line. Off wasm32 it goes nowhere.
pub fn write(level: Level, message: &str) {
    if cfg!(target_arch = "wasm32") {
        host::write(level, message);
    }
}

/// For whoever works on the plugin.
pub fn debug(message: &str) {
    write(Level::Debug, message);
}

/// Worth knowing; nothing to do.
pub fn info(message: &str) {
    write(Level::Info, message);
}

/// Something the operator may want to mend, although the job goes on.
pub fn warn(message: &str) {
    write(Level::Warn, message);
}

/// The job cannot go on.
pub fn error(message: &str) {
    write(Level::Error, message);
}
