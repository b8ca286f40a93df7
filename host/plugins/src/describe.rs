//! Checks what a plugin says about itself: sensible, bounded, and nothing beyond its grants.

use crate::contract::{Backend, Description, Server, SupportedKind};
use crate::grants::Grants;
use crate::names;
use crate::refusal::{Broken, Rule};

/// Engine names and kinds of one plugin; the studio gets them all with each heartbeat.
const MAX_ENGINES: usize = 16;
const MAX_KINDS: usize = 32;
const MAX_MODELS: usize = 256;
const MAX_BACKENDS: usize = 16;
const MAX_PROBES: usize = 8;
const MAX_PROBE_ARGUMENTS: usize = 16;
const MAX_ROUTES: usize = 64;
const MAX_EXTENSIONS: usize = 64;
const MAX_WORD: usize = 64;
const MAX_TEXT: usize = 256;
/// Variables through which an operator points at a program, a release or an archive have this prefix, so that a plugin cannot take the
/// meaning of some other program's (`SHELL`, say) for its own.
const OVERRIDE_PREFIX: &str = "STUDIO_WORKER_";

type Checked = Result<(), Broken>;

pub(crate) fn description(description: &Description, grants: &Grants) -> Checked {
    words("engine", &description.engines, 1, MAX_ENGINES, is_word)?;
    if description.kinds.is_empty() {
        return wrong("describes no kind that it serves");
    }
    count("kinds", description.kinds.len(), MAX_KINDS)?;
    for (at, kind) in description.kinds.iter().enumerate() {
        supported(kind)?;
        if description
            .kinds
            .iter()
            .take(at)
            .any(|other| other.kind == kind.kind)
        {
            return wrong(format!("describes the kind `{}` twice", kind.kind));
        }
    }
    count("backends", description.backends.len(), MAX_BACKENDS)?;
    for (at, one) in description.backends.iter().enumerate() {
        backend(one, grants)?;
        if description
            .backends
            .iter()
            .take(at)
            .any(|other| other.name == one.name && !is_alternative(other, one))
        {
            return wrong(format!("describes the backend `{}` twice", one.name));
        }
    }
    Ok(())
}

/// Whether two of one name are two programs for one thing: the first that is there is used.
fn is_alternative(one: &Backend, other: &Backend) -> bool {
    one.program != other.program
        && one.optional == other.optional
        && one.serves.is_some() == other.serves.is_some()
}

fn supported(kind: &SupportedKind) -> Checked {
    if !is_word(&kind.kind) {
        return wrong(format!(
            "describes the kind `{}`, which is no wire name",
            names::one_line(&kind.kind, MAX_WORD)
        ));
    }
    words("model", &kind.models, 0, MAX_MODELS, is_text)
}

fn backend(backend: &Backend, grants: &Grants) -> Checked {
    let name = names::one_line(&backend.name, MAX_WORD);
    if !names::is_program(&backend.name) {
        return wrong(format!("describes a backend with the name `{name}`"));
    }
    if names::is_interpreter(&backend.program) {
        return wrong(format!(
            "its backend `{name}` is a shell or interpreter; no plugin gets one"
        ));
    }
    if !grants.programs.contains(&backend.program) {
        return wrong(format!(
            "its backend `{name}` is the program `{}`, which its own grants section does not ask for",
            names::one_line(&backend.program, MAX_WORD)
        ));
    }
    if backend
        .release
        .as_deref()
        .is_some_and(|release| !is_release(release))
    {
        return wrong(format!(
            "the release of its backend `{name}` is not a plain word"
        ));
    }
    let overrides = &backend.overrides;
    for variable in [&overrides.path, &overrides.release, &overrides.url]
        .into_iter()
        .flatten()
    {
        let fits = names::is_variable(variable) && variable.starts_with(OVERRIDE_PREFIX);
        if !fits && !grants.environment.contains(variable) {
            return wrong(format!(
                "its backend `{name}` is overridden by `{}`; such a variable begins with {OVERRIDE_PREFIX}",
                names::one_line(variable, MAX_WORD)
            ));
        }
    }
    count("probes", backend.probes.len(), MAX_PROBES)?;
    for probe in &backend.probes {
        words("probe argument", probe, 0, MAX_PROBE_ARGUMENTS, is_text)?;
    }
    backend
        .serves
        .as_ref()
        .map_or(Ok(()), |serves| server(&name, serves))
}

fn server(name: &str, server: &Server) -> Checked {
    words(
        "listen option",
        &server.listen,
        0,
        MAX_PROBE_ARGUMENTS,
        is_text,
    )?;
    words("route", &server.routes, 0, MAX_ROUTES, is_path)?;
    if !is_path(&server.ready) {
        return wrong(format!("its server `{name}` is ready at no path"));
    }
    if !(1..=64).contains(&server.parallel) || !(1..=3_600_000).contains(&server.start_ms) {
        return wrong(format!(
            "its server `{name}` takes no number of requests, or no time to start, that makes sense"
        ));
    }
    Ok(())
}

/// Extensions that a finisher accepts, with the largest product of each.
pub(crate) fn accepts(accepted: &[(String, u64)]) -> Checked {
    count("extensions", accepted.len(), MAX_EXTENSIONS)?;
    for (at, (extension, most)) in accepted.iter().enumerate() {
        let fits = (1..=16).contains(&extension.len())
            && extension
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        if !fits || *most == 0 {
            return wrong(format!(
                "accepts `{}`, which is no file extension or has no size",
                names::one_line(extension, MAX_WORD)
            ));
        }
        if accepted
            .iter()
            .take(at)
            .any(|(other, _)| other == extension)
        {
            return wrong(format!("accepts `{extension}` twice"));
        }
    }
    Ok(())
}

fn words(
    what: &str,
    items: &[String],
    least: usize,
    most: usize,
    fits: fn(&str) -> bool,
) -> Checked {
    if items.len() < least {
        return wrong(format!("describes no {what}"));
    }
    count(what, items.len(), most)?;
    match items.iter().find(|item| !fits(item)) {
        Some(item) => wrong(format!(
            "describes the {what} `{}`, which is none",
            names::one_line(item, MAX_WORD)
        )),
        None => Ok(()),
    }
}

fn count(what: &str, found: usize, most: usize) -> Checked {
    if found > most {
        return wrong(format!(
            "describes {found} of `{what}`; at most {most} are taken"
        ));
    }
    Ok(())
}

fn wrong<T>(detail: impl Into<String>) -> Result<T, Broken> {
    Err(Rule::Description.broken(detail))
}

fn is_word(text: &str) -> bool {
    (1..=MAX_WORD).contains(&text.len())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':'))
}

fn is_release(text: &str) -> bool {
    is_word(text) && !text.starts_with('.') && !text.contains(':')
}

fn is_text(text: &str) -> bool {
    (1..=MAX_TEXT).contains(&text.len()) && names::one_line(text, MAX_TEXT) == text
}

fn is_path(text: &str) -> bool {
    is_text(text) && text.starts_with('/') && !text.split('/').any(|part| part == "..")
}

#[cfg(test)]
mod tests;
