//! The durable record: SQLite in WAL mode, written by one thread of its own.
//!
//! Nothing on the way from a frame to the next offer waits for the disk except where a worker is about to forget
//! something: an acknowledgement goes out after the commit it stands for. Commits are grouped, and checkpoints (the only
//! place where `synchronous=NORMAL` calls fsync) run while the thread has nothing to do. A killed process loses no
//! commit; a power cut may lose the last ones, but leaves a database that opens.

mod rows;
mod schema;
mod writer;

pub(crate) use rows::{JobRow, Recovered, RequestRow, WorkerRow};
pub use schema::OpenError;
pub(crate) use schema::{open, private_dir};
pub(crate) use writer::{Change, Receipt, Store};

/// The record could not be written or read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite refused.
    #[error(
        "the studio's database failed: {reason}; check the disk's free space and the file's owner"
    )]
    Database {
        /// In its words.
        reason: String,
    },
    /// The thread that writes is gone: the studio is closing.
    #[error("the studio is closing")]
    Closed,
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database {
            reason: error.to_string(),
        }
    }
}
