//! From a person's words to a task: the engine plugin composes it.

use std::sync::Arc;

use serde_json::{Map, Value};
use worker_plugins::{Engine, Generation, Serving};
use worker_studio::{Compose, ComposeError, ComposeFuture, Composed};

/// Composes through the engines that serve at the moment.
pub(crate) struct EngineComposer(pub(crate) Arc<Serving>);

impl Compose for EngineComposer {
    fn compose(
        &self,
        kind: String,
        text: String,
        model: Option<String>,
        options: Value,
    ) -> ComposeFuture {
        let generation = self.0.current();
        Box::pin(async move { compose(&generation, kind, text, model, options).await })
    }
}

async fn compose(
    generation: &Generation,
    kind: String,
    text: String,
    model: Option<String>,
    options: Value,
) -> Result<Composed, ComposeError> {
    let mut options = match options {
        Value::Object(map) => map,
        Value::Null => Map::new(),
        _ => {
            return Err(ComposeError::Failed {
                message: "options must be a JSON object".to_owned(),
            });
        }
    };
    let asked = options
        .get("modelSource")
        .and_then(|source| source.get("engine"))
        .and_then(Value::as_str);
    let (engine, model) = choose(generation, &kind, model, asked)?;
    if !model.is_empty() {
        options
            .entry("model")
            .or_insert_with(|| model.clone().into());
    }
    let composed = engine
        .compose(&kind, &text, &Value::Object(options).to_string())
        .await;
    match composed {
        Ok(Ok((task, model_source))) => Ok(Composed {
            model,
            vram_gb_estimate: gib_of_files(&model_source),
            task,
            model_source,
        }),
        Ok(Err(failure)) => Err(ComposeError::Failed {
            message: failure.message,
        }),
        Err(fault) => Err(ComposeError::Failed {
            message: fault.to_string(),
        }),
    }
}

/// What a model's files come to in GiB, as far as their sizes are given, which is about what they take of a GPU's memory.
/// 0, which is "not known" to everybody who reads it, where none is.
fn gib_of_files(model_source: &str) -> f32 {
    const GIB: f64 = 1_073_741_824.0;
    let source: Value = serde_json::from_str(model_source).unwrap_or_default();
    let files = source.get("files").and_then(Value::as_array);
    let bytes = files
        .into_iter()
        .flatten()
        .filter_map(|file| file.get("approxBytes")?.as_u64())
        .fold(0_u64, u64::saturating_add);
    (bytes as f64 / GIB) as f32
}

/// The engine for a kind: the one that a model source names, else the first that lists the model, else the first of
/// the kind, in the operator's order. A name that ends in `*` stands for any model.
fn choose(
    generation: &Generation,
    kind: &str,
    model: Option<String>,
    named: Option<&str>,
) -> Result<(Arc<Engine>, String), ComposeError> {
    let serving: Vec<(&Arc<Engine>, &[String])> = generation
        .engines()
        .iter()
        .filter_map(|engine| {
            let kinds = &engine.description().kinds;
            kinds
                .iter()
                .find(|served| served.kind == kind)
                .map(|served| (engine, served.models.as_slice()))
        })
        .collect();
    if serving.is_empty() {
        let all = generation
            .engines()
            .iter()
            .flat_map(|engine| &engine.description().kinds);
        let mut known: Vec<String> = all.map(|served| served.kind.clone()).collect();
        known.sort();
        known.dedup();
        return Err(ComposeError::UnknownKind { known });
    }
    let by_name = named.and_then(|name| {
        serving
            .iter()
            .find(|(e, _)| e.description().engines.iter().any(|n| n == name))
    });
    if let Some((engine, models)) = by_name {
        let model = model
            .or_else(|| concrete(models))
            .unwrap_or_else(|| kind.to_owned());
        return Ok(((*engine).clone(), model));
    }
    let chosen = match &model {
        Some(model) => serving
            .iter()
            .find(|(_, models)| models.contains(model))
            .or_else(|| {
                serving
                    .iter()
                    .find(|(_, models)| models.iter().any(|name| name.ends_with('*')))
            })
            .map(|(engine, _)| ((*engine).clone(), model.clone())),
        None => serving
            .first()
            .map(|(engine, models)| ((*engine).clone(), concrete(models).unwrap_or_default())),
    };
    chosen.ok_or_else(|| ComposeError::UnknownModel {
        known: serving
            .iter()
            .flat_map(|(_, models)| models.iter().cloned())
            .collect(),
    })
}

fn concrete(models: &[String]) -> Option<String> {
    models.iter().find(|name| !name.ends_with('*')).cloned()
}
