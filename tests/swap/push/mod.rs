//! Plugins that a studio pushes over the session.

mod crashes;
mod fetching;
mod programs;
pub(crate) mod rig;
mod rollouts;
