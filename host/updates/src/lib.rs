//! Plugins that a studio pushes over the session.
//!
//! An update is announced in a frame, fetched by the rules of every other download, handed to the swap as any new version is, and
//! whatever becomes of it is told to the studio. What is told is kept until a session takes it, and told anew in the next one: a
//! studio that was away, and a worker that was ended in the middle, end with the same knowledge.
//!
//! Nothing that a studio announces can end the session, hold more than [`Limits`] allow, or change what serves by any other way than
//! the swap's own steps.

mod fetch;
mod ledger;
mod outbox;
mod updates;

pub use ledger::LedgerError;
pub use updates::{Limits, Options, Updates};
