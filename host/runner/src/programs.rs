//! The native programs that the plugins declared, as they are on this machine.
//!
//! Looked for at start and now and then, probed once per binary. A program that is not there and has a build for this
//! platform is downloaded for the first job that needs it. An engine whose programs are neither there nor to be had is not
//! advertised, so no studio offers what cannot be served.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use worker_backends::{
    Archive, Machine, MachineState, Origin, ProbeError, ProbeLimits, ProvisionError, Releases,
    Wanted, library_dir,
};
use worker_egress::{Egress, OnProgress};
use worker_plugins::contract::{Backend, BackendStatus, Failure};
use worker_plugins::{Engine, Generation};

use crate::effects::ProgramRules;
use crate::provision::{Archives, lacking, shown};

/// How often programs are looked for again. Shorter only touches the disk more; longer advertises what is gone.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// How often releases and caches that nobody uses are looked for. They wait for months, so that a day matters little.
const SWEEP_AGAIN: Duration = Duration::from_secs(24 * 60 * 60);

/// A program that is there.
#[derive(Clone, Debug)]
pub struct ProgramState {
    /// Its bare name: of several that a plugin declares for one thing, the one that is here.
    pub program: String,
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
    /// What it printed for each declared probe. Empty where that is not known.
    pub probes: Vec<String>,
    /// Whether it was never asked, and may not be here: what it can do is not known.
    pub unasked: bool,
}

/// A program that is not there, or cannot be used.
#[derive(Clone, Debug)]
pub struct MissingProgram {
    /// Its bare name.
    pub program: String,
    /// Why, and what to do.
    pub reason: String,
    /// The archive that it is downloaded from for the first job that needs it; none where it cannot be had.
    pub archive: Option<Archive>,
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
    rules: ProgramRules,
    work: PathBuf,
    machine: Machine,
    probes: worker_backends::Programs,
    releases: Releases,
    archives: Archives,
    found: RwLock<HashMap<(String, String), Found>>,
    /// Whether a program may be run to ask it what it can do.
    asks: bool,
}

impl Programs {
    /// Nothing is looked for yet. Below `dir` lie downloaded releases, what programs answered, and the folder in which they
    /// are asked. `rules` hold for them then, too.
    pub fn new(models_root: &Path, dir: &Path, rules: ProgramRules) -> Arc<Self> {
        if let Err(error) = std::fs::create_dir_all(dir.join("work")) {
            tracing::warn!(target: "job", %error, "programs cannot be probed: no folder to run them in");
        }
        Self::over(models_root, dir, rules, true)
    }

    /// Programs that are looked for and never run: what they can do is what they answered before, where that is known.
    pub fn only_looked_at(models_root: &Path, dir: &Path) -> Arc<Self> {
        Self::over(models_root, dir, ProgramRules::default(), false)
    }

    fn over(models_root: &Path, dir: &Path, rules: ProgramRules, asks: bool) -> Arc<Self> {
        let work = dir.join("work");
        let answers = Some(dir.join("answers"));
        Arc::new(Self {
            models_root: models_root.to_owned(),
            rules,
            work: work.clone(),
            machine: Machine::new(work.clone()),
            probes: worker_backends::Programs::with_answers(work, answers),
            releases: Releases::new(dir.to_owned()),
            archives: Archives::default(),
            found: RwLock::default(),
            asks,
        })
    }

    /// Removes what interrupted downloads left. Only for the worker that owns the folder, at its start.
    pub fn sweep(&self) {
        // Folders of questions that nobody waited for to the end.
        for entry in std::fs::read_dir(&self.work)
            .into_iter()
            .flatten()
            .flatten()
        {
            let _ = worker_files::remove_tree(&entry.path());
        }
        if let Err(error) = self.releases.sweep() {
            tracing::warn!(target: "job", "{error}");
        }
    }

    /// The releases that were downloaded.
    pub fn releases(&self) -> &Releases {
        &self.releases
    }

    /// Looks for every program of a generation: one that is gone is no longer served, one that was replaced is probed
    /// anew. Digests and answers are remembered by file, so that looking again is cheap.
    pub async fn discover(&self, generation: &Generation) {
        for engine in generation.engines() {
            self.look_again(engine).await;
        }
    }

    fn keep(&self, key: (String, String), found: Found) {
        self.found
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, found);
    }

    /// Downloads what an engine needs and this machine lacks, as far as there are builds. Two jobs that need one release
    /// share its download.
    pub async fn provide(
        &self,
        engine: &Engine,
        egress: &Egress,
        on_progress: OnProgress<'_>,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let mut changed = false;
        for (backend, archive) in self.downloadable(engine) {
            let names = names_of(engine, &backend.name);
            let wanted = (&archive, names.as_slice());
            let provided =
                self.archives
                    .provide(&self.releases, wanted, egress, on_progress, cancel);
            changed = true;
            if let Err(error) = provided.await {
                self.look_again(engine).await;
                return Err(failure(&backend.program, &archive, &error));
            }
        }
        if changed {
            self.look_again(engine).await;
            let lacking = self
                .needed(engine)
                .find_map(|backend| self.get(engine, &backend.name).err());
            if let Some(missing) = lacking {
                return Err(failed_for_want_of(missing));
            }
        }
        Ok(())
    }

    /// Looks again at the programs of an engine where a file is another than when it was last looked at: an operator may have
    /// replaced one a moment ago, and a job must not be made for what is no longer there.
    pub(crate) async fn look_where_changed(&self, engine: &Engine) {
        for (_, state) in self.present(engine) {
            let now = self.probes.digest(&state.path).await;
            if now.is_ok_and(|now| now == state.digest) {
                continue;
            }
            self.look_again(engine).await;
            return;
        }
    }

    async fn look_again(&self, engine: &Engine) {
        for alternatives in named(engine) {
            let Some(first) = alternatives.first() else {
                continue;
            };
            let key = (engine.identity().digest.clone(), first.name.clone());
            let known = self.read(&key);
            let found = self.look(engine, &alternatives).await;
            tell(&engine.identity().name, first, known.as_ref(), &found);
            self.keep(key, found);
        }
    }

    /// What is downloaded before an engine's next job: programs that it cannot do without. One that it can do without is
    /// used when it comes in the same archive.
    pub(crate) fn downloadable<'a>(&self, engine: &'a Engine) -> Vec<(&'a Backend, Archive)> {
        self.needed(engine)
            .filter_map(|backend| {
                let missing = self.get(engine, &backend.name).err()?;
                Some((backend, missing.archive?))
            })
            .collect()
    }

    fn needed<'a>(&self, engine: &'a Engine) -> impl Iterator<Item = &'a Backend> {
        named(engine)
            .filter_map(|alternatives| alternatives.first().copied())
            .filter(|backend| !backend.optional)
    }

    /// Looks again, now and then, and once a day for what nobody uses any more; runs until it is dropped.
    pub async fn keep_looking(self: &Arc<Self>, generation: impl Fn() -> Arc<Generation>) {
        let mut swept: Option<Instant> = None;
        loop {
            // What serves was looked for, and so is in use.
            if swept.is_none_or(|then| then.elapsed() >= SWEEP_AGAIN) {
                swept = Some(Instant::now());
                let programs = Arc::clone(self);
                drop(tokio::task::spawn_blocking(move || programs.sweep_unused()));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
            self.discover(&generation()).await;
        }
    }

    fn sweep_unused(&self) {
        self.releases.sweep_unused();
        self.rules.sweep_caches();
    }

    async fn look(&self, engine: &Engine, alternatives: &[&Backend]) -> Found {
        let (backend, path, origin, release) = self.place(engine, alternatives).await?;
        let missing = |reason: String| MissingProgram {
            program: backend.program.clone(),
            reason,
            archive: None,
        };
        let digest = self
            .probes
            .digest(&path)
            .await
            .map_err(|error| missing(error.to_string()))?;
        // What a plugin asks is the plugin's choice, as the arguments of a run are.
        if self.asks && !backend.probes.is_empty() {
            let checked = self.rules.check(engine.identity());
            checked.map_err(|refused| missing(refused.to_string()))?;
        }
        let answered = if self.asks {
            let asked = self.ask(&path, &backend.probes).await;
            Some(asked.map_err(|error| missing(error.to_string()))?)
        } else {
            let limits = ProbeLimits::default();
            let questions = backend.probes.iter();
            questions
                .map(|arguments| self.probes.remembered(&digest, arguments, &limits))
                .collect()
        };
        Ok(ProgramState {
            program: backend.program.clone(),
            origin,
            library_dir: library_dir(&path),
            path,
            digest,
            release,
            unasked: answered.is_none(),
            probes: answered.unwrap_or_default(),
        })
    }

    async fn ask(&self, path: &Path, questions: &[Vec<String>]) -> Result<Vec<String>, ProbeError> {
        let limits = ProbeLimits {
            sandbox: self.rules.probe_policy(path),
            memory_bytes: self.rules.memory_bytes,
            ..ProbeLimits::default()
        };
        // Probes are bounded by their own time limit.
        let never = CancellationToken::new();
        let mut answers = Vec::with_capacity(questions.len());
        for arguments in questions {
            answers.push(self.probes.probe(path, arguments, &limits, &never).await?);
        }
        Ok(answers)
    }

    /// Where a program is: the operator's own, under a further name only where it was put for this worker; else in a
    /// downloaded release.
    async fn place<'a>(
        &self,
        engine: &Engine,
        alternatives: &[&'a Backend],
    ) -> Result<(&'a Backend, PathBuf, String, Option<String>), MissingProgram> {
        for (nth, backend) in alternatives.iter().enumerate() {
            let wanted = Wanted {
                name: backend.name.clone(),
                program: backend.program.clone(),
                path_override_env: backend.overrides.path.clone(),
                further_name: nth > 0,
            };
            let own =
                worker_backends::find(&wanted, &self.models_root, &|name| std::env::var_os(name));
            let own = own.map_err(|error| MissingProgram {
                program: backend.program.clone(),
                reason: error.to_string(),
                archive: None,
            })?;
            if let Some(found) = own {
                return Ok((backend, found.path, origin(&found.how), None));
            }
        }
        let mut first = None;
        for backend in alternatives {
            match self.downloaded(engine, backend).await {
                Ok((path, origin, release)) => return Ok((backend, path, origin, release)),
                // What can be done is said of the name that releases have today.
                Err(missing) => first = first.or(Some(missing)),
            }
        }
        Err(first.unwrap_or_else(|| MissingProgram {
            program: String::new(),
            reason: "its plugin names no program".to_owned(),
            archive: None,
        }))
    }

    /// A program in a release that was downloaded before; else what can be done about it.
    async fn downloaded(
        &self,
        engine: &Engine,
        backend: &Backend,
    ) -> Result<(PathBuf, String, Option<String>), MissingProgram> {
        let missing = |reason: String, archive| MissingProgram {
            program: backend.program.clone(),
            reason,
            archive,
        };
        let archive = match self.archives.of(engine, backend).await {
            Ok(archive) => archive,
            Err(why) => return Err(missing(self.install_by_hand(backend, &why), None)),
        };
        match self.releases.installed(&archive, &backend.program) {
            Ok(Some(path)) => {
                let origin = format!("downloaded, {}", shown(&archive));
                Ok((path, origin, archive.release))
            }
            Ok(None) => {
                let why = self.archives.useless(&archive);
                match why.or_else(|| lacking(engine, backend, &archive)) {
                    Some(why) => Err(missing(self.install_by_hand(backend, &why), None)),
                    None => Err(missing(
                        format!(
                            "`{}` is not on this machine yet; {} is downloaded for the first job that needs it",
                            backend.program,
                            shown(&archive)
                        ),
                        Some(archive),
                    )),
                }
            }
            Err(error) => Err(missing(error.to_string(), None)),
        }
    }

    fn install_by_hand(&self, backend: &Backend, why: &str) -> String {
        let by_variable = backend
            .overrides
            .path
            .as_ref()
            .map(|name| format!(", or name it in {name}"));
        format!(
            "`{}` is neither in {}, ~/.local/bin nor on PATH, and {why}; install it there{}",
            backend.program,
            self.models_root.join("bin").display(),
            by_variable.unwrap_or_default()
        )
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
                    archive: None,
                })
            })
    }

    /// Whether every program that an engine cannot do without is there, or is downloaded for its first job.
    pub fn can_serve(&self, engine: &Engine) -> bool {
        self.needed(engine)
            .all(|backend| match self.get(engine, &backend.name) {
                Ok(_) => true,
                Err(missing) => missing.archive.is_some(),
            })
    }

    /// Whether every program that an engine cannot do without is there.
    pub fn is_ready(&self, engine: &Engine) -> bool {
        self.needed(engine)
            .all(|backend| self.get(engine, &backend.name).is_ok())
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
            .map(|(_, state)| (state.program, state.digest))
            .collect()
    }

    /// Programs of an engine that are there, and of which nobody knows what they can do.
    pub fn unasked(&self, engine: &Engine) -> Vec<String> {
        self.present(engine)
            .filter(|(_, state)| state.unasked)
            .map(|(backend, _)| backend.program.clone())
            .collect()
    }

    /// What an engine lacks.
    pub fn missing(&self, engine: &Engine) -> Vec<MissingProgram> {
        named(engine)
            .filter_map(|alternatives| self.get(engine, &alternatives.first()?.name).err())
            .collect()
    }

    fn present<'a>(
        &'a self,
        engine: &'a Engine,
    ) -> impl Iterator<Item = (&'a Backend, ProgramState)> {
        named(engine).filter_map(|alternatives| {
            let backend = alternatives.first().copied()?;
            Some((backend, self.get(engine, &backend.name).ok()?))
        })
    }

    /// The GPU and the memory as they are now.
    pub async fn machine(&self) -> MachineState {
        self.machine.state(&CancellationToken::new()).await
    }
}

/// The backends of an engine by name, in the order declared. Several of one name are several programs for one thing, of
/// which the first that is there is used: a program that its makers renamed, say.
fn named(engine: &Engine) -> impl Iterator<Item = Vec<&Backend>> {
    let backends = &engine.description().backends;
    let is_first = |at: usize, name: &str| !backends.iter().take(at).any(|it| it.name == name);
    backends
        .iter()
        .enumerate()
        .filter(move |(at, backend)| is_first(*at, &backend.name))
        .map(|(_, backend)| {
            backends
                .iter()
                .filter(|it| it.name == backend.name)
                .collect()
        })
}

/// The programs that serve for a backend.
fn names_of<'a>(engine: &'a Engine, backend: &str) -> Vec<&'a str> {
    let backends = engine.description().backends.iter();
    backends
        .filter(|it| it.name == backend)
        .map(|it| it.program.as_str())
        .collect()
}

/// A program that is not to be had now. It may be in a moment (a busy machine let it answer too late), and another worker may
/// have it: this one offers its engine no more while it is missing.
fn failed_for_want_of(missing: MissingProgram) -> Failure {
    Failure {
        message: missing.reason,
        retryable: true,
    }
}

fn failure(program: &str, archive: &Archive, error: &ProvisionError) -> Failure {
    Failure {
        message: format!("{program} ({}): {error}", shown(archive)),
        retryable: error.retryable(),
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
        (None | Some(Ok(_)), Err(missing)) if missing.archive.is_some() => {
            tracing::info!(target: "job", plugin, program = backend.program, "{missing}");
        }
        (None | Some(Ok(_)), Err(missing)) => {
            tracing::warn!(target: "job", plugin, program = backend.program, "not served: {missing}");
        }
        (Some(Err(old)), Err(new)) if old.reason != new.reason => {
            tracing::warn!(target: "job", plugin, program = backend.program, "not served: {new}");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_to_be_had_now_fails_a_job_for_now() {
        let failure = failed_for_want_of(MissingProgram {
            program: "draw".to_owned(),
            reason: "draw does not answer --help within 10 s".to_owned(),
            archive: None,
        });
        assert!(failure.retryable && failure.message.contains("within 10 s"));
    }
}
