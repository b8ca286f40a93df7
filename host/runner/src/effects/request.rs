//! Requests as plugins state them, for `http` and for `call`: everything in them checked, and their answers handed back as
//! bytes or as a file of the job. Where a request goes is checked by whoever sends it.

use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use worker_egress::{Answered, Body, ExchangeError, HeaderSet, method};
use worker_files::JobFiles;
use worker_plugins::contract::{Answer, Failure, Header, Request, Response};
use worker_servers::Repeat;

use super::Refused;
use super::perform::{Tools, file, on_disk, too_much};
use crate::finish::part;

/// Longest body of a request, in bytes: it is held in memory.
const MAX_BODY: u64 = 256 << 20;
/// Most values that mean "not yet".
const MAX_PENDING: usize = 32;

/// What a request is made under.
pub(super) struct Terms<'a> {
    /// When the plugin names no time: the whole, repeats included.
    pub(super) timeout: Duration,
    /// The shortest pause between two of a repeated request.
    pub(super) shortest_pause: Duration,
    /// The value of a secret for this place.
    pub(super) secret: &'a (dyn Fn(&str) -> Result<String, Refused> + Sync),
}

/// A request with everything in it checked, but for where it goes.
pub(super) struct Prepared {
    pub(super) method: Method,
    pub(super) headers: HeaderSet,
    pub(super) body: Bytes,
    /// Time for all of it, repeats included.
    pub(super) timeout: Duration,
    /// Longest answer.
    pub(super) max_bytes: u64,
    /// An answer up to this long is brought into the plugin.
    pub(super) inline_bytes: u32,
    pub(super) repeat: Option<Repeat>,
}

/// Checks `request` and puts its body together.
pub(super) async fn prepare(
    tools: &Tools<'_>,
    request: &Request,
    terms: &Terms<'_>,
    files: &JobFiles,
) -> Result<Prepared, Failure> {
    let (inline, inline_limit) = (
        u64::from(request.inline_bytes),
        tools.engine.limits().memory_bytes / 4,
    );
    if inline > inline_limit {
        return Err(too_much(
            "bytes of an answer to bring in",
            inline,
            inline_limit,
        ));
    }
    let method = method(&request.method).map_err(not_answered)?;
    let headers = headers(&request.headers, terms.secret)?;
    let repeat = request.repeat.as_ref();
    let repeat = repeat.map(|asked| check_repeat(asked, terms)).transpose()?;
    let parts: Vec<_> = request.body.iter().cloned().map(part).collect();
    let body = if parts.is_empty() {
        Bytes::new()
    } else {
        files.assemble(&parts, MAX_BODY).await.map_err(on_disk)?
    };
    let longest = tools.shared.settings.programs.timeout;
    let asked = request.timeout_ms.map(Duration::from_millis);
    // What the job holds already counts; an answer that is brought in takes no room on the disk.
    let room = files.room_left().max(inline);
    let largest = tools.shared.settings.files.file_bytes.min(room);
    Ok(Prepared {
        method,
        headers,
        body,
        timeout: asked.unwrap_or(terms.timeout).min(longest),
        max_bytes: request.max_bytes.map_or(largest, |max| max.min(largest)),
        inline_bytes: request.inline_bytes,
        repeat,
    })
}

/// Headers that say nothing of the connection and cannot become two.
fn headers(
    asked: &[(String, Header)],
    secret: &(dyn Fn(&str) -> Result<String, Refused> + Sync),
) -> Result<HeaderSet, Failure> {
    let mut headers = HeaderSet::default();
    for (name, value) in asked {
        match value {
            Header::Text(text) => headers.text(name, text),
            Header::Secret(named) => headers.secret(name, &secret(named)?),
        }
        .map_err(not_answered)?;
    }
    Ok(headers)
}

fn check_repeat(
    asked: &worker_plugins::contract::Repeat,
    terms: &Terms<'_>,
) -> Result<Repeat, Failure> {
    if asked.pending.len() > MAX_PENDING {
        let count = asked.pending.len() as u64;
        return Err(too_much(
            "values that mean pending",
            count,
            MAX_PENDING as u64,
        ));
    }
    Ok(Repeat {
        every: Duration::from_millis(asked.every_ms.into()).max(terms.shortest_pause),
        pointer: asked.pointer.clone(),
        pending: asked.pending.clone(),
    })
}

/// An answer as the plugin gets it.
pub(super) async fn respond(answered: Answered, files: &JobFiles) -> Result<Response, Failure> {
    let body = match answered.body {
        Body::Bytes(bytes) => Answer::Bytes(bytes),
        Body::File(path) => {
            let info = files.adopt(path, "answer").await.map_err(on_disk)?;
            Answer::File(file(info))
        }
    };
    Ok(Response {
        status: answered.status,
        headers: answered.headers,
        body,
    })
}

/// Where long answers go, one after the other: all answers of one effect but the last are removed, and a folder for each would
/// stay.
pub(super) fn one_place(files: &JobFiles) -> impl Fn() -> io::Result<PathBuf> + Sync + '_ {
    let place = OnceLock::new();
    move || {
        if let Some(place) = place.get() {
            return Ok(PathBuf::clone(place));
        }
        let made = files.input_path().map_err(io::Error::other)?;
        Ok(place.get_or_init(|| made).clone())
    }
}

pub(super) fn not_answered(error: ExchangeError) -> Failure {
    Failure {
        message: error.to_string(),
        retryable: error.retryable(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_goes_only_where_it_is_given_out() {
        let asked = [(
            "Authorization".to_owned(),
            Header::Secret("token".to_owned()),
        )];
        let given = headers(&asked, &|name| Ok(format!("value of {name}"))).unwrap();
        assert_eq!(given.map()["authorization"], "value of token");
        let refused = headers(&asked, &|_| Err(Refused::ServerSecret)).unwrap_err();
        assert_eq!(refused, Failure::from(Refused::ServerSecret));
        let two_in_one = [("X-A".to_owned(), Header::Text("b\r\nHost: evil".to_owned()))];
        assert!(headers(&two_in_one, &|_| Ok(String::new())).is_err());
    }
}
