//! From a person's words to a task: `submit image "a koi pond"`.

use serde_json::{Map, Value, json};

use crate::Failure;
use crate::fields::parse_value;

/// What was typed on a command line.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// Task kind.
    pub kind: String,
    /// The words.
    pub text: String,
    /// Everything else that was given: `model`, `width`, `modelSource`.
    pub options: Map<String, Value>,
}

/// A task and a model source.
#[derive(Clone, Debug, PartialEq)]
pub struct Composed {
    /// `task` of the offer.
    pub task: Value,
    /// `modelSource` of the offer.
    pub model_source: Value,
}

impl Ask {
    pub(crate) fn parse(kind: String, text: String, options: &str) -> Result<Self, Failure> {
        let options = match options.trim() {
            "" => Map::new(),
            given => match parse_value("options", given)? {
                Value::Object(map) => map,
                _ => return Err(Failure::permanent("options must be a JSON object")),
            },
        };
        Ok(Self {
            kind,
            text,
            options,
        })
    }

    /// The model that was asked for, when one was.
    pub fn model(&self) -> Option<&str> {
        self.options.get("model").and_then(Value::as_str)
    }

    /// The model source that was given whole, when one was.
    pub fn model_source(&self) -> Option<&Value> {
        self.options.get("modelSource")
    }

    /// A task that holds the words under `field` and all other options as they are, and a model
    /// source: the one given, else one of this engine without files.
    pub fn compose(self, field: &str, engine: &str) -> Composed {
        let mut options = self.options;
        options.shift_remove("model");
        let given = options.shift_remove("modelSource");
        let mut task = Map::new();
        task.insert("kind".to_owned(), Value::String(self.kind));
        task.insert(field.to_owned(), Value::String(self.text));
        for (name, value) in options {
            task.entry(name).or_insert(value);
        }
        Composed {
            task: Value::Object(task),
            model_source: given.unwrap_or_else(|| source_without_files(engine)),
        }
    }
}

/// `modelSource` of an engine that needs no model, each field there that studios require.
fn source_without_files(engine: &str) -> Value {
    json!({
        "engine": engine,
        "files": [],
        "cliDefaults": { "cfgScale": 0.0, "steps": 0, "width": 0, "height": 0 },
    })
}
