//! A finished result until the studio has it.
//!
//! GPU minutes are the expensive thing, so a product is on disk before anything is sent, and leaves only when the
//! studio has it or when its operator takes it away. The [`Spool`] is that disk: for small products a few files that are
//! written in place, for others one media file and one row each, written so that a process killed at any moment leaves
//! either nothing or everything. [`Delivery`] sends
//! what is in it: in the session that the job came from, and after a later welcome what an earlier session left
//! behind. What a studio refuses for good goes to the [`Aside`], with the reason, where `studio-worker results`
//! finds it.
//!
//! Frames are sent only through the link of the session that a job was accepted in, or, for results of an earlier
//! one, to a studio that lists `resume`: any other studio ends the session over a frame that it does not expect.
//! An upload is an ordinary request and needs no session, so media is always posted again.
//!
//! Bounds: the spool holds what is not delivered yet, one product per job, and stops the job when the disk is full;
//! the aside is bounded by [`AsideLimits`]; every attempt to upload ends when no byte has moved for
//! [`Timing::stall`].

mod aside;
mod delivery;
mod disk;
mod event;
mod holds;
mod id;
mod in_place;
mod outcome;
mod product;
mod record;
mod recover;
mod redelivery;
mod reoffer;
mod row;
mod spool;
mod steps;
mod timing;
mod upload;

#[cfg(test)]
mod crash_tests;

pub use aside::{Aside, AsideContent, AsideEntry, AsideError, AsideLimits};
pub use delivery::Delivery;
pub use disk::DiskError;
pub use event::{Event, Events, Severity};
pub use id::{EntryId, EntryIdError};
pub use outcome::{Delivered, Interruption};
pub use product::{Kept, MediaContent, Payload, Product};
pub use recover::Recovered;
pub use reoffer::Waiting;
pub use spool::{KeepError, OpenError, Spool};
pub use timing::Timing;
