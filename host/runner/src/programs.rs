//! The native programs that the plugins declared, as they are on this machine.
//!
//! Looked for at start and now and then, probed once per binary. An engine whose programs are not all
//! there is not advertised, so no studio offers what cannot be served.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use worker_backends::{Machine, MachineState, Origin, ProbeLimits, Wanted, library_dir};
use worker_plugins::contract::{Backend, BackendStatus};
use worker_plugins::{Engine, Generation};

/// How often programs are looked for again. Shorter only touches the disk more; longer advertises what is gone.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// A program that is there.
#[derive(Clone, Debug)]
pub struct ProgramState {
    /// Where it is.
    pub path: PathBuf,
    /// How it was found, for people.
    pub origin: String,
    /// SHA-256 in hex.
    pub digest: String,
    /// Release it was provisioned from; none for an operator's own.
    pub release: Option<String>,
    /// Folder whose shared objects it needs.
    pub library_dir: Option<PathBuf>,
    /// What it printed for each declared probe.
    pub probes: Vec<String>,
}

/// A program that is not there, or cannot be used.
#[derive(Clone, Debug)]
pub struct MissingProgram {
    /// Its bare name.
    pub program: String,
    /// Why, and what to do.
    pub reason: String,
}

impl fmt::Display for MissingProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

type Found = Result<ProgramState, MissingProgram>;

/// Every declared program, by the plugin's digest and the backend's name: two versions of a plugin may declare different
/// ones, and both serve while the older has a job.
pub struct Programs {
    models_root: PathBuf,
    machine: Machine,
    probes: worker_backends::Programs,
    found: RwLock<HashMap<(String, String), Found>>,
}

impl Programs {
    /// Nothing is looked for yet. `work` is the folder that a probed program sees as its own.
    pub fn new(models_root: &Path, work: &Path) -> Arc<Self> {
        Arc::new(Self {
            models_root: models_root.to_owned(),
            machine: Machine::new(work.to_owned()),
            probes: worker_backends::Programs::new(work.to_owned()),
            found: RwLock::default(),
        })
    }

    /// Looks for every program of a generation: one that is gone is no longer served, one that was replaced is probed
    /// anew. Digests and answers are remembered by file, so that looking again is cheap.
    pub async fn discover(&self, generation: &Generation) {
        for engine in generation.engines() {
            for backend in &engine.description().backends {
                let key = (engine.identity().digest.clone(), backend.name.clone());
                let known = self.read(&key);
                let found = self.look(backend).await;
                tell(&engine.identity().name, backend, known.as_ref(), &found);
                self.found
                    .write()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(key, found);
            }
        }
    }

    /// Looks again, now and then; runs until it is dropped.
    pub async fn keep_looking(&self, generation: impl Fn() -> Arc<Generation>) {
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            self.discover(&generation()).await;
        }
    }

    async fn look(&self, backend: &Backend) -> Found {
        let missing = |reason: String| MissingProgram {
            program: backend.program.clone(),
            reason,
        };
        let wanted = Wanted {
            name: backend.name.clone(),
            program: backend.program.clone(),
            path_override_env: backend.overrides.path.clone(),
        };
        let found =
            worker_backends::find(&wanted, &self.models_root, &|name| std::env::var_os(name))
                .map_err(|error| missing(error.to_string()))?;
        let Some(found) = found else {
            let by_variable = backend
                .overrides
                .path
                .as_ref()
                .map(|name| format!(", or name it in {name}"));
            return Err(missing(format!(
                "`{}` is neither in {}, ~/.local/bin nor on PATH; install it there{}",
                backend.program,
                self.models_root.join("bin").display(),
                by_variable.unwrap_or_default()
            )));
        };
        let digest = self
            .probes
            .digest(&found.path)
            .await
            .map_err(|error| missing(error.to_string()))?;
        // Probes are bounded by their own time limit.
        let never = CancellationToken::new();
        let mut probes = Vec::with_capacity(backend.probes.len());
        for arguments in &backend.probes {
            let text = self
                .probes
                .probe(&found.path, arguments, &ProbeLimits::default(), &never)
                .await;
            probes.push(text.map_err(|error| missing(error.to_string()))?);
        }
        Ok(ProgramState {
            origin: origin(&found.how),
            library_dir: library_dir(&found.path),
            path: found.path,
            digest,
            release: None,
            probes,
        })
    }

    fn read(&self, key: &(String, String)) -> Option<Found> {
        self.found
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned()
    }

    /// A backend of an engine.
    pub fn get(&self, engine: &Engine, backend: &str) -> Found {
        self.read(&(engine.identity().digest.clone(), backend.to_owned()))
            .unwrap_or_else(|| {
                Err(MissingProgram {
                    program: backend.to_owned(),
                    reason: "it was not looked for yet".to_owned(),
                })
            })
    }

    /// Whether every program that an engine cannot do without is there.
    pub fn all_there(&self, engine: &Engine) -> bool {
        let backends = &engine.description().backends;
        backends
            .iter()
            .all(|backend| backend.optional || self.get(engine, &backend.name).is_ok())
    }

    /// The programs of an engine as its jobs see them.
    pub fn statuses(&self, engine: &Engine) -> Vec<BackendStatus> {
        self.present(engine)
            .map(|(backend, state)| BackendStatus {
                name: backend.name.clone(),
                release: state.release,
                digest: state.digest,
                probes: state.probes,
            })
            .collect()
    }

    /// Name and digest of the programs that an engine has at hand.
    pub fn used_by(&self, engine: &Engine) -> Vec<(String, String)> {
        self.present(engine)
            .map(|(backend, state)| (backend.program.clone(), state.digest))
            .collect()
    }

    /// What an engine lacks.
    pub fn missing(&self, engine: &Engine) -> Vec<MissingProgram> {
        let backends = &engine.description().backends;
        backends
            .iter()
            .filter_map(|backend| self.get(engine, &backend.name).err())
            .collect()
    }

    fn present<'a>(
        &'a self,
        engine: &'a Engine,
    ) -> impl Iterator<Item = (&'a Backend, ProgramState)> {
        let backends = &engine.description().backends;
        backends.iter().filter_map(|backend| {
            self.get(engine, &backend.name)
                .ok()
                .map(|state| (backend, state))
        })
    }

    /// The GPU and the memory as they are now.
    pub async fn machine(&self) -> MachineState {
        self.machine.state(&CancellationToken::new()).await
    }
}

fn origin(how: &Origin) -> String {
    match how {
        Origin::Environment(variable) => format!("named in {variable}"),
        Origin::Cache => "in the models' bin folder".to_owned(),
        Origin::LocalBin => "in ~/.local/bin".to_owned(),
        Origin::Path => "on PATH".to_owned(),
    }
}

/// One line when something has changed.
fn tell(plugin: &str, backend: &Backend, before: Option<&Found>, now: &Found) {
    match (before, now) {
        (Some(Ok(old)), Ok(new)) if old.path == new.path && old.digest == new.digest => {}
        (_, Ok(state)) => tracing::info!(
            target: "job",
            plugin,
            program = backend.program,
            path = %state.path.display(),
            origin = state.origin,
            sha256 = state.digest,
            "program found"
        ),
        (None | Some(Ok(_)), Err(missing)) => {
            tracing::warn!(target: "job", plugin, program = backend.program, "not served: {missing}");
        }
        (Some(Err(old)), Err(new)) if old.reason != new.reason => {
            tracing::warn!(target: "job", plugin, program = backend.program, "not served: {new}");
        }
        _ => {}
    }
}
