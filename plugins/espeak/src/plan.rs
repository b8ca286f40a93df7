//! Everything about a job that is decided before the program runs.

use studio_plugin::{Failure, TtsTask};

use crate::voices::Voices;

/// Words per minute of a voice's own speed, which is what `speed` 1 means.
const OWN_SPEED: f32 = 175.0;

/// The slowest the program speaks; it takes a smaller number for this one.
const SLOWEST: f32 = 80.0;

/// The fastest it speaks by itself. Beyond, it leaves out sound, and comes out slower than asked.
const FASTEST: f32 = 449.0;

/// Most characters of one job: some two hours of sound, or 300 MB at the voice's own speed. More would come near what a job's
/// folder may hold at the slowest speed.
const MAX_CHARACTERS: usize = 100_000;

/// One job, decided.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    /// What is spoken.
    pub(crate) text: String,
    /// As the program's `-v` takes it.
    pub(crate) voice: String,
    /// As its `-s` takes it.
    pub(crate) words_per_minute: u32,
    /// What came out otherwise than asked, for the log.
    pub(crate) note: Option<String>,
}

impl Plan {
    /// Decides, or says which field of the task cannot be done.
    ///
    /// `probes` is what the program printed for help, voices and variants.
    pub(crate) fn make(task: &TtsTask, probes: &[String]) -> Result<Self, Failure> {
        let text = spoken(&task.text)?;
        let list = |number: usize| probes.get(number).map_or("", String::as_str);
        let voices = Voices::read(list(1), list(2));
        let voice = voices.choose(&task.voice, task.language.as_deref())?;
        let (words_per_minute, note) = speed(task.speed)?;
        Ok(Self {
            text,
            voice,
            words_per_minute,
            note,
        })
    }
}

/// The text with what the program would not take as text made harmless.
///
/// Two opening brackets begin phonemes, and a zero byte ends the text for it.
fn spoken(text: &str) -> Result<String, Failure> {
    let count = text.chars().count();
    if count > MAX_CHARACTERS {
        return Err(Failure::permanent(format!(
            "task.text has {count} characters, and espeak-ng is given {MAX_CHARACTERS} at most; split it into several jobs"
        )));
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '[' if out.ends_with('[') => out.push_str(" ["),
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    if out.trim().is_empty() {
        return Err(Failure::permanent(
            "task.text is empty; give the words to speak",
        ));
    }
    Ok(out)
}

fn speed(asked: Option<f32>) -> Result<(u32, Option<String>), Failure> {
    let factor = asked.unwrap_or(1.0);
    if !factor.is_finite() || factor <= 0.0 {
        return Err(Failure::permanent(format!(
            "task.speed must be a number above 0, and is {factor}; 1 is the voice's own speed"
        )));
    }
    let wanted = factor * OWN_SPEED;
    let words = wanted.clamp(SLOWEST, FASTEST).round();
    let note = (!(SLOWEST..=FASTEST).contains(&wanted)).then(|| {
        format!(
            "speed {factor} is beyond what espeak-ng speaks; it speaks {words} words per minute"
        )
    });
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 80 and 449"
    )]
    Ok((words as u32, note))
}
