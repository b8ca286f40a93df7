//! Files: those of one job, and those kept for all jobs.
//!
//! A plugin names files by number only; [`JobFiles`] is the table from numbers to paths. Everything that a job makes or
//! is given lives in its [`Scratch`] directory, which goes with the job on every way out; what is worth keeping lives in
//! the [`ModelCache`]. Which file is needed is decided elsewhere, and nothing here reaches the network.

mod cache;
mod collect;
mod entry;
mod job;
mod limits;
mod name;
mod own_thread;
mod parts;
mod scratch;
mod show;
mod sniff;
mod tree;

pub use cache::{
    CacheEntry, CacheError, CacheKey, CachedFile, Checked, Freed, InUse, ModelCache, ObtainError,
    Partial, PartialEntry, Received, Stamp, Verdict, WantedFile, quarantined,
};
pub use collect::{Collected, CommandFiles, OutputKind};
pub use entry::{Entry, FileError, FileId, FileInfo};
pub use job::JobFiles;
pub use limits::Limits;
pub use name::{BadName, check_bare_name, check_extension, name_by_content};
pub use own_thread::{may_wait, run_on_own_thread};
pub use parts::Part;
pub use scratch::{Scratch, ScratchError, ScratchRoot};
pub use sniff::{extension_of, sniff, sniff_file};
pub use tree::{Walk, remove_tree, walk};
