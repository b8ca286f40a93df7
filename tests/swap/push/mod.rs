//! Plugins that a studio pushes over the session.

mod fetching;
pub(crate) mod rig;
mod rollouts;
