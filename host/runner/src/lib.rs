//! One job from offer to acknowledgement: route, step, perform, finish, keep, deliver.
//!
//! The runner holds the one slot of the worker. A plugin decides each thing that is done; the runner checks
//! the wish against what the plugin was granted, has another part do it, and calls again with what came of it.
//! It builds no argument list and reads no prompt: `task` and `modelSource` pass through as the JSON they came in.

mod capabilities;
mod effects;
mod finish;
mod gpu;
mod job;
mod journal;
mod offers;
mod plan;
mod programs;
mod provision;
mod pull;
pub mod replay;
mod report;
mod secrets;
mod slot;
mod tally;
mod told;
mod witness;

pub use capabilities::MachineFacts;
pub use effects::ProgramRules;
pub use gpu::{GpuMemory, Threshold};
pub use journal::{Journal, JournalError, JournalStore, Teller};
pub use offers::{OfferAnswer, Runner, RunnerParts, RunnerSettings};
pub use plan::{Plan, PlanError, PlannedStep, plan};
pub use programs::{MissingProgram, ProgramState, Programs};
pub use pull::{Model, Telling, models};
pub use report::{LogSink, Reporter};
pub use secrets::PluginSecrets;
pub use slot::{CurrentJob, RESERVED, StopReason};
pub use tally::{Counts, Outcome, SECONDS};
pub use witness::{Again, JobEnd, JobReport, NoWitness, Witness};
