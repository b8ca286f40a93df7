//! The voices of the program found here, read from its own lists, and the choice among them.
//!
//! ```text
//! Pty Language       Age/Gender VoiceName          File                 Other Languages
//!  2  en-gb           --/M      English_(Great_Britain) gmw/en               (en 2)
//! ```

use studio_plugin::Failure;

/// Language where a job names neither voice nor language.
const DEFAULT_LANGUAGE: &str = "en";

/// How many names a failure shows. More would bury its point.
const SHOWN: usize = 12;

/// How a name is not shown longer, in characters: it comes from the offer.
const SHOWN_NAME: usize = 40;

/// One line of a list.
#[derive(Clone, Debug, PartialEq)]
struct Voice {
    name: String,
    file: String,
    /// Languages, each with its priority: the smaller the number, the better it speaks it.
    languages: Vec<(String, u32)>,
}

/// What can be chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Voices {
    voices: Vec<Voice>,
    /// Ways of speaking that go with every voice.
    variants: Vec<Voice>,
}

impl Voices {
    /// Reads both lists; lines that are no voice are passed over.
    pub(crate) fn read(voices: &str, variants: &str) -> Self {
        Self {
            voices: voices.lines().filter_map(line).collect(),
            variants: variants
                .lines()
                .filter_map(line)
                .filter(|variant| variant.file.starts_with("!v/"))
                .collect(),
        }
    }

    /// What `-v` is given: the file of a listed voice, with `+variant` where one was asked for. Nothing that is not listed
    /// ever reaches the program, which takes an unknown variant for none.
    pub(crate) fn choose(&self, asked: &str, language: Option<&str>) -> Result<String, Failure> {
        if self.voices.is_empty() {
            return Err(Failure::retryable(
                "espeak-ng lists no voice; its data are missing: install espeak-ng-data, or mend ESPEAK_DATA_PATH",
            ));
        }
        let language = language.map(str::trim).filter(|name| !name.is_empty());
        let (base, variant) = match asked.trim().split_once('+') {
            Some((base, variant)) => (base, Some(variant)),
            None => (asked.trim(), None),
        };
        let by_default = base.is_empty() || base.eq_ignore_ascii_case("default");
        let (voice, variant) = if by_default {
            (self.of_language(language)?, variant)
        } else if let Some(voice) = self.named(base) {
            agree(voice, language)?;
            (voice, variant)
        } else if variant.is_none() && find(&self.variants, base).is_some() {
            (self.of_language(language)?, Some(base))
        } else {
            return Err(self.unknown_voice(base));
        };
        match variant {
            None => Ok(voice.file.clone()),
            Some(name) => {
                let variant =
                    find(&self.variants, name).ok_or_else(|| self.unknown_variant(name))?;
                let variant = variant.file.trim_start_matches("!v/");
                Ok(format!("{}+{variant}", voice.file))
            }
        }
    }

    /// By name, file, or language code.
    fn named(&self, asked: &str) -> Option<&Voice> {
        find(&self.voices, asked).or_else(|| self.speaking(asked))
    }

    fn of_language(&self, language: Option<&str>) -> Result<&Voice, Failure> {
        let asked = language.unwrap_or(DEFAULT_LANGUAGE).replace('_', "-");
        self.speaking(&asked)
            .or_else(|| self.speaking(primary(&asked)))
            .or_else(|| language.is_none().then(|| self.voices.first()).flatten())
            .ok_or_else(|| {
                let all = self
                    .voices
                    .iter()
                    .filter_map(|voice| voice.languages.first());
                Failure::permanent(format!(
                    "espeak-ng here speaks no language {:?}; it speaks {}",
                    short(&asked),
                    some(all.map(|(language, _)| language.as_str()))
                ))
            })
    }

    /// The voice that speaks a language best.
    fn speaking(&self, language: &str) -> Option<&Voice> {
        let priority = |voice: &Voice| {
            let spoken = voice.languages.iter();
            spoken
                .filter(|(name, _)| name.eq_ignore_ascii_case(language))
                .map(|(_, priority)| *priority)
                .min()
        };
        self.voices
            .iter()
            .filter_map(|voice| Some((priority(voice)?, voice)))
            .min_by_key(|(priority, _)| *priority)
            .map(|(_, voice)| voice)
    }

    fn unknown_voice(&self, asked: &str) -> Failure {
        Failure::permanent(format!(
            "espeak-ng here has no voice {:?}; it has {}",
            short(asked),
            some(self.voices.iter().map(|voice| voice.name.as_str()))
        ))
    }

    fn unknown_variant(&self, asked: &str) -> Failure {
        Failure::permanent(format!(
            "espeak-ng here has no variant {:?}; it has {}",
            short(asked),
            some(self.variants.iter().map(|voice| voice.name.as_str()))
        ))
    }
}

/// One voice of a list. A file name with a blank in it makes the line ambiguous, and such a voice is passed over.
fn line(text: &str) -> Option<Voice> {
    let mut words = text.split_whitespace();
    let priority: u32 = words.next()?.parse().ok()?;
    let language = words.next()?.to_owned();
    let (_, name, file) = (words.next()?, words.next()?, words.next()?);
    let mut languages = vec![(language, priority)];
    let others: Vec<&str> = words.collect();
    for other in others.join(" ").split_inclusive(')') {
        let (name, priority) = other
            .trim()
            .strip_prefix('(')?
            .strip_suffix(')')?
            .split_once(' ')?;
        languages.push((name.to_owned(), priority.trim().parse().ok()?));
    }
    Some(Voice {
        name: name.to_owned(),
        file: file.to_owned(),
        languages,
    })
}

/// By name or file, with or without its folder.
fn find<'a>(voices: &'a [Voice], asked: &str) -> Option<&'a Voice> {
    let same = |name: &str| name.eq_ignore_ascii_case(asked);
    voices.iter().find(|voice| {
        let bare = voice.file.rsplit('/').next().unwrap_or_default();
        same(&voice.name) || same(&voice.file) || same(bare)
    })
}

/// A voice and a language that were both asked for have to go together.
fn agree(voice: &Voice, language: Option<&str>) -> Result<(), Failure> {
    let Some(language) = language else {
        return Ok(());
    };
    let language = language.replace('_', "-");
    let mut spoken = voice.languages.iter().map(|(name, _)| primary(name));
    if spoken.any(|name| name.eq_ignore_ascii_case(primary(&language))) {
        return Ok(());
    }
    Err(Failure::permanent(format!(
        "the voice {} speaks {}, not {:?}; leave out the voice or the language",
        voice.name,
        some(voice.languages.iter().map(|(name, _)| name.as_str())),
        short(&language)
    )))
}

/// `en` of `en-gb-scotland`.
fn primary(language: &str) -> &str {
    language.split('-').next().unwrap_or_default()
}

/// The first few names of many.
fn some<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    let shown = names.get(..SHOWN).unwrap_or(&names).join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more (`espeak-ng --voices`)"),
    }
}

fn short(name: &str) -> String {
    name.chars().take(SHOWN_NAME).collect()
}
