//! Native programs: find one, look at it, run it, end it.
//!
//! What is run is told by others, argument by argument; here nothing is known of any option. What is kept here is that a
//! program sees nothing of the worker's environment but what it is given, that it cannot outlive its time, its job or the
//! worker, and that whatever it prints, and however much, costs a bounded amount of memory.

mod answers;
#[cfg(target_os = "linux")]
mod cgroup;
#[cfg(not(target_os = "linux"))]
#[path = "cgroup_elsewhere.rs"]
mod cgroup;
mod ending;
mod environment;
mod exec;
mod find;
mod group;
mod invocation;
mod library;
mod lines;
mod locks;
mod machine;
mod marker;
mod memory;
mod network;
#[cfg(target_os = "linux")]
mod orphans;
#[cfg(not(target_os = "linux"))]
#[path = "orphans_elsewhere.rs"]
mod orphans;
mod output;
mod processes;
mod programs;
mod provision;
mod run;
mod running;
mod sandbox;
mod unused;
mod vulkan;
mod watch;

pub use cgroup::{MemoryKeeper, memory_keeper};
pub use ending::{Exit, RunError, Stall};
pub use environment::{EnvironmentRefusal, check_env_name, library_dir};
pub use find::{FindError, Found, Origin, Wanted, find, is_interpreter};
pub use invocation::{Invocation, Limits, Stdin};
pub use library::{is_library_here, library};
pub use machine::{Gpu, Machine, MachineState, gib};
pub use marker::{MarkError, Marked, mark};
pub use memory::default_memory_limit;
pub use network::{Network, NoNetwork, ServerNetwork, server_network};
pub use programs::{DigestError, ProbeError, ProbeLimits, Programs};
pub use provision::{
    Archive, ArchiveError, ArchiveLimits, KnownArchive, KnownError, ProvisionError, Releases,
    free_bytes,
};
pub use run::run;
pub use running::{Running, start};
pub use sandbox::{SandboxPolicy, Support, support};
pub use unused::{note_use, remove_unused};
pub use vulkan::{Vulkan, vulkan};
pub use watch::Clock;
