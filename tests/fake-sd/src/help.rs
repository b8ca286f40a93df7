//! The text of `--help`, made from the flag table.

use std::fmt::Write as _;

use crate::flags::{Flag, Group, Program, TABLE, Value};
use crate::release::Release;

/// Column at which descriptions begin.
const COLUMN: usize = 45;

/// The whole help of a release.
pub(crate) fn text(program: Program, release: Release) -> String {
    let mut out = format!("usage: {} [options]\n", program.name());
    for (group, title) in [
        (Group::Cli, "CLI Options:"),
        (Group::Server, "Svr Options:"),
        (Group::Context, "Context Options:"),
        (Group::Generation, "Generation Options:"),
    ] {
        let _ = write!(out, "\n{title}\n");
        for flag in TABLE
            .iter()
            .filter(|flag| flag.group == group && flag.exists_in(release) && flag.is_of(program))
        {
            line(&mut out, flag, release);
        }
    }
    out
}

fn line(out: &mut String, flag: &Flag, release: Release) {
    let short = flag
        .short
        .map(|short| format!("{short}, "))
        .unwrap_or_default();
    let value = match flag.value {
        Value::Text => " <string>",
        Value::Int => " <int>",
        Value::Float => " <float>",
        Value::None | Value::Word(_) => "",
    };
    let names = format!("  {short}{}{value}", flag.long);
    let _ = write!(out, "{names:COLUMN$}{}", flag.help);
    if let Value::Word(words) = flag.value {
        let _ = write!(out, ", one of [{}]", known_words(words, release).join(", "));
    }
    out.push('\n');
}

/// The words of an option that a release knows.
pub(crate) fn known_words(words: &[(&'static str, u32)], release: Release) -> Vec<&'static str> {
    words
        .iter()
        .filter(|(_, from)| *from <= release.0)
        .map(|(word, _)| *word)
        .collect()
}
