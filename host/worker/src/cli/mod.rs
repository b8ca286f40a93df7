//! The command line: what can be typed ([`typed`]), which commands there are ([`command`]), what of them was meant ([`meant`]), and how a command speaks ([`output`]).
//!
//! Commands get meant arguments only, so that what contradicts itself is found in one place, before anything is done.

mod command;
mod meant;
mod output;
mod pushing;
#[cfg(test)]
mod reference;
mod trust;
mod typed;

pub(crate) use command::{
    Approval, Command, Invocation, Models, Password, Plugins, Registration, Results, Source,
    Submission, Work, Workers,
};
pub(crate) use meant::invocation;
pub(crate) use output::{Failure, Output, one_line, report};
pub(crate) use pushing::{Push, Pushing};
