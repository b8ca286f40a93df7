//! What the program found on this machine can do, read from its help text.

use std::ops::Range;

use studio_plugin::{BackendStatus, Failure};

use crate::{RELEASE, builds};

/// Options of a release other than the one this plugin was written for; not assumed where there is no help.
const HISTORIC: &[&str] = &["--qwen-image-zero-cond-t", "--qwen2vl", "--qwen2vl_vision"];

/// First release that writes WebP when the output's name says so; older ones write a PNG under another name.
const FIRST_WITH_WEBP: u32 = 552;

/// An option that came shortly after [`FIRST_WITH_WEBP`]: its presence proves WebP in a program of unknown release.
const NEWER_THAN_WEBP: &str = "--hires";

/// First release that rounds sizes up by itself; older ones refuse what is no multiple of 64.
const FIRST_THAT_ROUNDS: u32 = 250;

/// An option that came shortly after [`FIRST_THAT_ROUNDS`].
const NEWER_THAN_ROUNDING: &str = "--scheduler";

/// First release that draws without a prompt.
const FIRST_WITHOUT_PROMPT: u32 = 391;

/// An option that came shortly after [`FIRST_WITHOUT_PROMPT`].
const NEWER_THAN_NO_PROMPT: &str = "--sigmas";

/// First release whose server is taken to have the native routes as this plugin asks them. They came in the spring of 2026, after
/// 552 and before this one; which release it was is not known, and one too late costs only a server that is not used.
const FIRST_WITH_NATIVE_ROUTES: u32 = 611;

/// An option that came with [`FIRST_WITH_NATIVE_ROUTES`].
const AS_NEW_AS_NATIVE_ROUTES: &str = "--backend";

/// One program.
#[derive(Clone, Debug, Default)]
pub(crate) struct Probe {
    /// All that it printed.
    printed: String,
    /// The options in it; none when the program printed no help.
    options: Vec<Known>,
    release: Option<String>,
}

/// An option, by places in what was printed: every step of a job reads the help anew, and there is a lot of it.
#[derive(Clone, Debug)]
struct Known {
    name: Range<usize>,
    /// The lines from its own up to the next option's.
    said: Range<usize>,
}

impl Probe {
    pub(crate) fn read(backend: &BackendStatus) -> Self {
        let (mut printed, mut options) = (String::new(), Vec::new());
        for help in &backend.probes {
            let before = printed.len();
            printed.push_str(help);
            read_options(&printed, before, &mut options);
            // The next one's first line is a line.
            printed.push('\n');
        }
        Self {
            printed,
            options,
            release: backend.release.clone(),
        }
    }

    /// Whether the program takes an option. A program without help is taken for the release this plugin was written for.
    pub(crate) fn knows(&self, option: &str) -> bool {
        if self.options.is_empty() {
            !HISTORIC.contains(&option)
        } else {
            self.said_of(option).next().is_some()
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
        self.is_since(FIRST_WITH_WEBP, NEWER_THAN_WEBP)
    }

    /// Whether it takes any size, and rounds it up.
    pub(crate) fn rounds_sizes(&self) -> bool {
        self.is_since(FIRST_THAT_ROUNDS, NEWER_THAN_ROUNDING)
    }

    /// Whether it draws without a prompt.
    pub(crate) fn takes_empty_prompt(&self) -> bool {
        self.is_since(FIRST_WITHOUT_PROMPT, NEWER_THAN_NO_PROMPT)
    }

    /// Whether a server of this release has the native routes. One without answers 404 to all that is asked of it, until the host
    /// gives it up.
    pub(crate) fn has_native_routes(&self) -> bool {
        self.is_since(FIRST_WITH_NATIVE_ROUTES, AS_NEW_AS_NATIVE_ROUTES)
    }

    /// Whether the mode has to be said, as up to release 239: `txt2img`, `img2img`, `edit`.
    pub(crate) fn has_modes(&self) -> bool {
        self.lists("--mode", "txt2img")
    }

    /// Whether the program takes this word as the value of an option. A help text that lists no `usual` word there is
    /// not understood, and nothing is held against it.
    pub(crate) fn takes(&self, option: &str, word: &str, usual: &str) -> bool {
        !self.lists(option, usual) || self.lists(option, word)
    }

    /// Whether the help of an option holds a word.
    fn lists(&self, option: &str, word: &str) -> bool {
        let part_of_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-');
        self.said_of(option)
            .flat_map(|text| text.split(|c: char| !part_of_word(c)))
            .any(|found| found == word)
    }

    /// What the help says of an option, wherever it stands in it.
    fn said_of<'a>(&'a self, option: &'a str) -> impl Iterator<Item = &'a str> {
        // Most are told by their length, before their text is looked at.
        let has_name = move |known: &&Known| {
            known.name.len() == option.len() && self.text(&known.name) == option
        };
        let named = self.options.iter().filter(has_name);
        named.map(|known| self.text(&known.said))
    }

    fn text(&self, place: &Range<usize>) -> &str {
        self.printed.get(place.clone()).unwrap_or_default()
    }

    /// By the release where it is known, else by an option that came a little later.
    fn is_since(&self, release: u32, later_option: &str) -> bool {
        match self.number() {
            Some(number) => number >= release,
            None => self.knows(later_option),
        }
    }

    /// Whether another program is of the same release, as far as can be told: by what the host knows and by its own word. Two of an
    /// operator's own that say nothing are, when they take the same options of those in question.
    pub(crate) fn is_of_the_release_of(&self, other: &Self) -> bool {
        self.release == other.release && self.said() == other.said()
    }

    /// How the program is called in a failure.
    pub(crate) fn name(&self) -> String {
        match (&self.release, self.said()) {
            (Some(release), _) => release.clone(),
            (None, Some(said)) => format!("the operator's own, {said} by its own word"),
            (None, None) => "the operator's own, of unknown release".to_owned(),
        }
    }

    /// The release that it says it is, where the host knows none. For people: a build made outside of a checkout says nothing.
    /// `--version` prints `stable-diffusion.cpp version master-827-97d2990, commit 97d2990`.
    fn said(&self) -> Option<String> {
        let said = |line: &str| version(line.strip_prefix("stable-diffusion.cpp version ")?);
        self.printed.lines().find_map(said)
    }

    fn number(&self) -> Option<u32> {
        builds::tag(self.release.as_deref()?)?.0
    }
}

/// The release at the beginning of what is said of a version.
fn version(said: &str) -> Option<String> {
    let word = said.split([',', ' ']).next()?;
    let sound = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let tagged = word.contains('-') && word.len() <= 64 && word.chars().all(sound);
    tagged.then(|| word.to_owned())
}

/// Adds the options of the help text that begins at `at`. An option is a name at the beginning of a line,
/// `  -o, --output <string>   where …`; those that a description mentions do not count. What follows, up to the next option, is
/// said of it.
fn read_options(printed: &str, mut at: usize, known: &mut Vec<Known>) {
    // Those whose description goes on.
    let mut open = known.len();
    for line in printed.get(at..).unwrap_or_default().split_inclusive('\n') {
        let start = at;
        at += line.len();
        let mut rest = line.trim_ascii_start();
        if rest.starts_with('-') {
            open = known.len();
        }
        while rest.starts_with('-') {
            let end = rest.bytes().position(|byte| byte.is_ascii_whitespace());
            let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
            let name = at - rest.len();
            known.push(Known {
                name: name..name + word.trim_end_matches(',').len(),
                said: start..at,
            });
            rest = after.trim_ascii_start();
        }
        for option in known.iter_mut().skip(open) {
            option.said.end = at;
        }
    }
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
    fn native_routes_by_release_or_by_an_option_as_new() {
        assert!(!probe("  --backend", Some("master-610-abc1234")).has_native_routes());
        assert!(probe("  --seed", Some("master-611-abc1234")).has_native_routes());
        assert!(probe("  --backend", None).has_native_routes());
        assert!(!probe("  --hires", None).has_native_routes());
    }

    #[test]
    fn what_older_releases_want_is_known_by_number_or_by_a_later_option() {
        for (release, rounds, prompt) in [
            (249, false, false),
            (250, true, false),
            (390, true, false),
            (391, true, true),
        ] {
            let probe = probe("  --seed", Some(&format!("master-{release}-abc1234")));
            assert_eq!(
                (probe.rounds_sizes(), probe.takes_empty_prompt()),
                (rounds, prompt),
                "{release}"
            );
        }
        assert!(probe("  --scheduler\n  --sigmas", None).rounds_sizes());
        assert!(!probe("  --schedule", None).rounds_sizes());
        assert!(!probe("  --scheduler", None).takes_empty_prompt());
        assert!(probe("  -M, --mode [MODE]  run mode (txt2img or img2img)", None).has_modes());
        assert!(!probe("  -M, --mode  run mode, one of [img_gen, vid_gen]", None).has_modes());
    }

    #[test]
    fn words_of_an_option_are_read_over_several_lines() {
        let probe = probe(
            "  --sampling-method  one of [euler,\n      dpm++2m, lcm]\n  --other  tcd",
            None,
        );
        let takes = |word| probe.takes("--sampling-method", word, "euler");
        assert!(takes("dpm++2m") && takes("lcm") && !takes("tcd") && !takes("dpm++2"));
        assert!(
            probe.takes("--other", "euler", "euler_a"),
            "nothing is held against what is not understood"
        );
    }

    #[test]
    fn an_own_program_is_called_by_its_own_word() {
        let named = |printed: &str| probe(printed, None).name();
        let said = "stable-diffusion.cpp version master-827-97d2990, commit 97d2990\n";
        assert!(named(said).contains("master-827-97d2990"));
        let both = Probe::read(&BackendStatus {
            name: "sd-cli".to_owned(),
            release: None,
            digest: String::new(),
            probes: vec!["  --seed  the seed".to_owned(), said.to_owned()],
        });
        assert!(both.name().contains("master-827-97d2990"), "after its help");
        let unknown = "stable-diffusion.cpp version unknown, commit unknown\n";
        for printed in [unknown, "", "  --version  say which\n"] {
            assert!(named(printed).contains("unknown release"), "{printed}");
        }
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
