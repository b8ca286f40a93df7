//! Plugins that a studio pushes over the session.

mod fetching;
mod rig;
mod rollouts;
