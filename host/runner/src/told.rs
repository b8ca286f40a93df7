//! Effects and outcomes as JSON, for the journal, for `plan` and for differences: the bytes that they carry are told by
//! length and digest.
//!
//! As JSON each byte would be a number of its own, and a value in memory for each: a body of some megabytes would take
//! gigabytes. So bytes are taken out before anything is made of the rest, and what they came to is put in their place.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use worker_plugins::contract::{
    Answer, Call, Command, Effect, Media, Outcome, Output, Part, Request, Response,
};

/// Longest run of bytes of an outcome that is told whole: what an engine read decides what it does next, so that it takes
/// part in a replay.
const WHOLE_BYTES: usize = 4 * 1024;

/// An effect as `say` tells it, and the bytes in it by length and digest.
pub(crate) fn effect(effect: &Effect, say: impl Fn(&Effect) -> Value) -> Value {
    let mut told = say(&without_bytes(effect));
    for (place, body) in bodies(effect) {
        if let Some(slot) = told.pointer_mut(place) {
            *slot = body.iter().map(part).collect();
        }
    }
    told
}

/// An outcome as `say` tells it. Bytes are told whole where they are few and `whole`, else as `keep` names them.
pub(crate) fn outcome(
    outcome: &Outcome,
    whole: bool,
    say: impl Fn(&Outcome) -> Value,
    keep: impl Fn(&[u8]) -> Value,
) -> Value {
    let many = |bytes: &Vec<u8>| !whole || bytes.len() > WHOLE_BYTES;
    match outcome {
        Outcome::Bytes(bytes) if many(bytes) => json!({ "Bytes": keep(bytes) }),
        Outcome::Responded(Response {
            status,
            headers,
            body: Answer::Bytes(bytes),
        }) if many(bytes) => {
            let mut told = say(&Outcome::Responded(Response {
                status: *status,
                headers: headers.clone(),
                body: Answer::Bytes(Vec::new()),
            }));
            if let Some(slot) = told.pointer_mut("/Responded/body/Bytes") {
                *slot = keep(bytes);
            }
            told
        }
        other => say(other),
    }
}

/// How many bytes an effect carries, besides texts that are short by contract.
pub(crate) fn carried_by_effect(effect: &Effect) -> usize {
    let parts = bodies(effect).into_iter().flat_map(|(_, parts)| parts);
    let bytes = parts.map(|part| match part {
        Part::Bytes(bytes) => bytes.len(),
        Part::File(_) | Part::Base64(_) => 0,
    });
    let text = match effect {
        Effect::Other((_, text)) => text.len(),
        // A URL is a text, but for one that holds what it speaks of.
        Effect::Fetch(downloads) => downloads.iter().map(|download| download.url.len()).sum(),
        _ => 0,
    };
    bytes.sum::<usize>() + text
}

/// How many bytes an outcome carries, besides texts.
pub(crate) fn carried_by_outcome(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Bytes(bytes)
        | Outcome::Responded(Response {
            body: Answer::Bytes(bytes),
            ..
        }) => bytes.len(),
        _ => 0,
    }
}

/// A product, its bytes by length and digest.
pub(crate) fn output(output: &Output) -> Value {
    match output {
        Output::Media(Media {
            content,
            ext,
            media_type,
        }) => json!({
            "Media": { "content": part(content), "ext": ext, "media_type": media_type }
        }),
        Output::Json(text) => json!({ "Json": text }),
    }
}

/// Which kind of effect it is: the name of its case.
pub(crate) fn kind(effect: &Effect) -> &'static str {
    match effect {
        Effect::Fetch(_) => "Fetch",
        Effect::Run(_) => "Run",
        Effect::Call(_) => "Call",
        Effect::Http(_) => "Http",
        Effect::Read(_) => "Read",
        Effect::Write(_) => "Write",
        Effect::Wait(_) => "Wait",
        Effect::Other(_) => "Other",
    }
}

/// Length and digest.
pub(crate) fn digest_of(bytes: &[u8]) -> Value {
    json!({ "sha256": digest(bytes), "bytes": bytes.len() })
}

/// SHA-256 in hexadecimal.
pub(crate) fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn part(part: &Part) -> Value {
    match part {
        Part::Bytes(bytes) => json!({ "Bytes": digest_of(bytes) }),
        Part::File(id) => json!({ "File": id }),
        Part::Base64(id) => json!({ "Base64": id }),
    }
}

/// Where an effect carries parts, as a JSON pointer, and which.
fn bodies(effect: &Effect) -> Vec<(&'static str, &[Part])> {
    match effect {
        Effect::Write((_, parts)) => vec![("/Write/1", parts)],
        Effect::Run(command) => vec![("/Run/input", &command.input)],
        Effect::Http(request) => vec![("/Http/body", &request.body)],
        Effect::Call(call) => {
            let on_cancel = call.on_cancel.iter();
            std::iter::once(("/Call/request/body", call.request.body.as_slice()))
                .chain(on_cancel.map(|request| ("/Call/on_cancel/body", request.body.as_slice())))
                .collect()
        }
        Effect::Fetch(_) | Effect::Read(_) | Effect::Wait(_) | Effect::Other(_) => Vec::new(),
    }
}

/// The same effect without parts. Every field is named, so that one which joins the contract is thought of here.
fn without_bytes(effect: &Effect) -> Effect {
    match effect {
        Effect::Write((name, _)) => Effect::Write((name.clone(), Vec::new())),
        Effect::Run(Command {
            backend,
            arguments,
            environment,
            outputs,
            input: _,
            timeout_ms,
        }) => Effect::Run(Command {
            backend: backend.clone(),
            arguments: arguments.clone(),
            environment: environment.clone(),
            outputs: outputs.clone(),
            input: Vec::new(),
            timeout_ms: *timeout_ms,
        }),
        Effect::Http(request) => Effect::Http(without_body(request)),
        Effect::Call(Call {
            backend,
            arguments,
            environment,
            request,
            on_cancel,
        }) => Effect::Call(Call {
            backend: backend.clone(),
            arguments: arguments.clone(),
            environment: environment.clone(),
            request: without_body(request),
            on_cancel: on_cancel.as_ref().map(without_body),
        }),
        Effect::Fetch(_) | Effect::Read(_) | Effect::Wait(_) | Effect::Other(_) => effect.clone(),
    }
}

fn without_body(request: &Request) -> Request {
    let Request {
        method,
        target,
        headers,
        body: _,
        timeout_ms,
        max_bytes,
        inline_bytes,
        repeat,
    } = request;
    Request {
        method: method.clone(),
        target: target.clone(),
        headers: headers.clone(),
        body: Vec::new(),
        timeout_ms: *timeout_ms,
        max_bytes: *max_bytes,
        inline_bytes: *inline_bytes,
        repeat: repeat.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: Vec<u8>) -> Request {
        Request {
            method: "POST".to_owned(),
            target: "https://host/".to_owned(),
            headers: Vec::new(),
            body: vec![Part::Bytes(body), Part::File(3)],
            timeout_ms: None,
            max_bytes: None,
            inline_bytes: 0,
            repeat: None,
        }
    }

    fn effects(body: &[u8]) -> Vec<Effect> {
        let command = Command {
            backend: "b".to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            outputs: Vec::new(),
            input: vec![Part::Bytes(body.to_vec())],
            timeout_ms: None,
        };
        vec![
            Effect::Write(("n".to_owned(), vec![Part::Bytes(body.to_vec())])),
            Effect::Run(command),
            Effect::Http(request(body.to_vec())),
            Effect::Call(Call {
                backend: "b".to_owned(),
                arguments: Vec::new(),
                environment: Vec::new(),
                request: request(body.to_vec()),
                on_cancel: Some(request(body.to_vec())),
            }),
        ]
    }

    fn plainly<T: serde::Serialize>(value: &T) -> Value {
        serde_json::to_value(value).unwrap()
    }

    /// The most memory that this process ever had, in bytes.
    #[cfg(target_os = "linux")]
    fn most_memory() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let kib = line.unwrap().split_whitespace().nth(1).unwrap();
        kib.parse::<u64>().unwrap() * 1024
    }

    #[test]
    fn bytes_are_told_by_length_and_digest_wherever_an_effect_carries_them() {
        for asked in effects(b"koi") {
            let told = effect(&asked, plainly);
            let mut whole = plainly(&asked);
            for (place, body) in bodies(&asked) {
                assert_eq!(
                    told.pointer(place).unwrap()[0],
                    json!({ "Bytes": digest_of(b"koi") }),
                    "{told}"
                );
                *whole.pointer_mut(place).unwrap() = body.iter().map(part).collect();
            }
            assert_eq!(told, whole, "the rest is told as it is");
            let name = told.as_object().unwrap().keys().next().unwrap().clone();
            assert_eq!(name, kind(&asked));
        }
    }

    #[test]
    fn an_answer_is_told_whole_where_it_is_short() {
        let answer = |bytes: Vec<u8>| {
            Outcome::Responded(Response {
                status: 200,
                headers: Vec::new(),
                body: Answer::Bytes(bytes),
            })
        };
        let told = |one: &Outcome, whole| outcome(one, whole, plainly, digest_of);
        let short = answer(b"koi".to_vec());
        assert_eq!(told(&short, true), plainly(&short));
        assert_eq!(
            told(&short, false)["Responded"]["body"]["Bytes"]["bytes"],
            3
        );
        let long = answer(vec![7; WHOLE_BYTES + 1]);
        assert_eq!(
            told(&long, true)["Responded"]["body"]["Bytes"],
            digest_of(&vec![7; WHOLE_BYTES + 1])
        );
    }

    /// A number for each byte would take some seventy bytes of memory each.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_large_body_takes_no_memory_to_tell() {
        const BODY: usize = 16 << 20;
        let body = vec![7_u8; BODY];
        let asked = effects(&body);
        let answer = Outcome::Responded(Response {
            status: 200,
            headers: Vec::new(),
            body: Answer::Bytes(body.clone()),
        });
        let product = Output::Media(Media {
            content: Part::Bytes(body),
            ext: "webp".to_owned(),
            media_type: None,
        });
        let before = most_memory();
        let mut told: Vec<Value> = asked.iter().map(|one| effect(one, plainly)).collect();
        told.push(outcome(&answer, true, plainly, digest_of));
        told.push(output(&product));
        let grown = most_memory().saturating_sub(before);
        assert!(grown < 4 * BODY as u64, "{} MiB", grown >> 20);
        for one in told {
            assert!(one.to_string().len() < 2000, "{one}");
        }
    }
}
