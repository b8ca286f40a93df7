//! From a plugin's arguments to the words of a command line.
//!
//! A plugin never learns a path: a file, an output and a directory are tokens, and the path takes their place
//! here. An option is named as one and checked against what the program's own help knows, so a flag that a
//! release dropped is said before anything is spawned.

use std::ffi::OsString;

use worker_plugins::contract::{Argument, Entry, Piece};

use super::Refused;

/// Most arguments of one command; the limits table says more about it.
pub(super) const MAX_ARGUMENTS: usize = 1024;

/// Most bytes of all arguments of one command.
pub(super) const MAX_ARGUMENT_BYTES: usize = 128 * 1024;

/// Longest name of an option.
const MAX_OPTION_NAME: usize = 128;

/// What the pieces of an argument stand for, in one job and one command.
pub(super) trait Places {
    /// Path of a file of the job.
    fn file(&mut self, id: u32) -> Result<OsString, Refused>;
    /// Path that the n-th output is to be written to.
    fn output(&mut self, index: u32) -> Result<OsString, Refused>;
    /// Path of a directory that shows just these files.
    fn directory(&mut self, entries: &[Entry]) -> Result<OsString, Refused>;
}

/// What a program says of its own options.
pub(super) struct KnownOptions<'a> {
    /// Name to show in a refusal.
    pub(super) program: &'a str,
    /// Release to show in a refusal.
    pub(super) release: Option<&'a str>,
    /// The probes' text; none where options are not checked.
    pub(super) probes: Option<&'a [String]>,
}

impl KnownOptions<'_> {
    fn check(&self, option: &str) -> Result<(), Refused> {
        let sound = option.len() > 1
            && option.len() <= MAX_OPTION_NAME
            && option.starts_with('-')
            && !option
                .chars()
                .any(|c| c == '=' || c.is_whitespace() || c.is_control());
        if !sound {
            return Err(Refused::OptionName {
                name: option.chars().take(MAX_OPTION_NAME).collect(),
            });
        }
        match self.probes {
            Some(probes) if !probes.iter().any(|text| names_option(text, option)) => {
                Err(Refused::UnknownOption {
                    program: self.program.to_owned(),
                    option: option.to_owned(),
                    release: self
                        .release
                        .map(|r| format!(" (release {r})"))
                        .unwrap_or_default(),
                })
            }
            _ => Ok(()),
        }
    }
}

/// Whether a help text names an option as a word of its own: `--fa` is not named by `--fast`.
fn names_option(text: &str, option: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    text.match_indices(option).any(|(at, _)| {
        let before = text.get(..at).and_then(|t| t.chars().next_back());
        let after = text.get(at + option.len()..).and_then(|t| t.chars().next());
        !before.is_some_and(part_of_name) && !after.is_some_and(part_of_name)
    })
}

/// Builds the words, in order.
pub(super) fn build(
    arguments: &[Argument],
    known: &KnownOptions<'_>,
    places: &mut dyn Places,
) -> Result<Vec<OsString>, Refused> {
    if arguments.len() > MAX_ARGUMENTS {
        return Err(Refused::TooManyArguments {
            count: arguments.len(),
            limit: MAX_ARGUMENTS,
        });
    }
    let mut words = Vec::with_capacity(arguments.len() * 2);
    for argument in arguments {
        match argument {
            Argument::Flag(name) => {
                known.check(name)?;
                words.push(name.into());
            }
            Argument::Setting(setting) => {
                known.check(&setting.name)?;
                let value = join(&setting.value, places)?;
                if setting.equals {
                    let mut word = OsString::from(&setting.name);
                    word.push("=");
                    word.push(value);
                    words.push(word);
                } else {
                    words.push(OsString::from(&setting.name));
                    words.push(value);
                }
            }
            Argument::Positional(pieces) => {
                let word = join(pieces, places)?;
                if word.as_encoded_bytes().first() == Some(&b'-') {
                    return Err(Refused::PositionalOption);
                }
                words.push(word);
            }
        }
    }
    check_words(&words)?;
    Ok(words)
}

fn check_words(words: &[OsString]) -> Result<(), Refused> {
    if words.len() > MAX_ARGUMENTS {
        return Err(Refused::TooManyArguments {
            count: words.len(),
            limit: MAX_ARGUMENTS,
        });
    }
    let bytes: usize = words.iter().map(|word| word.len() + 1).sum();
    if bytes > MAX_ARGUMENT_BYTES {
        return Err(Refused::ArgumentsTooLong {
            bytes,
            limit: MAX_ARGUMENT_BYTES,
        });
    }
    if words
        .iter()
        .any(|word| word.as_encoded_bytes().contains(&0))
    {
        return Err(Refused::Nul);
    }
    Ok(())
}

fn join(pieces: &[Piece], places: &mut dyn Places) -> Result<OsString, Refused> {
    let mut word = OsString::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => word.push(text),
            Piece::File(id) => word.push(places.file(*id)?),
            Piece::Output(index) => word.push(places.output(*index)?),
            Piece::Directory(entries) => word.push(places.directory(entries)?),
        }
    }
    Ok(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_known_only_as_a_whole_word() {
        let help = "  -m, --model PATH   x\n  --fast\n  --steps=N";
        for known in ["-m", "--model", "--fast", "--steps"] {
            assert!(names_option(help, known), "{known}");
        }
        for unknown in ["--fa", "-mo", "--mode", "--step", "--model-args", "-f"] {
            assert!(!names_option(help, unknown), "{unknown}");
        }
    }
}
