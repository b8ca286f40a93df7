//! The commands, one file each.

pub(crate) mod cancel;
pub(crate) mod config;
pub(crate) mod doctor;
pub(crate) mod models;
pub(crate) mod pause;
pub(crate) mod plan;
pub(crate) mod plugin;
pub(crate) mod programs;
pub(crate) mod pushing;
pub(crate) mod register;
pub(crate) mod results;
pub(crate) mod set_threshold;
pub(crate) mod status;
pub(crate) mod submit;
pub(crate) mod swap;
pub(crate) mod trust;
pub(crate) mod workers;
