//! What every program is held by, whoever asked for it: its time, its silence, its disk, its sandbox.

use std::collections::HashSet;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use worker_backends::{Exit, Limits, SandboxPolicy, Stall, note_use, remove_unused, support};
use worker_files::{Limits as FileLimits, Walk, remove_tree, walk};
use worker_plugins::Identity;
use worker_plugins::contract::Failure;

use super::Refused;
use crate::programs::ProgramState;

/// A program's cache folder that has grown beyond this is emptied before its next run. Larger keeps more disk from models;
/// smaller has shaders compiled anew that are still of use.
const CACHE_BYTES: u64 = 1 << 30;
/// Most files of a cache folder that are looked at; one with more is emptied.
const CACHE_FILES: usize = 20_000;

/// Rules for every program; the operator sets them.
#[derive(Clone, Debug)]
pub struct ProgramRules {
    /// How long a command may run that asks for no time of its own, and the longest it may ask for. Shorter would end
    /// long videos; longer would let a hanging program hold the slot.
    pub timeout: Duration,
    /// Longest that it may print nothing.
    pub silence: Option<Duration>,
    /// Longest to its first progress.
    pub first_progress: Option<Duration>,
    /// Longest from one progress to the next.
    pub next_progress: Option<Duration>,
    /// Most bytes that it may write.
    pub written_bytes: u64,
    /// Most bytes of one file that it writes, and of what it prints where that is a result.
    pub file_bytes: u64,
    /// Most memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// Whether it is kept in a sandbox, as far as this system has one.
    pub sandbox: bool,
    /// Whether plugins of others run programs where the sandbox is incomplete.
    pub without_sandbox: bool,
    /// Digests of the plugins that came with the worker.
    pub first_party: HashSet<String>,
    /// What it may read besides.
    pub readable: Vec<PathBuf>,
    /// What it may write besides.
    pub writable: Vec<PathBuf>,
    /// Folders that hold what no program may see: a program's own folder is not opened as a whole where it holds one.
    pub private: Vec<PathBuf>,
    /// Where programs keep what they compiled; none: nowhere.
    pub caches: Option<PathBuf>,
}

impl Default for ProgramRules {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(60 * 60),
            silence: None,
            first_progress: None,
            next_progress: None,
            written_bytes: FileLimits::default().scratch_bytes,
            file_bytes: FileLimits::default().file_bytes,
            memory_bytes: None,
            sandbox: true,
            without_sandbox: false,
            first_party: HashSet::new(),
            readable: Vec::new(),
            writable: Vec::new(),
            private: Vec::new(),
            caches: None,
        }
    }
}

impl ProgramRules {
    /// Whether this plugin may run programs here at all.
    pub(crate) fn check(&self, plugin: &Identity) -> Result<(), Refused> {
        let kept = self.sandbox && support().is_complete();
        if kept || self.without_sandbox || self.first_party.contains(&plugin.digest) {
            return Ok(());
        }
        Err(Refused::NoSandbox {
            why: if self.sandbox {
                support().to_string()
            } else {
                "program_sandbox is off".to_owned()
            },
        })
    }

    /// The bounds of one run.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            silence: self.silence,
            first_progress: self.first_progress,
            next_progress: self.next_progress,
            written_bytes: self.written_bytes,
            memory_bytes: self.memory_bytes,
            file_bytes: Some(self.file_bytes.min(self.written_bytes)),
            stdout_bytes: self.file_bytes,
            ..Limits::default()
        }
    }

    /// What one run may reach. None where the operator wants no sandbox.
    pub(crate) fn policy(
        &self,
        plugin: &Identity,
        program: &ProgramState,
        scratch: &Path,
        readable: Vec<PathBuf>,
    ) -> Option<SandboxPolicy> {
        self.sandbox.then(|| SandboxPolicy {
            readable,
            program_dir: self.program_dir(&program.path),
            scratch: scratch.to_owned(),
            cache_dir: self.cache_dir(plugin, program),
            listen: None,
            gpu: true,
            also_readable: self.readable.clone(),
            also_writable: self.writable.clone(),
        })
    }

    /// What a program may reach while it answers a plugin's question: as a run, without the job's files and without what an
    /// earlier run left behind. None where the operator wants no sandbox.
    pub(crate) fn probe_policy(&self, program: &Path) -> Option<SandboxPolicy> {
        self.sandbox.then(|| SandboxPolicy {
            program_dir: self.program_dir(program),
            // A program may be linked to its driver's libraries, which look for their devices when they are loaded.
            gpu: true,
            also_readable: self.readable.clone(),
            also_writable: self.writable.clone(),
            ..SandboxPolicy::default()
        })
    }

    /// The program's folder; the program alone where the folder holds more than programs.
    fn program_dir(&self, program: &Path) -> PathBuf {
        let program = fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
        let folder = program.parent().filter(|folder| {
            let holds = |private: &PathBuf| {
                let private = fs::canonicalize(private).unwrap_or_else(|_| private.clone());
                private.starts_with(folder)
            };
            !self.private.iter().any(holds)
        });
        folder.map_or_else(|| program.clone(), Path::to_owned)
    }

    /// A folder for this program under this plugin, since two plugins owe each other nothing.
    fn cache_dir(&self, plugin: &Identity, program: &ProgramState) -> Option<PathBuf> {
        let digest: String = program.digest.chars().take(16).collect();
        let dir = self
            .caches
            .as_ref()?
            .join(format!("{}-{digest}", plugin.name));
        if is_too_large(&dir)
            && let Err(error) = remove_tree(&dir)
        {
            tracing::warn!(target: "job", folder = %dir.display(), %error, "the cache folder of a program cannot be emptied");
            // What it holds would be held against this run.
            return None;
        }
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir);
        // Without one, what it compiles is gone with the job.
        made.is_ok().then(|| {
            note_use(&dir);
            dir
        })
    }

    /// Removes the cache folders of programs that did not run for months.
    pub(crate) fn sweep_caches(&self) {
        if let Some(caches) = &self.caches {
            remove_unused(caches);
        }
    }
}

/// Whether a cache folder is to be emptied. One that cannot be looked into, or hides a folder, is.
fn is_too_large(dir: &Path) -> bool {
    let (mut files, mut bytes) = (0, 0_u64);
    let walked = walk(dir, |found| {
        files += 1;
        if !found.is_dir() {
            bytes = bytes.saturating_add(found.len());
        }
        if files > CACHE_FILES || bytes > CACHE_BYTES {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    walked != Walk::Whole
}

/// The limit at which we ended a program, as the plugin hears it. What a program does too much it does again; a stall may
/// pass.
pub(crate) fn over_limit(program: &str, exit: &Exit, limits: &Limits) -> Option<Failure> {
    let seconds = |time: Option<Duration>| time.unwrap_or_default().as_secs();
    let stalled = |what: String| Failure {
        message: format!("{program} was ended: {what}"),
        retryable: true,
    };
    if exit.too_much_output {
        return Some(Failure {
            message: format!(
                "{program} printed more than the {} MiB that a result may hold (output_max_gb)",
                limits.stdout_bytes >> 20
            ),
            retryable: false,
        });
    }
    if exit.too_much_disk {
        return Some(Failure {
            message: format!(
                "{program} was ended: it wrote more than {} MiB, or one file of more than {} MiB, or it hid what it wrote in a folder that nobody can look into; program_written_mib and output_max_gb say how much it may",
                limits.written_bytes >> 20,
                limits.file_bytes.unwrap_or(limits.written_bytes) >> 20
            ),
            retryable: false,
        });
    }
    if exit.too_many_tasks {
        return Some(Failure {
            message: format!(
                "{program} was ended: it had more than {} processes and threads at once",
                limits.tasks
            ),
            retryable: false,
        });
    }
    Some(match exit.stalled? {
        Stall::Silent => stalled(format!(
            "it printed nothing for {} s (program_silence_secs)",
            seconds(limits.silence)
        )),
        Stall::Starting => stalled(format!(
            "it showed no progress for {} s after its start (program_start_secs)",
            seconds(limits.first_progress)
        )),
        Stall::Working => stalled(format!(
            "it showed no further progress for {} s (program_step_secs)",
            seconds(limits.next_progress)
        )),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_bound_on_a_file_holds_for_programs() {
        for (file_bytes, written_bytes, expected) in [(16, 32, 16), (64, 32, 32), (1, 32, 1)] {
            let rules = ProgramRules {
                file_bytes: file_bytes << 30,
                written_bytes: written_bytes << 30,
                ..ProgramRules::default()
            };
            let limits = rules.limits();
            assert_eq!(limits.file_bytes, Some(expected << 30));
            assert_eq!(limits.stdout_bytes, file_bytes << 30);
        }
    }
}
