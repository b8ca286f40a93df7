//! A task from a person's words: `submit audio_tts "hello" --model espeak`, or `--model espeak:de`.

use studio_plugin::{Ask, Composed, Failure};

use crate::ENGINE;

/// Makes the task. The model's name may carry a voice after a colon.
pub(crate) fn compose(mut ask: Ask) -> Result<Composed, Failure> {
    if ask.kind != "audio_tts" {
        return Err(Failure::permanent(format!(
            "{ENGINE} engine cannot serve {} tasks; it makes audio_tts",
            ask.kind
        )));
    }
    if ask.model_source().is_none() {
        let model = ask.model().unwrap_or(ENGINE).to_owned();
        let (name, voice) = match model.split_once(':') {
            Some((name, voice)) => (name, Some(voice)),
            None => (model.as_str(), None),
        };
        if name != ENGINE {
            return Err(Failure::permanent(format!(
                "{ENGINE} has no model {model:?}; pass --model espeak, or --model espeak:VOICE with a voice that \
                 `espeak-ng --voices` lists"
            )));
        }
        if let Some(voice) = voice.filter(|voice| !voice.is_empty() && *voice != "*") {
            ask.options
                .entry("voice")
                .or_insert_with(|| voice.to_owned().into());
        }
    }
    Ok(ask.compose("text", ENGINE))
}
