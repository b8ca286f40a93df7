//! Plugins swapped while the worker runs.
//!
//! A file is seen, read once, checked by the steps of `worker_plugins`, compared with what it would replace on the last jobs' journals,
//! and published as part of a new immutable generation. Its first jobs are probation: when it breaks, the version before it is
//! back at once, and its digest is quarantined. Whatever happens, what serves is a whole generation, and what was decided is on
//! disk before it takes effect.

mod book;
mod parcel;
mod shadow;
mod swapper;
mod trial;
mod watch;

pub use book::{
    Book, BookError, Entry, Event, Floor, Later, Papers, Quarantined, Version, Waiting,
};
pub use parcel::{Parcel, Sender, State, StateChange};
pub use shadow::{Comparison, Verdict, compare};
pub use swapper::live::identities;
pub use swapper::tools::{active_engine, engine_of};
pub use swapper::{Asked, Options, Place, SwapError, Swapper, Taken};
