//! Asking a native server that is kept warm.
//!
//! All that a plugin says of the launch and of the request is checked before a server is looked for. The plugin learns
//! from `failed` alone: `retryable` says that the same call may work when it is asked again, its absence that this server
//! is not to be had now, so that the plugin may run the program once per job instead.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use worker_backends::{Clock, gib};
use worker_files::{FileId, JobFiles};
use worker_plugins::contract::{self, Backend, Call, Entry, Failure, Header, Response, Server};
use worker_servers::{Body, CallError, Launch, Repeat, ServerError, ShownFile, check_target};

use super::arguments::{self, KnownOptions, Places};
use super::command::{declared, says_anything, watch};
use super::perform::{Tools, file, on_disk, too_much};
use super::{Refused, environment};
use crate::finish::part;
use crate::programs::ProgramState;

/// Longest body of a request, in bytes: it is held in memory.
const MAX_BODY: u64 = 256 << 20;

/// Most headers of a request, and most bytes of all of them.
const MAX_HEADERS: usize = 64;
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// The shortest pause between two of a repeated request. Shorter only keeps the server from its work.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);

/// Most values that mean "not yet".
const MAX_PENDING: usize = 32;

/// Headers that are the connection's, and so ours.
const OURS: [&str; 12] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

pub(super) async fn call(
    tools: &Tools<'_>,
    call: Call,
    files: &JobFiles,
) -> Result<Response, Failure> {
    let (backend, program) = declared(tools, &call.backend)?;
    let serves = backend.serves.as_ref().ok_or_else(|| Refused::NoServer {
        name: backend.name.clone(),
    })?;
    tools
        .shared
        .settings
        .programs
        .check(tools.engine.identity())?;
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
        .map_err(no_server)?;
    let (inbox, clock) = (lease.lines(), Clock::default());
    let watching = async {
        watch(tools, &backend.name, inbox, &clock).await;
        std::future::pending().await
    };
    let spill = || files.input_path().map_err(io::Error::other);
    let calling = lease.call(&request, on_cancel.as_ref(), &spill, cancel);
    let answer = tokio::select! {
        biased;
        answer = calling => answer,
        never = watching => never,
    };
    respond(answer.map_err(no_answer)?, files).await
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
        limits: rules.limits(),
    })
}

/// Files of the cache at places that outlive the job.
struct CachedPlaces<'a> {
    tools: &'a Tools<'a>,
    files: &'a JobFiles,
    readable: Vec<PathBuf>,
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
        self.readable.push(entry.path.clone());
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
            worker_files::check_bare_name(&entry.name).map_err(|_| Refused::FileName {
                name: entry.name.clone(),
            })?;
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
    asked: &contract::Request,
    serves: &Server,
    files: &JobFiles,
) -> Result<worker_servers::Request, Failure> {
    check_target(&asked.target, &serves.routes).map_err(|why| Refused::Target {
        target: shown(&asked.target),
        why,
    })?;
    let inline_limit = tools.engine.limits().memory_bytes / 4;
    if u64::from(asked.inline_bytes) > inline_limit {
        return Err(too_much(
            "bytes of an answer to bring in",
            asked.inline_bytes.into(),
            inline_limit,
        ));
    }
    let parts: Vec<_> = asked.body.iter().cloned().map(part).collect();
    let body = if parts.is_empty() {
        Bytes::new()
    } else {
        files.assemble(&parts, MAX_BODY).await.map_err(on_disk)?
    };
    let longest = tools.shared.settings.programs.timeout;
    let largest = tools.shared.settings.files.file_bytes;
    Ok(worker_servers::Request {
        method: method(&asked.method)?,
        target: asked.target.clone(),
        headers: headers(&asked.headers)?,
        body,
        timeout: asked
            .timeout_ms
            .map_or(longest, |ms| Duration::from_millis(ms).min(longest)),
        max_bytes: asked.max_bytes.map_or(largest, |max| max.min(largest)),
        inline_bytes: asked.inline_bytes,
        repeat: asked.repeat.as_ref().map(repeat).transpose()?,
    })
}

fn repeat(asked: &contract::Repeat) -> Result<Repeat, Refused> {
    if asked.pending.len() > MAX_PENDING {
        return Err(Refused::TooMuch {
            what: "values that mean pending",
            asked: asked.pending.len() as u64,
            limit: MAX_PENDING as u64,
        });
    }
    Ok(Repeat {
        every: Duration::from_millis(asked.every_ms.into()).max(SHORTEST_PAUSE),
        pointer: asked.pointer.clone(),
        pending: asked.pending.clone(),
    })
}

fn method(name: &str) -> Result<Method, Refused> {
    let known = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::HEAD,
        Method::OPTIONS,
    ];
    let found = known.into_iter().find(|method| method.as_str() == name);
    found.ok_or_else(|| Refused::Method {
        method: shown(name),
    })
}

/// Headers that say nothing of the connection and cannot become two.
fn headers(asked: &[(String, Header)]) -> Result<HeaderMap, Refused> {
    let bytes: usize = asked
        .iter()
        .map(|(name, value)| match value {
            Header::Text(text) => name.len() + text.len(),
            Header::Secret(_) => name.len(),
        })
        .sum();
    if asked.len() > MAX_HEADERS || bytes > MAX_HEADER_BYTES {
        return Err(Refused::TooMuch {
            what: "bytes of headers, or headers",
            asked: bytes.max(asked.len()) as u64,
            limit: MAX_HEADER_BYTES as u64,
        });
    }
    let mut headers = HeaderMap::new();
    for (name, value) in asked {
        let refused = |why| Refused::Header {
            name: shown(name),
            why,
        };
        let parsed = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| refused("has a name that no header can have"))?;
        if OURS.contains(&parsed.as_str()) {
            return Err(refused("is the host's to set"));
        }
        let Header::Text(text) = value else {
            return Err(refused(
                "is a secret; secrets are for the hosts that they are bound to, never for a server",
            ));
        };
        let plain = text
            .bytes()
            .all(|byte| byte == b' ' || byte.is_ascii_graphic());
        let value = HeaderValue::from_str(text)
            .ok()
            .filter(|_| plain)
            .ok_or_else(|| {
                refused("has a value with a line end or another character beyond printable ASCII")
            })?;
        headers.append(parsed, value);
    }
    Ok(headers)
}

/// What a plugin wrote, for a refusal: short and printable.
fn shown(text: &str) -> String {
    text.chars()
        .take(80)
        .flat_map(char::escape_default)
        .collect()
}

async fn respond(answer: worker_servers::Answer, files: &JobFiles) -> Result<Response, Failure> {
    let body = match answer.body {
        Body::Bytes(bytes) => contract::Answer::Bytes(bytes),
        Body::File(path) => {
            let info = files.adopt(path, "answer").await.map_err(on_disk)?;
            contract::Answer::File(file(info))
        }
    };
    Ok(Response {
        status: answer.status,
        headers: answer.headers,
        body,
    })
}

fn no_server(error: ServerError) -> Failure {
    Failure {
        message: error.to_string(),
        retryable: error.is_passing(),
    }
}

fn no_answer(error: CallError) -> Failure {
    Failure {
        message: error.to_string(),
        retryable: error.is_passing(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_cannot_become_two_nor_speak_for_the_connection() {
        let text = |value: &str| Header::Text(value.to_owned());
        let rows = [
            ("Host", text("evil")),
            ("content-length", text("0")),
            ("Transfer-Encoding", text("chunked")),
            ("Connection", text("keep-alive")),
            ("Upgrade", text("websocket")),
            ("X-A\r\nHost", text("evil")),
            ("X A", text("b")),
            ("", text("b")),
            ("X-A", text("b\r\nHost: evil")),
            ("X-A", text("b\nc")),
            ("X-A", text("b\0")),
            ("X-A", text("é")),
            ("Authorization", Header::Secret("token".to_owned())),
        ];
        for (name, value) in rows {
            let refused = headers(&[(name.to_owned(), value.clone())]);
            assert!(
                matches!(refused, Err(Refused::Header { .. })),
                "{name}: {value:?}"
            );
        }
        let fine = headers(&[("Accept".to_owned(), text("image/png, */*"))]).unwrap();
        assert_eq!(fine["accept"], "image/png, */*");
        let many: Vec<_> = (0..65).map(|n| (format!("x-{n}"), text("y"))).collect();
        assert!(matches!(headers(&many), Err(Refused::TooMuch { .. })));
    }

    #[test]
    fn only_known_methods_are_sent() {
        assert_eq!(method("POST"), Ok(Method::POST));
        for bad in ["post", "CONNECT", "TRACE", "GET /x HTTP/1.1\r\nX:", ""] {
            assert!(matches!(method(bad), Err(Refused::Method { .. })), "{bad}");
        }
    }
}
