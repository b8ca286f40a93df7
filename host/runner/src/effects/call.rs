//! Asking a native server that is kept warm.
//!
//! All that a plugin says of the launch and of the request is checked before a server is looked for. The plugin learns
//! from the outcome alone: `timed-out` says that the time of the call is gone; of `failed`, `retryable` says that the same call
//! may work when it is asked again, its absence that this server is not to be had now, so that the plugin may run the program
//! once per job instead.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use worker_backends::{Clock, gib};
use worker_egress::Answered;
use worker_files::{FileId, JobFiles};
use worker_plugins::contract::{Backend, Call, Entry, Failure, Request, Response, Server};
use worker_servers::{Body, CallError, Holds, Launch, ServerError, ShownFile, check_target};

use super::arguments::{self, KnownOptions, Places};
use super::command::{declared, says_anything, watch};
use super::perform::Tools;
use super::request::{Terms, one_place, prepare, respond};
use super::{Refused, Undone, environment};
use crate::programs::ProgramState;

/// The shortest pause between two of a repeated request. Shorter only keeps the server from its work.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);

pub(super) async fn call(
    tools: &Tools<'_>,
    call: Call,
    files: &JobFiles,
) -> Result<Response, Undone> {
    let rules = &tools.shared.settings.programs;
    rules.check(tools.engine.identity())?;
    let (backend, program) = declared(tools, &call.backend)?;
    let serves = backend.serves.as_ref().ok_or_else(|| Refused::NoServer {
        name: backend.name.clone(),
    })?;
    for (name, value) in &call.environment {
        environment::check(name, value, &tools.engine.grants().environment)?;
    }
    let request = request(tools, &call.request, serves, files).await?;
    let on_cancel = match &call.on_cancel {
        Some(asked) => Some(self::request(tools, asked, serves, files).await?),
        None => None,
    };
    let launch = launch(tools, &call, backend, &program, serves, files)?;
    make_room(tools, Some(&launch)).await;

    let cancel = &tools.reservation.cancel;
    let servers = &tools.shared.servers;
    let lease = servers
        .lease(&launch, tools.job_id.as_str(), request.timeout, cancel)
        .await
        .map_err(|error| no_server(error, request.timeout))?;
    let (inbox, clock) = (lease.lines(), Clock::default());
    let watching = async {
        watch(tools, &backend.name, inbox, &clock).await;
        std::future::pending().await
    };
    let spill = one_place(files);
    let calling = lease.call(&request, on_cancel.as_ref(), &spill, cancel);
    let answer = tokio::select! {
        biased;
        answer = calling => answer,
        never = watching => never,
    };
    Ok(respond(answered(answer.map_err(no_answer)?), files).await?)
}

/// Ends idle servers, the one used longest ago first, until there is memory for the job. The server that is asked, where
/// it is warm already, holds its own.
pub(super) async fn make_room(tools: &Tools<'_>, asked: Option<&Launch>) {
    let servers = &tools.shared.servers;
    if asked.is_some_and(|launch| servers.is_warm(launch)) {
        return;
    }
    let enough = || async {
        let machine = tools.shared.programs.machine().await;
        let free = match machine.gpu {
            Some(gpu) => gpu.free,
            None => machine.host_available,
        };
        // Where nothing can be measured, or the job does not say what it takes, one program at a time.
        let known = tools.vram_gb > 0.0;
        free.is_some_and(|free| known && gib(free) >= f64::from(tools.vram_gb))
    };
    servers.release_memory(asked, enough).await;
}

fn launch(
    tools: &Tools<'_>,
    call: &Call,
    backend: &Backend,
    program: &ProgramState,
    serves: &Server,
    files: &JobFiles,
) -> Result<Launch, Refused> {
    let known = KnownOptions {
        program: &backend.program,
        release: program.release.as_deref(),
        probes: (backend.strict_options && says_anything(&program.probes))
            .then_some(program.probes.as_slice()),
    };
    let mut places = CachedPlaces {
        tools,
        files,
        readable: Vec::new(),
        holds: Holds::default(),
    };
    let args = arguments::build(&call.arguments, &known, &mut places)?;
    let rules = &tools.shared.settings.programs;
    let (identity, readable) = (tools.engine.identity(), places.readable);
    let model = tools.shared.slot.current().map(|job| job.model);
    Ok(Launch {
        plugin: identity.name.clone(),
        plugin_digest: identity.digest.clone(),
        model: model.unwrap_or_default(),
        backend: backend.name.clone(),
        program: backend.program.clone(),
        path: program.path.clone(),
        program_digest: program.digest.clone(),
        library_dir: program.library_dir.clone(),
        args,
        env: call.environment.clone(),
        listen: serves.listen.clone(),
        ready: serves.ready.clone(),
        parallel: serves.parallel,
        start: Duration::from_millis(serves.start_ms.into()),
        // The server's own folder takes the place of the job's.
        sandbox: rules.policy(identity, program, &files.scratch().home(), readable),
        own_network: rules.sandbox,
        limits: rules.limits(),
        holds: places.holds,
    })
}

/// Files of the cache at places that outlive the job.
struct CachedPlaces<'a> {
    tools: &'a Tools<'a>,
    files: &'a JobFiles,
    readable: Vec<PathBuf>,
    /// The files are in use for as long as the server runs.
    holds: Holds,
}

impl CachedPlaces<'_> {
    fn cached(&mut self, id: u32, name: Option<&str>) -> Result<ShownFile, Refused> {
        let entry = self
            .files
            .get(FileId(id))
            .map_err(|_| Refused::NoSuchFile { id })?;
        if !entry.cached {
            return Err(Refused::NotCached { id });
        }
        // Looked at again: it may have been changed since it was fetched.
        let looked_at = self.files.real_paths(&[FileId(id)]);
        looked_at.map_err(|error| Refused::Files(error.to_string()))?;
        self.readable.push(entry.path.clone());
        if let Some(held) = entry.hold() {
            self.holds.add(held);
        }
        Ok(ShownFile {
            name: name.map_or(entry.info.name, str::to_owned),
            path: entry.path,
        })
    }
}

impl Places for CachedPlaces<'_> {
    fn file(&mut self, id: u32) -> Result<OsString, Refused> {
        let cached = self.cached(id, None)?;
        let path = self.tools.shared.servers.shown().file(&cached);
        let path = path.map_err(|error| Refused::Files(error.to_string()))?;
        Ok(path.into_os_string())
    }

    fn output(&mut self, _: u32) -> Result<OsString, Refused> {
        Err(Refused::ServerOutput)
    }

    fn directory(&mut self, entries: &[Entry]) -> Result<OsString, Refused> {
        let mut shown = Vec::with_capacity(entries.len());
        for entry in entries {
            worker_files::check_bare_name(&entry.name)
                .map_err(|_| Refused::file_name(&entry.name))?;
            shown.push(self.cached(entry.file, Some(&entry.name))?);
        }
        let path = self.tools.shared.servers.shown().directory(&shown);
        let path = path.map_err(|error| Refused::Files(error.to_string()))?;
        self.readable.push(path.clone());
        Ok(path.into_os_string())
    }
}

/// A request with everything in it checked.
async fn request(
    tools: &Tools<'_>,
    asked: &Request,
    serves: &Server,
    files: &JobFiles,
) -> Result<worker_servers::Request, Failure> {
    check_target(&asked.target, &serves.routes).map_err(|why| Refused::Target {
        target: shown(&asked.target),
        why,
    })?;
    let terms = Terms {
        timeout: tools.shared.settings.programs.timeout,
        shortest_pause: SHORTEST_PAUSE,
        secret: &|_| Err(Refused::ServerSecret),
    };
    let prepared = prepare(tools, asked, &terms, files).await?;
    Ok(worker_servers::Request {
        headers: prepared.headers.map().clone(),
        method: prepared.method,
        target: asked.target.clone(),
        body: prepared.body,
        timeout: prepared.timeout,
        max_bytes: prepared.max_bytes,
        inline_bytes: prepared.inline_bytes,
        repeat: prepared.repeat,
    })
}

/// What a plugin wrote, for a refusal: short and printable.
fn shown(text: &str) -> String {
    text.chars()
        .take(80)
        .flat_map(char::escape_default)
        .collect()
}

fn answered(answer: worker_servers::Answer) -> Answered {
    Answered {
        status: answer.status,
        headers: answer.headers,
        body: match answer.body {
            Body::Bytes(bytes) => worker_egress::Body::Bytes(bytes),
            Body::File(path) => worker_egress::Body::File(path),
        },
    }
}

/// `time` is what the call had.
fn no_server(error: ServerError, time: Duration) -> Undone {
    let failure = Failure {
        message: error.to_string(),
        retryable: error.is_passing(),
    };
    match error {
        // All of it went by before its turn came.
        ServerError::Late { .. } => Undone::Late(time, failure),
        _ => Undone::Failed(failure),
    }
}

fn no_answer(error: CallError) -> Undone {
    let failure = Failure {
        message: error.to_string(),
        retryable: error.is_passing(),
    };
    match error {
        CallError::TimedOut { limit, .. } => Undone::Late(limit, failure),
        _ => Undone::Failed(failure),
    }
}

#[cfg(test)]
mod tests {
    use worker_plugins::contract::Outcome;

    use super::*;

    /// Whether its turn did not come or its answer did not: the time is gone.
    #[test]
    fn a_call_that_waited_for_its_turn_all_its_time_is_timed_out() {
        let program = || "draws".to_owned();
        let time = Duration::from_millis(700);
        let late = Outcome::from(no_server(ServerError::Late { program: program() }, time));
        assert!(
            matches!(&late, Outcome::TimedOut((700, failure)) if failure.retryable),
            "{late:?}"
        );
        let busy = ServerError::Busy {
            program: program(),
            limit: 16,
        };
        let busy = Outcome::from(no_server(busy, time));
        assert!(
            matches!(&busy, Outcome::Failed(failure) if failure.retryable),
            "{busy:?}"
        );
    }
}
