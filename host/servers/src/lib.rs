//! Native servers, kept warm between jobs.
//!
//! A program that loads for a minute and works for a second is started once and asked again. What is kept here: one server
//! per program, launch arguments, files and environment; only on this machine, on a port that is its own; no longer than it
//! is of use; and never left working for a job that is over. Which request means what is the caller's affair.

mod call;
mod error;
mod exchange;
mod instance;
mod keep;
mod launch;
mod lease;
mod limits;
mod place;
mod port;
mod servers;
mod shown;
mod slot;
mod target;

pub use call::{Answer, Body, Repeat, Request, Spill};
pub use error::{CallError, ServerError};
pub use launch::{Holds, Launch};
pub use lease::Lease;
pub use limits::Limits;
pub use servers::{Servers, Status};
pub use shown::{Shown, ShownError, ShownFile};
pub use target::{BadTarget, check_target};
