//! The two kinds whose result is JSON.

use serde_json::{Map, Value, json};
use studio_plugin::{Ask, Composed, Finished, LlmTask, SttTask};

use crate::digest::hex16;

/// An OpenAI chat completion.
pub(crate) fn reply(task: &LlmTask) -> Finished {
    let joined = task
        .messages
        .iter()
        .map(|message| format!("{}: {}", message.role, message.content))
        .collect::<Vec<_>>()
        .join("\n");
    let prompt_tokens = joined.split_whitespace().count();
    // The length of the canned answer, as studios have always been told it.
    let completion_tokens = 8;
    Finished::json(&json!({
        "object": "chat.completion",
        "model": "synthetic-llm",
        "choices": [{
            "index": 0,
            "message": {
                "role": "assistant",
                "content": format!("[synthetic] reply to prompt #{}", hex16(&joined)),
            },
            "finish_reason": "stop",
        }],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }))
}

/// A transcript of one second.
pub(crate) fn transcript(task: &SttTask) -> Finished {
    let language = task.language.as_deref().unwrap_or("en");
    Finished::json(&json!({
        "text": format!("[synthetic] transcript of {}", hex16(&task.input_url)),
        "language": language,
        "duration": 1.0,
    }))
}

/// A conversation of one message, unless a whole one was given.
pub(crate) fn conversation(ask: Ask, engine: &str) -> Composed {
    let words = ask.text.clone();
    let mut composed = ask.compose("messages", engine);
    if let Value::Object(task) = &mut composed.task {
        let message: Map<String, Value> = [("role", "user"), ("content", &words)]
            .into_iter()
            .map(|(name, text)| (name.to_owned(), Value::String(text.to_owned())))
            .collect();
        task.insert("messages".to_owned(), json!([message]));
    }
    composed
}

#[cfg(test)]
mod tests {
    use super::*;
    use studio_plugin::{AnyTask, Fields, Output, Task};

    fn json_of(finished: &Finished) -> Value {
        match &finished.output {
            Output::Json(text) => serde_json::from_str(text).unwrap(),
            Output::Media(_) => panic!("not JSON"),
        }
    }

    fn task(kind: &str, text: &str) -> AnyTask {
        AnyTask::read(kind, Fields::parse("task", text).unwrap())
            .unwrap()
            .unwrap()
    }

    #[test]
    fn a_reply_counts_words_and_names_the_prompt() {
        let AnyTask::Llm(task) = task(
            "llm",
            r#"{"messages":[{"role":"system","content":"be brief"},{"role":"user","content":"hi"}]}"#,
        ) else {
            panic!("another kind");
        };
        let reply = json_of(&reply(&task));
        // printf 'system: be brief\nuser: hi' | sha256sum
        assert_eq!(
            reply["choices"][0]["message"]["content"],
            "[synthetic] reply to prompt #cc7971c75defb617"
        );
        assert_eq!(reply["usage"]["prompt_tokens"], 5);
        assert_eq!(reply["usage"]["total_tokens"], 13);
        assert_eq!(reply["model"], "synthetic-llm");
        assert_eq!(reply["choices"][0]["finish_reason"], "stop");
    }

    #[test]
    fn a_conversation_may_be_empty() {
        let AnyTask::Llm(task) = task("llm", r#"{"messages":[]}"#) else {
            panic!("another kind");
        };
        let reply = json_of(&reply(&task));
        assert_eq!(reply["usage"]["prompt_tokens"], 0);
        assert_eq!(
            reply["choices"][0]["message"]["content"],
            "[synthetic] reply to prompt #e3b0c44298fc1c14"
        );
    }

    #[test]
    fn a_transcript_is_in_the_language_asked_for() {
        for (language, expected) in [("", "en"), (r#","language":"nl""#, "nl")] {
            let text = format!(r#"{{"inputUrl":"https://h/a.wav"{language}}}"#);
            let AnyTask::Stt(task) = task("audio_stt", &text) else {
                panic!("another kind");
            };
            let transcript = json_of(&transcript(&task));
            assert_eq!(transcript["language"], expected);
            assert_eq!(transcript["duration"], 1.0);
            // printf 'https://h/a.wav' | sha256sum
            assert_eq!(
                transcript["text"],
                "[synthetic] transcript of cb4661cb9505ab1f"
            );
        }
    }
}
