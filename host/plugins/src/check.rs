//! Looks again at what a plugin returned, after it has become the host's own data.
//!
//! The transfer itself is bounded in bytes; here are counts and forms. What a value *means* (whether a file number exists, an address
//! is granted, an option is known) is for whoever acts on it to check.

use crate::contract::{
    Argument, Build, Command, Effect, Failure, Finished, Header, Next, Output, OutputKind, Part,
    Piece, Product, Progress, Rejection, Request,
};
use crate::fault::Fault;
use crate::grants::{Grants, Limits};
use crate::names;

/// The longest JSON document.
const MAX_JSON_BYTES: usize = 4 << 20;
/// Effects asked for at once; a job with more does them in several steps.
const MAX_EFFECTS: usize = 64;
/// Arguments of one command, and the bytes of all of them: a quarter of what the smallest system's `exec` takes.
const MAX_ARGUMENTS: usize = 1_024;
const MAX_ARGUMENT_BYTES: usize = 128 * 1024;
/// Items of any other list of a command or request.
const MAX_ITEMS: usize = 64;
/// Parts of a body or written file; a long animation has a few for each frame.
const MAX_PARTS: usize = 4_096;
/// An address or header.
const MAX_FIELD_BYTES: usize = 8 * 1024;
/// A `data:` URL, whose content lies in it: a whole claim, which is where they come from.
const MAX_DATA_URL_BYTES: usize = 16 << 20;
/// Facts about a finished job.
const MAX_FACTS: usize = 64;
const MAX_FACT_BYTES: usize = 4 * 1024;
/// What a failure or rejection may say: one line that people read.
const MAX_MESSAGE_BYTES: usize = 2 * 1024;
const MAX_NOTE_BYTES: usize = 256;

type Checked = Result<(), Fault>;

fn at_most(what: &str, size: usize, unit: &'static str, limit: usize) -> Checked {
    if size <= limit {
        return Ok(());
    }
    Err(Fault::ReturnedTooLarge {
        what: what.to_owned(),
        size: size as u64,
        unit,
        limit: limit as u64,
    })
}

fn bad<T>(text: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::BadValue(text.into()))
}

/// A JSON document: within its size, valid, and not nested beyond what the host's own parser takes.
pub(crate) fn json(what: &str, text: &str) -> Checked {
    at_most(what, text.len(), "bytes", MAX_JSON_BYTES)?;
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(_) => Ok(()),
        Err(error) => bad(format!("{what} is not valid JSON: {error}")),
    }
}

/// What a plugin says when it fails, fit to be shown.
pub(crate) fn failure(mut failure: Failure) -> Failure {
    failure.message = prose(&failure.message);
    if failure.message.is_empty() {
        failure.message = "the plugin failed without saying why".to_owned();
    }
    failure
}

pub(crate) fn rejection(mut rejection: Rejection) -> Result<Rejection, Fault> {
    let code = &rejection.code;
    let fits = (1..=64).contains(&code.len())
        && code.starts_with(|c: char| c.is_ascii_lowercase())
        && code
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if !fits {
        return bad("it rejected an offer with a code that is not a word in snake_case");
    }
    rejection.reason = prose(&rejection.reason);
    Ok(rejection)
}

pub(crate) fn progress(mut progress: Progress) -> Progress {
    progress.done = progress.done.min(progress.total);
    progress.note = progress
        .note
        .map(|note| names::one_line(&note, MAX_NOTE_BYTES));
    progress
}

/// Line breaks and indentation become spaces, everything else unprintable is escaped.
fn prose(text: &str) -> String {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    if text.chars().any(|c| c.is_ascii_whitespace() && c != ' ') {
        names::one_line(&words.join(" "), MAX_MESSAGE_BYTES)
    } else {
        names::one_line(text, MAX_MESSAGE_BYTES)
    }
}

pub(crate) fn builds(builds: &[Build], grants: &Grants) -> Checked {
    at_most("the list of builds", builds.len(), "entries", MAX_ITEMS)?;
    for build in builds {
        if !grants
            .build_urls
            .iter()
            .any(|prefix| names::is_under(&build.url, prefix))
        {
            return bad(format!(
                "its build for {} {} is downloaded from {}, which lies under none of its granted build-urls",
                names::one_line(&build.os, 32),
                names::one_line(&build.arch, 32),
                names::one_line(&build.url, 256)
            ));
        }
        let digest_fits =
            |digest: &String| digest.len() == 64 && digest.chars().all(|c| c.is_ascii_hexdigit());
        if !build.sha256.as_ref().is_none_or(digest_fits) {
            return bad("a build's sha256 is not 64 hexadecimal digits");
        }
    }
    Ok(())
}

pub(crate) fn product(product: &Product, limits: &Limits) -> Checked {
    match product {
        Product::Media((bytes, _)) => at_most(
            "the product",
            bytes.len(),
            "bytes",
            usize::try_from(limits.returned_bytes).unwrap_or(usize::MAX),
        ),
        Product::Json(text) => json("the product", text),
    }
}

pub(crate) fn next(next: &Next, limits: &Limits) -> Checked {
    match next {
        Next::Perform(effects) if effects.is_empty() => {
            bad("it asks for no effect and does not finish")
        }
        Next::Perform(effects) => {
            at_most("the list of effects", effects.len(), "entries", MAX_EFFECTS)?;
            effects.iter().try_for_each(|wanted| effect(wanted, limits))
        }
        Next::Finish(finished) => finish(finished),
    }
}

fn finish(finished: &Finished) -> Checked {
    at_most(
        "the list of facts",
        finished.facts.len(),
        "entries",
        MAX_FACTS,
    )?;
    for (name, value) in &finished.facts {
        at_most("a fact", name.len() + value.len(), "bytes", MAX_FACT_BYTES)?;
    }
    match &finished.output {
        Output::Json(text) => json("the output", text),
        Output::Media(_) => Ok(()),
    }
}

fn effect(effect: &Effect, limits: &Limits) -> Checked {
    match effect {
        Effect::Fetch(downloads) => {
            at_most(
                "the list of downloads",
                downloads.len(),
                "entries",
                MAX_ITEMS,
            )?;
            downloads.iter().try_for_each(|download| {
                address(&download.url)?;
                optional("a model's name", download.cache_as.as_deref())?;
                optional("a download's digest", download.sha256.as_deref())
            })
        }
        Effect::Run(wanted) => command(wanted),
        Effect::Call(call) => {
            field("a program's name", &call.backend)?;
            arguments(&call.arguments)?;
            environment(&call.environment)?;
            request(&call.request)?;
            call.on_cancel.as_ref().map_or(Ok(()), request)
        }
        Effect::Http(wanted) => request(wanted),
        Effect::Read(range) => {
            let limit = usize::try_from(limits.returned_bytes).unwrap_or(usize::MAX);
            at_most("the range to read", range.length as usize, "bytes", limit)
        }
        Effect::Write((name, parts)) => {
            field("a file's name", name)?;
            body(parts)
        }
        Effect::Wait(_) => Ok(()),
        Effect::Other((name, text)) => {
            field("an effect's name", name)?;
            json("an effect's document", text)
        }
    }
}

fn address(url: &str) -> Checked {
    let scheme = url.get(..5);
    let limit = match scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:")) {
        true => MAX_DATA_URL_BYTES,
        false => MAX_FIELD_BYTES,
    };
    at_most("a download's address", url.len(), "bytes", limit)
}

fn command(command: &Command) -> Checked {
    field("a program's name", &command.backend)?;
    arguments(&command.arguments)?;
    environment(&command.environment)?;
    at_most(
        "the list of outputs",
        command.outputs.len(),
        "entries",
        MAX_ITEMS,
    )?;
    for output in &command.outputs {
        match output {
            OutputKind::File(ext) | OutputKind::Stdout(ext) => field("an extension", ext)?,
            OutputKind::Folder => {}
        }
    }
    body(&command.input)
}

fn arguments(arguments: &[Argument]) -> Checked {
    at_most("the command", arguments.len(), "arguments", MAX_ARGUMENTS)?;
    let mut bytes = 0_usize;
    for argument in arguments {
        let (name, value) = match argument {
            Argument::Flag(name) => (name.as_str(), &[][..]),
            Argument::Setting(setting) => (setting.name.as_str(), setting.value.as_slice()),
            Argument::Positional(value) => ("", value.as_slice()),
        };
        at_most("an argument", value.len(), "pieces", MAX_ITEMS)?;
        bytes = value
            .iter()
            .map(piece_bytes)
            .fold(bytes.saturating_add(name.len()), usize::saturating_add);
    }
    at_most("the command line", bytes, "bytes", MAX_ARGUMENT_BYTES)
}

fn piece_bytes(piece: &Piece) -> usize {
    match piece {
        Piece::Text(text) => text.len(),
        Piece::Directory(entries) => entries.iter().map(|entry| entry.name.len() + 64).sum(),
        Piece::File(_) | Piece::Output(_) => 64,
    }
}

fn environment(environment: &[(String, String)]) -> Checked {
    at_most("the environment", environment.len(), "entries", MAX_ITEMS)?;
    environment.iter().try_for_each(|(name, value)| {
        field("an environment variable's name", name)?;
        field("an environment variable's value", value)
    })
}

fn request(request: &Request) -> Checked {
    field("a request's method", &request.method)?;
    field("a request's target", &request.target)?;
    at_most(
        "the list of headers",
        request.headers.len(),
        "entries",
        MAX_ITEMS,
    )?;
    for (name, value) in &request.headers {
        field("a header's name", name)?;
        match value {
            Header::Text(text) | Header::Secret(text) => field("a header's value", text)?,
        }
    }
    if let Some(repeat) = &request.repeat {
        field("a JSON pointer", &repeat.pointer)?;
        at_most(
            "the list of pending values",
            repeat.pending.len(),
            "entries",
            MAX_ITEMS,
        )?;
        for value in &repeat.pending {
            field("a pending value", value)?;
        }
    }
    body(&request.body)
}

fn body(parts: &[Part]) -> Checked {
    at_most("a body", parts.len(), "parts", MAX_PARTS)
}

fn optional(what: &str, text: Option<&str>) -> Checked {
    text.map_or(Ok(()), |text| field(what, text))
}

fn field(what: &str, text: &str) -> Checked {
    at_most(what, text.len(), "bytes", MAX_FIELD_BYTES)
}

#[cfg(test)]
mod tests;
