//! From a script's JSON to effects, and from outcomes to JSON.
//!
//! The JSON is that of the contract's types as serde writes them (which is also what a journal
//! holds), made shorter: names of effects begin in lower case, absent lists are empty, absent
//! flags false, a text stands for its bytes, for a piece of a value or for a header's text, and
//! `inline_bytes` is 1 MiB unless it says otherwise.

use serde_json::{Map, Value, json};
use studio_plugin::{Effect, Failure, File, Finished, Outcome, Part};

/// Answers up to this size come back as bytes.
const INLINE_BYTES: u32 = 1 << 20;

/// The effect that an object names.
pub(crate) fn effect(value: Value, history: &[Outcome]) -> Result<Effect, Failure> {
    let mut value = resolve(value, history)?;
    let Some((name, content)) = value.as_object_mut().and_then(|map| map.iter_mut().next()) else {
        return Err(Failure::permanent("an effect is an object of one field"));
    };
    let name = name.clone();
    fill(&name, content);
    let mut named = Map::new();
    named.insert(capitalised(&name), content.take());
    serde_json::from_value(Value::Object(named))
        .map_err(|error| Failure::permanent(format!("{name}: {error}")))
}

/// What the job ends with: `json`, `text` or `file` with `ext`, or `failure`.
pub(crate) fn finish(value: Value, history: &[Outcome]) -> Result<Finished, Failure> {
    let value = resolve(value, history)?;
    let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    if let Some(message) = text("failure") {
        let retryable = value.get("retryable") == Some(&Value::Bool(true));
        return Err(Failure { message, retryable });
    }
    if let Some(json) = value.get("json") {
        return Ok(Finished::json(json));
    }
    let content = match (text("text"), value.get("file").and_then(Value::as_u64)) {
        (Some(text), _) => Part::Bytes(text.into_bytes()),
        (None, Some(id)) => Part::File(u32::try_from(id).unwrap_or(u32::MAX)),
        (None, None) => {
            return Err(Failure::permanent(
                "finish needs json, text, file or failure",
            ));
        }
    };
    let finished = Finished::media(content, text("ext").unwrap_or_else(|| "txt".to_owned()));
    Ok(match text("media_type") {
        Some(name) => finished.media_type(name),
        None => finished,
    })
}

/// The history as JSON.
pub(crate) fn dump(history: &[Outcome]) -> Result<Value, Failure> {
    serde_json::to_value(history).map_err(|error| Failure::permanent(error.to_string()))
}

/// Puts texts together for `{"join": ["a", "b"]}`, so that a script can name what does not stand in its offer, and puts
/// in the numbers of files for `{"from": [outcome, file]}`, or `[outcome, output, file]`
/// where the outcome is a program's exit.
fn resolve(value: Value, history: &[Outcome]) -> Result<Value, Failure> {
    Ok(match value {
        Value::Object(map) => match (map.get("from"), map.get("join")) {
            (Some(place), _) => json!(file_at(place, history)?.id),
            (None, Some(Value::Array(parts))) => {
                let parts = parts.iter().map(|part| part.as_str().unwrap_or_default());
                json!(parts.collect::<String>())
            }
            _ => Value::Object(
                map.into_iter()
                    .map(|(name, value)| Ok((name, resolve(value, history)?)))
                    .collect::<Result<_, Failure>>()?,
            ),
        },
        Value::Array(items) => Value::Array(
            items
                .into_iter()
                .map(|item| resolve(item, history))
                .collect::<Result<_, _>>()?,
        ),
        other => other,
    })
}

fn file_at<'a>(place: &Value, history: &'a [Outcome]) -> Result<&'a File, Failure> {
    let at = |depth: usize| {
        place
            .get(depth)
            .and_then(Value::as_u64)
            .and_then(|number| usize::try_from(number).ok())
    };
    let outcome = at(0).and_then(|number| history.get(number));
    match outcome {
        Some(Outcome::Files(files)) => at(1).and_then(|number| files.get(number)),
        Some(Outcome::Exited(exit)) => at(1)
            .and_then(|output| exit.outputs.get(output))
            .and_then(|files| files.get(at(2).unwrap_or(0))),
        _ => None,
    }
    .ok_or_else(|| Failure::permanent(format!("the history has no file at {place}")))
}

fn fill(name: &str, content: &mut Value) {
    match name {
        "run" => fill_command(content),
        "http" => fill_request(content),
        "call" => {
            fill_command(content);
            if let Some(request) = content.get_mut("request") {
                fill_request(request);
            }
            if let Some(request) = content.get_mut("on_cancel").filter(|it| !it.is_null()) {
                fill_request(request);
            }
        }
        "write" => {
            if let Some(parts) = content.get_mut(1) {
                fill_parts(parts);
            }
        }
        _ => {}
    }
}

fn fill_command(command: &mut Value) {
    default(command, "environment", json!([]));
    default(command, "arguments", json!([]));
    default(command, "outputs", json!([]));
    default(command, "input", json!([]));
    each(command, "arguments", |argument| {
        if let Some(text) = argument.as_str() {
            *argument = json!({ "Positional": [{ "Text": text }] });
        }
        if let Some(setting) = argument.get_mut("Setting") {
            default(setting, "equals", json!(false));
            each(setting, "value", fill_piece);
        }
        each(argument, "Positional", fill_piece);
    });
    if let Some(input) = command.get_mut("input") {
        fill_parts(input);
    }
}

fn fill_request(request: &mut Value) {
    default(request, "method", json!("GET"));
    default(request, "headers", json!([]));
    default(request, "body", json!([]));
    default(request, "inline_bytes", json!(INLINE_BYTES));
    each(request, "headers", |header| {
        if let Some(Value::String(text)) = header.get(1) {
            let text = json!({ "Text": text });
            if let Some(slot) = header.get_mut(1) {
                *slot = text;
            }
        }
    });
    if let Some(body) = request.get_mut("body") {
        fill_parts(body);
    }
}

fn fill_parts(parts: &mut Value) {
    for part in parts.as_array_mut().into_iter().flatten() {
        if let Some(text) = part.as_str() {
            *part = json!({ "Bytes": text.as_bytes() });
        }
    }
}

fn fill_piece(piece: &mut Value) {
    if let Some(text) = piece.as_str() {
        *piece = json!({ "Text": text });
    }
}

fn default(value: &mut Value, name: &str, missing: Value) {
    if let Value::Object(map) = value {
        map.entry(name).or_insert(missing);
    }
}

fn each(value: &mut Value, name: &str, change: impl Fn(&mut Value)) {
    if let Some(Value::Array(items)) = value.get_mut(name) {
        items.iter_mut().for_each(change);
    }
}

fn capitalised(name: &str) -> String {
    let mut letters = name.chars();
    letters
        .next()
        .map(|first| first.to_ascii_uppercase())
        .into_iter()
        .chain(letters)
        .collect()
}
