//! Running a native program as a plugin asked, after everything it asked for has been checked.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;
use worker_backends::{Clock, Invocation, RunError, Stdin};
use worker_files::{CommandFiles, FileId, JobFiles, remove_tree};
use worker_plugins::contract::{self, Backend, Command, Entry, Exit, Failure, OutputKind};
use worker_wire::{Extension, WorkerFrame};

use super::arguments::{self, KnownOptions, Places};
use super::perform::{Tools, file, on_disk, too_much};
use super::rules::over_limit;
use super::{Refused, environment};
use crate::finish::part;
use crate::programs::ProgramState;

/// Most outputs of one command.
const MAX_OUTPUTS: usize = 64;

/// Batches of lines waiting for the plugin to read its program's progress. Lines beyond are dropped: progress is
/// for looking at, and must not slow the program down.
const LINE_BATCHES: usize = 16;

pub(super) async fn run(
    tools: &Tools<'_>,
    command: Command,
    files: &JobFiles,
) -> Result<Exit, Failure> {
    let rules = &tools.shared.settings.programs;
    rules.check(tools.engine.identity())?;
    let (backend, program) = declared(tools, &command.backend)?;
    for (name, value) in &command.environment {
        environment::check(name, value, &tools.engine.grants().environment)?;
    }
    let place = files
        .prepare_outputs(&output_kinds(&command.outputs)?)
        .map_err(on_disk)?;
    let known = KnownOptions {
        program: &backend.program,
        release: program.release.as_deref(),
        probes: (backend.strict_options && says_anything(&program.probes))
            .then_some(program.probes.as_slice()),
    };
    let mut places = JobPlaces {
        files,
        place: &place,
        outputs: &command.outputs,
        readable: Vec::new(),
    };
    let args = arguments::build(&command.arguments, &known, &mut places)?;
    let stdin = stdin(command.input, files).await?;
    let timeout = command.timeout_ms.map_or(rules.timeout, |ms| {
        Duration::from_millis(ms).min(rules.timeout)
    });
    let mut readable = places.readable;
    if let Some(Stdin::File(path)) = &stdin {
        readable.push(path.clone());
    }
    let home = files.scratch().home();
    let sandbox = rules.policy(tools.engine.identity(), &program, place.dir(), readable);
    let cache = sandbox.as_ref().and_then(|policy| policy.cache_dir.clone());
    let written = [place.dir().to_owned(), home.clone()];
    let invocation = Invocation {
        env: command.environment,
        home,
        stdin,
        stdout_to: place.stdout().map(Path::to_owned),
        library_dir: program.library_dir.clone(),
        limits: rules.limits(),
        written: written.into_iter().chain(cache.clone()).collect(),
        sandbox,
        ..Invocation::new(program.path.clone(), args, place.dir().to_owned(), timeout)
    };
    super::call::make_room(tools, None).await;
    let (lines, inbox) = mpsc::channel(LINE_BATCHES);
    let watching = watch(tools, &backend.name, inbox, &invocation.progress);
    let running = worker_backends::run(&invocation, lines, &tools.reservation.cancel);
    let (ended, ()) = tokio::join!(running, watching);
    let ended = ended.map_err(not_run)?;
    if let Some(failure) = over_limit(&backend.program, &ended, &invocation.limits) {
        if let (true, Some(cache)) = (ended.too_much_disk, cache) {
            // What it wrote there would be held against its next run.
            let _ = tokio::task::spawn_blocking(move || remove_tree(&cache)).await;
        }
        return Err(failure);
    }
    collect(ended, &place, files).await
}

/// A program that answers its probes with nothing cannot be held against any option.
pub(super) fn says_anything(probes: &[String]) -> bool {
    probes.iter().any(|text| !text.trim().is_empty())
}

pub(super) fn declared<'a>(
    tools: &'a Tools<'_>,
    name: &str,
) -> Result<(&'a Backend, ProgramState), Refused> {
    let backends = &tools.engine.description().backends;
    let of_name = |backend: &&Backend| backend.name == name;
    let backend = backends.iter().find(of_name);
    let backend = backend.ok_or_else(|| Refused::UndeclaredBackend {
        name: name.chars().take(64).collect(),
    })?;
    match tools.shared.programs.get(tools.engine, name) {
        Ok(program) => {
            let mut alternatives = backends.iter().filter(of_name);
            let chosen = alternatives.find(|it| it.program == program.program);
            Ok((chosen.unwrap_or(backend), program))
        }
        Err(missing) => Err(Refused::MissingProgram {
            name: backend.program.clone(),
            help: missing.to_string(),
        }),
    }
}

/// The outputs as the job's files keep them; extensions are checked here, where the refusal can say what was asked.
fn output_kinds(outputs: &[OutputKind]) -> Result<Vec<worker_files::OutputKind>, Failure> {
    if outputs.len() > MAX_OUTPUTS {
        return Err(too_much(
            "outputs of one command",
            outputs.len() as u64,
            MAX_OUTPUTS as u64,
        ));
    }
    let checked = |extension: &String| match worker_files::check_extension(extension) {
        Ok(()) => Ok(extension.clone()),
        Err(_) => Err(Refused::Extension {
            extension: extension.chars().take(64).collect(),
        }),
    };
    let kind = |kind: &OutputKind| {
        Ok(match kind {
            OutputKind::File(extension) => worker_files::OutputKind::File(checked(extension)?),
            OutputKind::Folder => worker_files::OutputKind::Folder,
            OutputKind::Stdout(extension) => worker_files::OutputKind::Stdout(checked(extension)?),
        })
    };
    outputs
        .iter()
        .map(kind)
        .collect::<Result<_, Refused>>()
        .map_err(Failure::from)
}

struct JobPlaces<'a> {
    files: &'a JobFiles,
    place: &'a CommandFiles,
    outputs: &'a [OutputKind],
    /// What the command names, and nothing else, is opened to the program.
    readable: Vec<PathBuf>,
}

impl Places for JobPlaces<'_> {
    fn file(&mut self, id: u32) -> Result<OsString, Refused> {
        self.files
            .get(FileId(id))
            .map_err(|_| Refused::NoSuchFile { id })?;
        let path = self
            .files
            .program_path(FileId(id))
            .map_err(|error| Refused::Files(error.to_string()))?;
        self.readable.push(path.clone());
        Ok(path.into_os_string())
    }

    fn output(&mut self, index: u32) -> Result<OsString, Refused> {
        let at = usize::try_from(index).unwrap_or(usize::MAX);
        match (self.place.output(at), at < self.outputs.len()) {
            // By its bare name, in the directory that the program runs in: a folder that the operator chose may hold
            // characters which a program reads more into than a path.
            (Some(path), _) => Ok(path
                .strip_prefix(self.place.dir())
                .unwrap_or(path)
                .as_os_str()
                .to_owned()),
            (None, true) => Err(Refused::OutputWithoutPath { index }),
            (None, false) => Err(Refused::NoSuchOutput {
                index,
                count: self.outputs.len(),
            }),
        }
    }

    fn directory(&mut self, entries: &[Entry]) -> Result<OsString, Refused> {
        for entry in entries {
            worker_files::check_bare_name(&entry.name)
                .map_err(|_| Refused::file_name(&entry.name))?;
            self.files
                .get(FileId(entry.file))
                .map_err(|_| Refused::NoSuchFile { id: entry.file })?;
        }
        let shown: Vec<(String, FileId)> = entries
            .iter()
            .map(|entry| (entry.name.clone(), FileId(entry.file)))
            .collect();
        let path = self
            .files
            .show_directory(&shown)
            .map_err(|error| Refused::Files(error.to_string()))?;
        // The folder, and where its links lead.
        let shown = shown.iter().map(|(name, _)| path.join(name));
        self.readable.extend(shown);
        self.readable.push(path.clone());
        Ok(path.into_os_string())
    }
}

async fn stdin(input: Vec<contract::Part>, files: &JobFiles) -> Result<Option<Stdin>, Failure> {
    if input.is_empty() {
        return Ok(None);
    }
    let parts: Vec<_> = input.into_iter().map(part).collect();
    let info = files.write("stdin", &parts).await.map_err(on_disk)?;
    Ok(Some(Stdin::File(files.get(info.id).map_err(on_disk)?.path)))
}

/// A run that came to nothing.
fn not_run(error: RunError) -> Failure {
    Failure {
        message: error.to_string(),
        retryable: error.is_passing(),
    }
}

/// Lets the plugin read what its program prints, and passes on how far it is.
pub(super) async fn watch(
    tools: &Tools<'_>,
    backend: &str,
    mut inbox: mpsc::Receiver<Vec<String>>,
    clock: &Clock,
) {
    let mut state = 0;
    let mut last = None;
    while let Some(lines) = inbox.recv().await {
        let (next, progress) = match tools.engine.read_progress(backend, state, lines).await {
            Ok(read) => read,
            Err(fault) => {
                // Progress is for looking at: the job goes on without it.
                tools.shared.reporter.warn(
                    Some(tools.job_id),
                    format!("no more progress is shown: {fault}"),
                );
                inbox.close();
                return;
            }
        };
        state = next;
        let Some(progress) = progress else { continue };
        if last != Some((progress.done, progress.total)) {
            last = Some((progress.done, progress.total));
            clock.now();
        }
        if tools.link.speaks(Extension::Progress) {
            tools.link.offer(WorkerFrame::Progress {
                job_id: tools.job_id.to_string(),
                done: progress.done,
                total: progress.total,
                note: progress.note.clone(),
            });
        }
        tools.reservation.progress(progress);
    }
}

async fn collect(
    ended: worker_backends::Exit,
    place: &CommandFiles,
    files: &JobFiles,
) -> Result<Exit, Failure> {
    let collected = files.collect(place).await.map_err(on_disk)?;
    let outputs = collected
        .outputs
        .into_iter()
        .map(|found| found.into_iter().map(file).collect())
        .collect();
    Ok(Exit {
        code: ended.code,
        signal: ended.signal,
        timed_out: ended.timed_out,
        out_of_memory: ended.out_of_memory,
        stdout_tail: ended.stdout_tail,
        stderr_tail: ended.stderr_tail,
        wall_ms: u64::try_from(ended.wall.as_millis()).unwrap_or(u64::MAX),
        outputs,
        extra: collected.extra.into_iter().map(file).collect(),
    })
}
