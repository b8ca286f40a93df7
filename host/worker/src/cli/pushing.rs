//! What can be said to a running studio about pushed plugins. Nothing of it needs deciding, so what is typed is what is meant.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use worker_wire::is_update_id;

/// A word about roll-outs.
#[derive(Debug, Subcommand)]
pub(crate) enum Pushing {
    /// Push a signed plugin to the studio's workers: one canary first, then all; show how far it is until it ends
    #[command(after_help = "\
Examples:
  studio-worker studio push sd-cpp.wasm
  studio-worker studio push sd-cpp.wasm --canary w-7f3a --canary-jobs 3
  studio-worker studio push sd-cpp.wasm --soak 600 --no-wait

The roll-out goes on to the other workers when the canary's probation is over, or sooner by --canary-jobs or --soak. It stops
when a worker rolls the plugin back, refuses it for a fault of the plugin's or vanishes with it. One whose operator does not want
it is left out. Ctrl-C leaves it going: `studio watch` shows it again, `studio cancel` ends it.")]
    Push(Push),
    /// List roll-outs, newest first, or show one with the story of each worker
    Updates {
        /// The roll-out's id
        #[arg(value_name = "UPDATE", value_parser = update_id)]
        update: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Follow a roll-out until it ends
    Watch {
        /// The roll-out's id
        #[arg(value_name = "UPDATE", value_parser = update_id)]
        update: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// End a roll-out: no further worker gets it; those that have it keep it
    Cancel {
        /// The roll-out's id
        #[arg(value_name = "UPDATE", value_parser = update_id)]
        update: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// A push.
#[derive(Debug, Args)]
pub(crate) struct Push {
    /// The plugin
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Its detached minisign signature; without it FILE.minisig
    #[arg(long, value_name = "FILE")]
    pub(crate) signature: Option<PathBuf>,
    /// The worker to begin with; without it the one that finished a job last, of those that have the plugin
    #[arg(long, value_name = "WORKER")]
    pub(crate) canary: Option<String>,
    /// Jobs that the canary has to do on the new version; without it all of its probation
    #[arg(long, value_name = "N")]
    pub(crate) canary_jobs: Option<u32>,
    /// Seconds that the canary serves the new version in one session after which it has passed, jobs or not
    #[arg(long, value_name = "SECONDS")]
    pub(crate) soak: Option<u64>,
    /// Workers that may be under way at a time, after the canary
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) at_once: u32,
    /// Begin the roll-out, print its id and end
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

fn update_id(text: &str) -> Result<String, &'static str> {
    is_update_id(text)
        .then(|| text.to_owned())
        .ok_or("an update's id has 1 to 64 letters, digits, dots, underscores and hyphens")
}
