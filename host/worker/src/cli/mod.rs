//! The command line: what can be typed ([`typed`]), what it means ([`meant`]), and how a command speaks ([`output`]).
//!
//! Commands get meant arguments only, so that what contradicts itself is found in one place, before anything is done.

mod meant;
mod output;
#[cfg(test)]
mod reference;
mod typed;

pub(crate) use meant::{
    Approval, Command, Invocation, Models, Plugins, Registration, Results, Submission, Work,
    Workers, invocation,
};
pub(crate) use output::{Failure, Output, one_line, report};
