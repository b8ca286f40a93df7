//! Progress from what the program prints.
//!
//! Three kinds of bars look alike: loading of weights, steps, and tiles of the decoder. Only those printed between the line that
//! announces the picture and the one that says its steps are done are steps, and only those drawn with `=` and counted in
//! iterations: weights are loaded lazily, in the middle of it, with a bar of bytes since release 548 and one of `#` since 691.
//!
//! Up to release 547 the bar of loading is drawn and counted as steps are. Those releases load all weights, LoRAs included,
//! before they announce the picture, and draw no bar but that of steps until these are done. Nothing in the bar itself would tell
//! the two apart, so where one stands decides, and for the rest a count is believed only when it begins at its beginning and
//! no other is under way.
//!
//! The state carried from call to call is the phase in its lowest byte and the number of steps above it.

use studio_plugin::Progress;

/// Columns of a bar.
const BAR: usize = 50;

/// What the program is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Preparing,
    /// The picture is announced: a bar that begins is one of steps.
    Stepping,
    Finishing,
    /// A bar of steps has begun and not ended: no other counts.
    Counting,
}

impl Phase {
    fn of(state: u64) -> Self {
        match state & 0xff {
            1 => Self::Stepping,
            2 => Self::Finishing,
            3 => Self::Counting,
            _ => Self::Preparing,
        }
    }
}

/// Phrases that mark a milestone, with the note they become.
const MILESTONES: &[(&str, &str, Phase)] = &[
    (
        "get_learned_condition completed",
        "read the prompt",
        Phase::Preparing,
    ),
    (
        "generating image: ",
        "first step, loading weights",
        Phase::Stepping,
    ),
    ("sampling completed", "steps done", Phase::Finishing),
    ("decoding 1 latents", "decoding", Phase::Finishing),
    ("decode_first_stage completed", "decoded", Phase::Finishing),
    ("save result image", "saving", Phase::Finishing),
    (" weights from '", "loading", Phase::Preparing),
    ("loading model from '", "loading", Phase::Preparing),
    (
        "loading diffusion model from '",
        "loading",
        Phase::Preparing,
    ),
];

/// Reads lines in order; the new state and the last progress among them.
pub(crate) fn read(state: u64, lines: &[String]) -> (u64, Option<Progress>) {
    let mut reader = Reader {
        phase: Phase::of(state),
        total: u32::try_from(state >> 8).unwrap_or(0),
        last: None,
    };
    for line in lines.iter().flat_map(|line| line.split('\r')) {
        reader.line(line);
    }
    (
        u64::from(reader.total) << 8 | reader.phase as u64,
        reader.last,
    )
}

struct Reader {
    phase: Phase,
    /// Steps in all; 0 before the first one.
    total: u32,
    last: Option<Progress>,
}

impl Reader {
    fn line(&mut self, line: &str) {
        if let Some((_, note, phase)) = MILESTONES.iter().find(|(phrase, ..)| line.contains(phrase))
        {
            // Weights are loaded in the middle of stepping too: that does not take the phase back.
            if *phase != Phase::Preparing {
                self.phase = *phase;
            }
            let done = if self.phase == Phase::Finishing {
                self.total
            } else {
                0
            };
            // A total is never 0, so that nobody divides by it.
            self.last = Some(Progress {
                done,
                total: self.total.max(1),
                note: Some((*note).to_owned()),
            });
        } else if let Some((done, total)) = step(line)
            && self.is_of_steps(done, total)
        {
            self.phase = if done == total {
                Phase::Stepping
            } else {
                Phase::Counting
            };
            self.total = total;
            self.last = Some(Progress {
                done,
                total,
                note: None,
            });
        }
    }

    fn is_of_steps(&self, done: u32, total: u32) -> bool {
        match self.phase {
            Phase::Stepping => done <= 1 || total == self.total,
            Phase::Counting => total == self.total,
            Phase::Preparing | Phase::Finishing => false,
        }
    }
}

/// Reads `  |====>     | 3/8 - 1.87it/s`; none for any other bar.
fn step(line: &str) -> Option<(u32, u32)> {
    let (_, rest) = line.split_once('|')?;
    let (bar, rest) = rest.split_once('|')?;
    if bar.len() != BAR || !bar.chars().all(|c| matches!(c, '=' | '>' | ' ')) {
        return None;
    }
    let (count, speed) = rest.trim_end_matches("\x1b[K").trim().split_once(" - ")?;
    let number = speed
        .strip_suffix("it/s")
        .or_else(|| speed.strip_suffix("s/it"))?;
    number.parse::<f32>().ok()?;
    let (done, total) = count.split_once('/')?;
    let (done, total) = (done.parse().ok()?, total.parse().ok()?);
    (done <= total && total > 0).then_some((done, total))
}

/// The size that the program says it draws, which is the one asked for, rounded up.
pub(crate) fn real_size(stdout: &str) -> Option<(u32, u32)> {
    let (_, after) = stdout.rsplit_once("generate_image ")?;
    let (width, height) = after.split_whitespace().next()?.split_once('x')?;
    Some((width.parse().ok()?, height.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(tip: &str, text: &str) -> String {
        format!("  |{tip:BAR$}| {text}\x1b[K")
    }

    fn all(lines: &[String]) -> Vec<(u32, u32)> {
        let mut state = 0;
        let mut seen = Vec::new();
        for line in lines {
            let (next, progress) = read(state, std::slice::from_ref(line));
            state = next;
            seen.extend(
                progress
                    .filter(|progress| progress.note.is_none())
                    .map(|progress| (progress.done, progress.total)),
            );
        }
        seen
    }

    #[test]
    fn only_steps_are_counted() {
        let lines = [
            bar("#####", "12/1131 - 682.00MB/s"),
            bar("====>", "13/1131 - 682.00it/s"),
            "[INFO ] a.cpp:1    - generating image: 1/1 - seed 5".to_owned(),
            bar("##########", "57/57 - 812.00MB/s"),
            bar("===>", "1/8 - 2.10s/it"),
            "loading diffusion weights from 'x'".to_owned(),
            bar("======>", "2/8 - 1.87it/s"),
            bar("======>", "2/8 - 1.87GB/s"),
            bar("======>", "9/8 - 1.87it/s"),
            "[INFO ] a.cpp:1    - sampling completed, taking 1.52s".to_owned(),
            bar("======>", "1/4 - 3.41it/s"),
        ];
        assert_eq!(all(&lines), [(1, 8), (2, 8)]);
        let old = [
            "generating image: 1/1 - seed 5".to_owned(),
            bar("=========", "57/57 - 812.00it/s"),
            bar("===>", "1/2 - 2.10s/it"),
            bar("=========", "31/57 - 812.00it/s"),
            bar("======>", "2/2 - 1.87it/s"),
        ];
        assert_eq!(all(&old), [(1, 2), (2, 2)]);
    }

    /// Bytes of standard output, cut as the host cuts them.
    fn lines(bytes: &str) -> Vec<String> {
        let cut = bytes.split(['\r', '\n']);
        cut.map(str::to_owned).collect()
    }

    const THREE_OF_EIGHT: &str =
        "\r  |======>                                           | 3/8 - 1.87it/s\x1b[K";

    fn bytes_of_steps() -> String {
        let step = |done: &str| THREE_OF_EIGHT.replace("3/8", done);
        let steps: String = ["1/8", "2/8", "3/8", "8/8"].map(step).concat();
        format!(
            "[INFO ] a.cpp:1    - generating image: 1/1 - seed 5\n{steps}\n[INFO ] a.cpp:1    - sampling completed, taking 1.52s\n"
        )
    }

    /// Up to 547: all weights come before the picture is announced, from their first tensor on, and look like steps.
    #[test]
    fn loading_that_looks_like_steps_comes_before_the_picture() {
        let loading = |count: &str| {
            THREE_OF_EIGHT
                .replace("3/8", count)
                .replace("1.87it/s", "682it/s")
        };
        let text: String = ["1/1131", "12/1131", "1131/1131"].map(loading).concat();
        let bytes = format!(
            "[INFO ] a.cpp:1    - loading diffusion model from 'x'\n{text}\n{}",
            bytes_of_steps()
        );
        assert_eq!(all(&lines(&bytes)), [(1, 8), (2, 8), (3, 8), (8, 8)]);
    }

    /// From 548 on they come in the middle, from their first tensor on, with bytes for a unit, and from 691 on in `#`.
    #[test]
    fn loading_in_the_middle_is_known_by_its_unit_or_its_character() {
        for (sign, unit) in [('=', "MB/s"), ('=', "GB/s"), ('#', "MB/s"), ('#', "it/s")] {
            let loading = |count: &str| {
                let bar = THREE_OF_EIGHT.replace('=', &sign.to_string());
                let bar = bar.replace('>', &sign.to_string());
                bar.replace("3/8", count).replace("it/s", unit)
            };
            let text: String = ["0/57", "1/57", "31/57", "57/57"].map(loading).concat();
            let steps = bytes_of_steps();
            let bytes = steps.replace("seed 5\n", &format!("seed 5\n{text}\n"));
            let counted = all(&lines(&bytes));
            assert_eq!(
                counted,
                [(1, 8), (2, 8), (3, 8), (8, 8)],
                "{sign} {unit}: {bytes}"
            );
        }
    }

    /// No release draws it there; should one, the steps under way go on.
    #[test]
    fn a_bar_under_way_is_not_taken_over_by_one_that_begins() {
        let other = |count: &str| THREE_OF_EIGHT.replace("3/8", count);
        let between: String = ["0/57", "1/57", "57/57"].map(other).concat();
        let bytes = bytes_of_steps().replace(THREE_OF_EIGHT, &(between + THREE_OF_EIGHT));
        assert_eq!(all(&lines(&bytes)), [(1, 8), (2, 8), (3, 8), (8, 8)]);
        // A second round of steps begins where the first has ended.
        let again = bytes_of_steps().replace("/8 - ", "/5 - ");
        let again = again
            .replace("8/5", "5/5")
            .replace("sampling completed", "x");
        let first = bytes_of_steps().replace("sampling completed", "x");
        let second = again.replace("generating image", "x");
        let counted = all(&lines(&(first + &second)));
        assert_eq!(counted[4..], [(1, 5), (2, 5), (3, 5), (5, 5)]);
    }

    #[test]
    fn lines_may_come_together_and_the_state_is_all_there_is() {
        let text = format!(
            "\r{}\r{}",
            bar("=>", "1/4 - 2.00it/s"),
            bar("==>", "2/4 - 2.00it/s")
        );
        assert_eq!(read(0, std::slice::from_ref(&text)), (0, None));
        let (state, progress) = read(1, std::slice::from_ref(&text));
        assert_eq!(state, 4 << 8 | 3);
        assert_eq!(
            progress,
            Some(Progress {
                done: 2,
                total: 4,
                note: None
            })
        );
        let (state, progress) = read(state, &["decoding 1 latents".to_owned()]);
        assert_eq!(state, 4 << 8 | 2);
        assert_eq!(
            progress,
            Some(Progress {
                done: 4,
                total: 4,
                note: Some("decoding".to_owned())
            })
        );
    }

    #[test]
    fn whatever_is_printed_is_no_harm() {
        for line in [
            "|",
            "||",
            "| |",
            "  |=|= 1/",
            "999999999999/1",
            &bar("=", "1/0 - 1it/s"),
            &bar("=", "x/y - 1it/s"),
            "狐|狐|狐",
        ] {
            assert_eq!(read(1, &[line.to_owned()]), (1, None), "{line}");
        }
        assert_eq!(read(u64::MAX, &[]).1, None);
    }

    #[test]
    fn size_as_the_program_says_it() {
        assert_eq!(
            real_size("x\n[INFO ] s.cpp:3 - generate_image 104x72\nmore"),
            Some((104, 72))
        );
        assert_eq!(real_size("generate_image completed in 2s"), None);
        assert_eq!(real_size(""), None);
    }
}
