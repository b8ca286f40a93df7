//! What the program found on this machine can do, read from its help text.

use std::collections::BTreeSet;

use studio_plugin::{BackendStatus, Failure};

use crate::RELEASE;

/// Options of a release other than the one this plugin was written for; not assumed where there is no help.
const HISTORIC: &[&str] = &["--qwen-image-zero-cond-t", "--qwen2vl", "--qwen2vl_vision"];

/// First release that writes WebP when the output's name says so; older ones write a PNG under another name.
const FIRST_WITH_WEBP: u32 = 552;

/// An option that came shortly after [`FIRST_WITH_WEBP`]: its presence proves WebP in a program of unknown release.
const NEWER_THAN_WEBP: &str = "--hires";

/// One program.
#[derive(Clone, Debug, Default)]
pub(crate) struct Probe {
    /// Empty when the program printed no help.
    options: BTreeSet<String>,
    release: Option<String>,
}

impl Probe {
    pub(crate) fn read(backend: &BackendStatus) -> Self {
        Self {
            options: backend
                .probes
                .iter()
                .flat_map(|text| options(text))
                .collect(),
            release: backend.release.clone(),
        }
    }

    /// Whether the program takes an option. A program without help is taken for the release this plugin was written for.
    pub(crate) fn knows(&self, option: &str) -> bool {
        if self.options.is_empty() {
            !HISTORIC.contains(&option)
        } else {
            self.options.contains(option)
        }
    }

    /// The first of these names for one thing that the program takes, else the first.
    pub(crate) fn choose(&self, names: &[&'static str]) -> &'static str {
        let first = names.first().copied().unwrap_or_default();
        names
            .iter()
            .copied()
            .find(|name| self.knows(name))
            .unwrap_or(first)
    }

    /// Fails where an option that the job cannot do without is not there.
    pub(crate) fn demand(&self, option: &str) -> Result<(), Failure> {
        if self.knows(option) {
            return Ok(());
        }
        Err(Failure::permanent(format!(
            "the sd-cli here ({}) has no option {option}, which this job needs; this plugin was written for {RELEASE}: \
             install that release, or the plugin made for yours",
            self.name()
        )))
    }

    /// Whether a name ending in `.webp` gives a WebP file.
    pub(crate) fn writes_webp(&self) -> bool {
        match self.number() {
            Some(number) => number >= FIRST_WITH_WEBP,
            None => self.knows(NEWER_THAN_WEBP),
        }
    }

    /// How the program is called in a failure.
    pub(crate) fn name(&self) -> &str {
        self.release
            .as_deref()
            .unwrap_or("the operator's own, of unknown release")
    }

    fn number(&self) -> Option<u32> {
        self.release.as_deref()?.split('-').nth(1)?.parse().ok()
    }
}

/// Names at the beginning of a line: `  -o, --output <string>   where …`. Options that a description
/// mentions do not count.
fn options(help: &str) -> impl Iterator<Item = String> {
    help.lines().flat_map(|line| {
        line.split_whitespace()
            .take_while(|word| word.starts_with('-'))
            .map(|word| word.trim_end_matches(',').to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(help: &str, release: Option<&str>) -> Probe {
        Probe::read(&BackendStatus {
            name: "sd-cli".to_owned(),
            release: release.map(str::to_owned),
            digest: String::new(),
            probes: vec![help.to_owned()],
        })
    }

    #[test]
    fn only_names_at_the_start_of_a_line_are_options() {
        let probe = probe(
            "usage: sd-cli [options]\n  -o, --output <string>  not --model\n  --qwen2vl <string>  alias of --llm\n",
            None,
        );
        assert!(probe.knows("-o") && probe.knows("--output") && probe.knows("--qwen2vl"));
        assert!(!probe.knows("--model") && !probe.knows("--llm"));
        assert_eq!(probe.choose(&["--llm", "--qwen2vl"]), "--qwen2vl");
    }

    #[test]
    fn a_program_without_help_is_taken_for_the_release_written_for() {
        let probe = probe("", None);
        assert!(probe.knows("--model-args"));
        assert!(!probe.knows("--qwen-image-zero-cond-t"));
    }

    #[test]
    fn webp_by_release_or_by_a_later_option() {
        assert!(!probe("  --hires", Some("master-551-abc1234")).writes_webp());
        assert!(probe("  --seed", Some("master-552-abc1234")).writes_webp());
        assert!(probe("  --hires", None).writes_webp());
        assert!(!probe("  --seed", None).writes_webp());
    }

    #[test]
    fn a_missing_option_names_both_releases() {
        let failure = probe("  --seed", Some("master-300-abc1234"))
            .demand("--llm")
            .unwrap_err();
        assert!(!failure.retryable);
        assert!(failure.message.contains("--llm"));
        assert!(
            failure.message.contains("master-300-abc1234") && failure.message.contains(RELEASE)
        );
    }
}
