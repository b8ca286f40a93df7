//! The words of the job, made safe for a program that reads more than words in them.
//!
//! `<lora:NAME:WEIGHT>` in a prompt makes the program open a file, an absolute path included. So such a tag in
//! the job's own text is broken, and the only ones that stay are those of the model's own LoRAs. A prompt is not
//! for every user of the machine to read: where the program takes it in a file, it gets it so.

use studio_plugin::{Context, Failure, File, join};

use crate::probe::Probe;

/// Most bytes of a prompt on a command line. The host passes 128 KiB of arguments in all; more than this
/// leaves too little for the paths.
const LONGEST_ON_COMMAND_LINE: usize = 100 * 1024;

/// The texts of a job, as the program gets them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Prompt {
    pub(crate) text: Text,
    /// None when there is none, or an empty one.
    pub(crate) negative: Option<Text>,
}

/// One text and the way it goes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Text {
    /// As the value of an option.
    Inline(String),
    /// In a file named on the command line.
    InFile(String),
}

impl Default for Text {
    fn default() -> Self {
        Self::Inline(String::new())
    }
}

/// Files of the texts that go in files.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Written {
    pub(crate) text: Option<File>,
    pub(crate) negative: Option<File>,
}

impl Prompt {
    /// `tags` are those of the model's LoRAs; they follow the words, separated by blanks.
    pub(crate) fn make(
        words: &str,
        negative: Option<&str>,
        tags: &[String],
        probe: &Probe,
    ) -> Result<Self, Failure> {
        let mut text = harmless("task.prompt", words)?;
        for tag in tags {
            text.push(' ');
            text.push_str(tag);
        }
        let negative = match negative.filter(|text| !text.is_empty()) {
            Some(text) => Some(Text::make(
                "task.negativePrompt",
                harmless("task.negativePrompt", text)?,
                "--negative-prompt-file",
                probe,
            )?),
            None => None,
        };
        Ok(Self {
            text: Text::make("task.prompt", text, "--prompt-file", probe)?,
            negative,
        })
    }
}

impl Text {
    /// The words, whichever way they go.
    pub(crate) fn words(&self) -> &str {
        match self {
            Self::Inline(text) | Self::InFile(text) => text,
        }
    }

    fn make(field: &str, text: String, file_option: &str, probe: &Probe) -> Result<Self, Failure> {
        // Older releases refuse to draw nothing; a blank is nothing as well.
        if text.is_empty() && !probe.takes_empty_prompt() {
            return Ok(Self::Inline(" ".to_owned()));
        }
        // An empty one is no secret, and an empty file is nothing that every release reads.
        if !text.is_empty() && probe.knows(file_option) {
            return Ok(Self::InFile(text));
        }
        if text.len() > LONGEST_ON_COMMAND_LINE {
            return Err(Failure::permanent(format!(
                "{field} has {} bytes, and the sd-cli here ({}) cannot read it from a file; shorten it to {LONGEST_ON_COMMAND_LINE}, \
                 or install a release with {file_option}",
                text.len(),
                probe.name()
            )));
        }
        Ok(Self::Inline(text))
    }
}

/// Breaks every tag that would open a file.
fn harmless(field: &str, text: &str) -> Result<String, Failure> {
    if text.contains('\0') {
        return Err(Failure::permanent(format!(
            "{field} contains a NUL character, which no program can be given; remove it"
        )));
    }
    let mut safe = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = find_tag(rest) {
        let (before, tag) = rest.split_at(at + 1);
        safe.push_str(before);
        safe.push(' ');
        rest = tag;
    }
    safe.push_str(rest);
    Ok(safe)
}

/// Where a tag's `<` stands.
fn find_tag(text: &str) -> Option<usize> {
    const TAG: &[u8] = b"<lora";
    text.as_bytes()
        .windows(TAG.len())
        .position(|part| part.eq_ignore_ascii_case(TAG))
}

/// Writes the texts that go in files, both in one step.
pub(crate) async fn write(context: &Context, prompt: &Prompt) -> Result<Written, Failure> {
    let (text, negative) = join(
        write_one(context, "prompt.txt", Some(&prompt.text)),
        write_one(context, "negative-prompt.txt", prompt.negative.as_ref()),
    )
    .await;
    Ok(Written {
        text: text?,
        negative: negative?,
    })
}

async fn write_one(
    context: &Context,
    name: &str,
    text: Option<&Text>,
) -> Result<Option<File>, Failure> {
    match text {
        Some(Text::InFile(text)) => context.write(name, || vec![text.as_str()]).await.map(Some),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NEWEST, OLD, probe};

    #[test]
    fn tags_of_the_job_are_broken_and_those_of_the_model_stand() {
        let prompt = Prompt::make(
            "a fox <lora:/etc/passwd:1> <LoRA:x:2>",
            Some("<lora:y:1>"),
            &["<lora:ink:0.5>".to_owned()],
            &probe(NEWEST),
        )
        .unwrap();
        assert_eq!(
            prompt.text,
            Text::InFile("a fox < lora:/etc/passwd:1> < LoRA:x:2> <lora:ink:0.5>".to_owned())
        );
        assert_eq!(
            prompt.negative,
            Some(Text::InFile("< lora:y:1>".to_owned()))
        );
    }

    #[test]
    fn other_words_are_left_alone() {
        let words = "-p --help <b> a < b <lo ra:x> „ĂŞ“ 狐\n%d";
        assert_eq!(harmless("f", words).unwrap(), words);
    }

    #[test]
    fn an_empty_negative_prompt_is_none() {
        let prompt = Prompt::make("", Some(""), &[], &probe(NEWEST)).unwrap();
        assert_eq!(
            prompt,
            Prompt {
                text: Text::Inline(String::new()),
                negative: None
            }
        );
    }

    #[test]
    fn a_release_that_draws_nothing_without_words_gets_a_blank() {
        let empty = |help: &str| Prompt::make("", None, &[], &probe(help)).unwrap().text;
        assert_eq!(empty("  --seed"), Text::Inline(" ".to_owned()));
        assert_eq!(empty("  --sigmas"), Text::Inline(String::new()));
    }

    #[test]
    fn nul_and_length() {
        let failure = |words: &str, help: &str| {
            Prompt::make(words, None, &[], &probe(help))
                .map(|_| ())
                .map_err(|failure| failure.message)
        };
        assert!(
            failure("a\0b", NEWEST)
                .unwrap_err()
                .contains("task.prompt contains a NUL")
        );
        assert!(failure(&"x".repeat(1 << 20), NEWEST).is_ok());
        assert!(
            failure(&"x".repeat(1 << 20), OLD)
                .unwrap_err()
                .contains("1048576 bytes")
        );
    }
}
